"""The token of who runs the cluster: Regatta's codes and texts, and where none is needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from config import ClusterConfig
from config.key_files import BadTokenKey
from config.loading import parse
from config.problems import ConfigError
from coordinator.api.local_call import LocalCall
from coordinator.auth.bearer import Bearers
from proto import errors
from proto.regatta import regatta_pb2 as regatta
from tests.stubs import stub
from tests.unit.coordinator.running import in_loop, make_config, refused, running

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "a token of eight or more"


def token_file(folder: Path, content: str = TOKEN + "\n", mode: int = 0o600) -> Path:
    file = folder / "token"
    file.write_text(content)
    file.chmod(mode)
    return file


def with_token(folder: Path, **changes: Any) -> ClusterConfig:
    file = str(token_file(folder))
    document = make_config(folder, nodes=1, shards=1).model_dump(mode="json", exclude_unset=True)
    return ClusterConfig.model_validate(
        document | {"tokens": {"tables": file, "maintenance": file}} | changes
    )


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (None, "Request unauthenticated with bearer"),
        ("", "Request unauthenticated with bearer"),
        (TOKEN.replace(" ", "-"), "Bad authorization string"),
        (f"Basic {TOKEN}", "Request unauthenticated with bearer"),
        (f"Bearer {TOKEN}x", "Invalid token"),
        ("Bearer ", "Invalid token"),
        (f"bearer {TOKEN}", ""),
        (f"Bearer {TOKEN}", ""),
    ],
)
def test_the_token_is_asked_for_before_all_else(tmp_path: Path, shown: str | None, text: str) -> None:
    @in_loop
    async def scenario() -> None:
        metadata = () if shown is None else (("authorization", shown),)
        async with running(tmp_path, config=with_token(tmp_path)) as cluster:
            tables = stub(cluster.channel, regatta, "Tables")
            if not text:
                await tables.List(regatta.ListTablesRequest(), metadata=metadata)
                return
            for call in (
                tables.List(regatta.ListTablesRequest(), metadata=metadata),
                tables.Create(regatta.CreateTableRequest(), metadata=metadata),
                cluster.raw("/maintenance.v1.Maintenance/Reset")(b"", metadata=metadata),
            ):
                assert await refused(call) == ("UNAUTHENTICATED", text)
            # KV and Cluster have no token.
            await stub(cluster.channel, regatta, "Cluster").Status(regatta.StatusRequest())

    scenario()


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        (TOKEN, 0o644, "can be read by others than its owner; chmod 600 it"),
        ("short", 0o600, "holds no token: at least 8 printable ASCII characters"),
        ("ümläutümläut", 0o600, "holds no token"),
        ("two\nlines of it", 0o600, "holds no token"),
    ],
)
def test_a_file_that_is_no_token_is_refused_at_the_start(
    tmp_path: Path, content: str, mode: int, complaint: str
) -> None:
    config = with_token(tmp_path)
    token_file(tmp_path, content, mode)
    with pytest.raises(BadTokenKey, match=complaint):
        Bearers(config, config.node("n1"))


@pytest.mark.parametrize(
    ("host", "extra", "is_served"),
    [
        ("127.0.0.1", "", True),
        ("10.0.0.1", "insecure: true\n", True),
        ("10.0.0.1", "tls: {client: {cert: c, key: k}, peer: {keys: d}}\n", False),
        (
            "10.0.0.1",
            "tls: {client: {cert: c, key: k, ca: a, client_cert_auth: true}, peer: {keys: d}}\n",
            True,
        ),
    ],
)
def test_where_others_can_reach_it_somebody_has_to_be_told_from_them(
    host: str, extra: str, *, is_served: bool
) -> None:
    config = parse(f"nodes: {{n1: {{host: {host}}}}}\n{extra}", "f")

    async def handler(_call: object) -> bytes:
        return b"served"

    guarded = Bearers(config, config.node("n1")).guarded("/maintenance.v1.Maintenance/Backup", handler)

    async def ask() -> bytes | None:
        return await guarded(LocalCall((b"",), metadata={}, deadline=0.0, peer="test"))

    if is_served:
        assert asyncio.run(ask()) == b"served"
    else:
        with pytest.raises(errors.Unguarded, match=r"tokens\.maintenance in the cluster file"):
            asyncio.run(ask())


def test_an_unknown_token_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"f:2.*tokens\.backups"):
        parse("nodes: {n1: {}}\ntokens: {backups: f}\n", "f")
