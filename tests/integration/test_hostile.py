"""Hostile clients: whatever they send to whatever method, every process stays up and every call is answered clearly."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import pytest

from proto.etcd import rpc_pb2 as etcd
from proto.methods import METHODS, Kind
from proto.regatta import regatta_pb2 as regatta
from tests.conformance.lengths import seeds
from tests.integration.cluster import Cluster
from tests.integration.hostile import (
    Composer,
    GrpcClient,
    Outcome,
    frame,
    framed,
    metadata,
    paths,
    request_type,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OK, UNKNOWN = 0, 2
TABLES: Final = ("victim", "other")
"""Besides "default", which belongs to ordinary clients."""
TOGETHER: Final = 80
"""Calls at a time."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("hostile")
    # Local: no other cluster, nor who says that he is one, has a word in them.
    tables: dict[str, dict[str, object]] = {table: {"type": "local"} for table in ("default", *TABLES)}
    settings = {"auth": {"bcrypt_cost": 4}}
    with Cluster(folder, nodes=1, shards=2, tables=tables, settings=settings) as cluster:
        cluster.wait_leaders()
        yield cluster


@pytest.fixture(autouse=True)
def nothing_breaks(cluster: Cluster) -> Iterator[None]:
    """No process ends, none says that it has met a bug, and ordinary clients are served before and after."""
    before = {report.name: report.pid for report in cluster.reports()}
    lines = {path: len(path.read_text().splitlines()) for path in logs(cluster)}
    serve(cluster)
    yield
    serve(cluster)
    assert {report.name: report.pid for report in cluster.reports()} == before, cluster.describe()
    said = [line for path in logs(cluster) for line in path.read_text().splitlines()[lines.get(path, 0) :]]
    wrong = [
        line for line in said if "Traceback" in line or json.loads(line).get("level") in {"error", "critical"}
    ]
    assert not wrong, "\n".join(wrong[:5])


def logs(cluster: Cluster) -> list[Path]:
    return sorted((cluster.folder / "data").glob("*/logs/*.log"))


def serve(cluster: Cluster) -> None:
    """A table of its own, since hostile clients may do to a table what clients may."""
    with GrpcClient(cluster.endpoints[0]) as client:
        put = etcd.PutRequest(key=b"alive", value=b"yes").SerializeToString()
        outcome = client.call("/etcdserverpb.KV/Put", frame(put), [("table", "default")])
        client.finish()
    assert outcome.code == OK, outcome


def make_anew(client: GrpcClient) -> None:
    """The tables that hostile clients may have deleted, or made useless by an alarm."""
    for table in TABLES:
        client.call(
            "/regatta.v1.Tables/Delete", frame(regatta.DeleteTableRequest(name=table).SerializeToString())
        )
        client.finish()
        client.call(
            "/regatta.v1.Tables/Create", frame(regatta.CreateTableRequest(name=table).SerializeToString())
        )
        client.finish()


def is_clear(outcome: Outcome) -> bool:
    """Whether the call got a status that says what was wrong with it."""
    text = outcome.text
    match outcome.code:
        case None:
            return False
        case 13:  # INTERNAL, as grpc-go says of what it can't read
            return text.startswith(("grpc: ", "malformed grpc-", "metadata "))
        case 2:  # UNKNOWN: etcd's own, untranslated, and what a client without gRPC makes of its HTTP status
            return text.startswith(
                ("etcdserver: ", "auth: ", "mutex: ", "election: ", '"leader" field', "this port")
            )
        case 15:  # DATA_LOSS: somebody has raised the alarm
            return text.startswith(("etcdserver: corrupt cluster", "the table is marked as corrupt"))
        case 0:
            return True
        case _:
            return bool(text)


@pytest.mark.parametrize("seed", seeds(1))
def test_by_grpc(cluster: Cluster, seed: int) -> None:
    composer = Composer(random.Random(seed), TABLES)
    calls = [path for path in paths() for _ in range(12)]
    composer.rng.shuffle(calls)
    with GrpcClient(cluster.endpoints[0]) as client:
        unclear = []
        for first in range(0, len(calls), TOGETHER):
            outcomes = [
                client.call(
                    path, framed(composer, composer.body(request_type(path))), metadata(composer, "victim")
                )
                for path in calls[first : first + TOGETHER]
            ]
            client.finish()
            make_anew(client)
            unclear += [str(outcome) for outcome in outcomes if not is_clear(outcome)]
    assert not unclear, "\n".join(unclear[:10])


@pytest.mark.parametrize("seed", seeds(1))
def test_by_the_json_gateway(cluster: Cluster, seed: int) -> None:
    composer = Composer(random.Random(seed), TABLES)
    pages = [(path, page) for path, method in METHODS.items() for page in method.http for _ in range(8)]
    composer.rng.shuffle(pages)
    node = cluster.config.node("n1")
    unclear = []
    for path, page in pages:
        body = composer.text(request_type(path))
        answer = post(
            composer.rng.choice((node.client_endpoint, node.http_endpoint)),
            page,
            body,
            waits=METHODS[path].waits or METHODS[path].kind is not Kind.UNARY,
        )
        if not is_clear_page(answer):
            unclear.append(f"{page} {body[:200]!r}: {answer}")
    assert not unclear, "\n".join(unclear[:10])


def post(endpoint: str, page: str, body: bytes, *, waits: bool) -> tuple[int, bytes]:
    """The status and the answer. waits: it need not answer soon, or ever; 200 without an answer then."""
    connection = http.client.HTTPConnection(endpoint, timeout=0.1 if waits else 20)
    try:
        connection.request("POST", page, body, {"Grpc-Metadata-Table": "victim"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except TimeoutError:
        if not waits:
            raise
        return HTTPStatus.OK, b""
    finally:
        connection.close()


def is_clear_page(answer: tuple[int, bytes]) -> bool:
    status, body = answer
    if status == HTTPStatus.OK:
        return True
    told = json.loads(body)["error"]
    if isinstance(told, str):
        code, text = json.loads(body)["code"], told
    else:
        code, text = told["grpc_code"], told["message"]
    return is_clear(Outcome("", code, text)) or (
        code == UNKNOWN and text.startswith("the body does not begin")
    )


@pytest.mark.parametrize("seed", seeds(1))
def test_what_is_no_request_at_all(cluster: Cluster, seed: int) -> None:
    rng = random.Random(seed)
    node = cluster.config.node("n1")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    beginnings = (
        b"",
        preface,
        preface + b"\0\0\0\4\0\0\0\0\0",
        b"GET /health HTTP/1.1\r\n",
        b"POST /v3/kv/put HTTP/1.1\r\n",
    )
    for _ in range(60):
        endpoint = rng.choice((node.client_endpoint, node.http_endpoint))
        host, _, port = endpoint.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(rng.choice(beginnings) + rng.randbytes(rng.choice((0, 3, 9, 40, 3_000))))
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1 << 16):
                    pass
