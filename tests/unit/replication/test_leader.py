"""Which cluster that answers is one to copy from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from config import FollowsConfig
from coordinator.replication.leader import (
    LOG_SILENCE_S,
    METADATA_S,
    PAIRS_SILENCE_S,
    SHARDS_S,
    Leader,
    Unfit,
    check_identity,
    check_no_circle,
)
from proto.catalog import Lead
from proto.methods import METHODS
from proto.regatta import replication_pb2 as replication
from proto.regatta.replication_pb2 import MetadataResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

OLD, NEW = "a" * 32, "b" * 32


def follows(identity: str | None = None) -> FollowsConfig:
    return FollowsConfig(cluster="harbour", endpoints=["h1:1"], identity=identity)


def test_the_first_one_that_answers_is_followed_and_no_other_of_its_name() -> None:
    check_identity(MetadataResponse(cluster="harbour", identity=OLD), follows(), "")
    check_identity(MetadataResponse(cluster="harbour", identity=OLD), follows(), OLD)
    with pytest.raises(Unfit, match=f"follows.identity: {NEW}"):
        check_identity(MetadataResponse(cluster="harbour", identity=NEW), follows(), OLD)
    with pytest.raises(Unfit, match="'reef' answers"):
        check_identity(MetadataResponse(cluster="reef", identity=OLD), follows(), "")


def test_what_the_file_says_counts_more_than_what_is_remembered() -> None:
    check_identity(MetadataResponse(cluster="harbour", identity=NEW), follows(NEW), OLD)
    with pytest.raises(Unfit):
        check_identity(MetadataResponse(cluster="harbour", identity=OLD), follows(NEW), OLD)


def test_clusters_that_follow_each_other_copy_nothing_until_one_is_promoted() -> None:
    def told(epoch: int, *, follows: bool) -> MetadataResponse:
        lead = replication.Lead(epoch=epoch, cluster="island")
        return MetadataResponse(cluster="harbour", lead=lead, follows=follows)

    known = Lead(1, "harbour")
    with pytest.raises(Unfit, match="promote one of them"):
        check_no_circle(told(1, follows=True), known)
    for follows in (False, True):
        check_no_circle(
            told(2, follows=follows), known
        )  # the island is being promoted, and the harbour has given way


def test_an_earlier_version_goes_by_its_name() -> None:
    check_identity(MetadataResponse(cluster="harbour"), follows(), OLD)


def test_a_node_of_regattas_is_not_waited_for_for_ever() -> None:
    silences: dict[str, float | None] = {}

    class Recording:
        async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
            raise AssertionError(path)

        async def stream(
            self, path: str, request: bytes, timeout_s: float | None, silence_s: float | None = None
        ) -> AsyncGenerator[bytes]:
            silences[path] = silence_s
            return
            yield b""

    async def ask() -> None:
        leader = Leader("island", Recording())
        assert [told async for told in leader.log("t", 1)] == []
        assert [told async for told in leader.pairs("t")] == []

    asyncio.run(ask())
    assert silences == {
        "/replication.v1.Log/Replicate": LOG_SILENCE_S,
        "/replication.v1.Snapshot/Stream": PAIRS_SILENCE_S,
    }


def test_what_takes_the_shards_of_many_tables_has_the_time_for_that() -> None:
    times_s: list[float] = []

    class Recording:
        async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
            assert METHODS[path].waits, "nobody else ends it"
            times_s.append(timeout_s)
            return b""

        def stream(
            self, path: str, request: bytes, timeout_s: float | None, silence_s: float | None = None
        ) -> AsyncGenerator[bytes]:
            raise AssertionError(path)

    async def ask() -> None:
        leader = Leader("island", Recording())
        await leader.metadata()
        await leader.metadata(positions=True)
        await leader.metadata(replication.Lead(epoch=2, cluster="island"))

    asyncio.run(ask())
    assert times_s == [METADATA_S, SHARDS_S, SHARDS_S]
