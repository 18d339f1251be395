"""Whose keys a replica is to let in: of its own shard's members by its log, of the others by a coordinator's word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.internal import frames_pb2 as frames
from proto.internal.curve import PeerKeys
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import CLIENT, Bench

if TYPE_CHECKING:
    from pathlib import Path

Step = frames.MembershipStep
OWN, OTHER = b"o" * 40, b"t" * 40


def test_keys_come_with_the_membership_and_from_coordinators(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "leader", members(1, 2, 3))
    bench.lead()
    record = frames.NodeRecord(member_id=4, peer_urls=["http://127.0.0.9:9040"], peer_key=OWN)
    steps = [Step(kind=Step.ADD_LEARNER, node=4, record=record)]
    bench.ask(frames.CHANGE_MEMBERSHIP, frames.ChangeMembership(steps=steps).SerializeToString())
    bench.acknowledge(2)
    assert bench.member_keys == {4: OWN}
    told = frames.Envelope(node_keys=frames.NodeKeys(keys={5: OTHER}))
    bench.replica.handle(CLIENT, told)
    assert bench.member_keys == {4: OWN, 5: OTHER}
    bench.replica.handle(CLIENT, frames.Envelope(node_keys=frames.NodeKeys()))
    assert bench.member_keys == {4: OWN}, "who left everywhere is let in no more"
    bench.store.close()


def test_the_file_goes_before_what_members_say() -> None:
    keys = PeerKeys(b"p", b"s", {1: b"p", 2: b"file"}, {2: b"log", 3: b"new"})
    assert (keys.of(2), keys.of(3), keys.of(4)) == (b"file", b"new", None)
    assert keys.is_known(b"file")
    assert keys.is_known(b"new")
    assert not keys.is_known(b"log"), "an old key of a node that has another now"
