"""`boathouse top` attached to a plain etcd: what etcd's own API shows, and nothing made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto.etcd import rpc_pb2 as rpc
from tools.admin.attachment import EndpointAttachment, NotDone
from tools.admin.client import KvClient
from tools.admin.diagnosis import diagnose
from tools.admin.quorum import Verb
from tools.admin.reach import IN_THE_CLEAR
from tools.tui.frame import frame
from tools.tui.scene import Scene, Trend

if TYPE_CHECKING:
    from tools.admin.snapshot import Snapshot

from config.process.names import ProcessName


def test_a_member_is_a_node_and_its_keyspace_a_table(etcd_endpoint: str) -> None:
    with EndpointAttachment([etcd_endpoint], IN_THE_CLEAR) as attached:
        snapshot = attached.poll()
        assert snapshot.is_etcd
        assert snapshot.problems == []
        (node,), (shard,) = snapshot.nodes, snapshot.shards
        assert (node.endpoint, node.is_up, shard.leader) == (etcd_endpoint, True, node.name)
        (replica,) = shard.replicas
        assert replica.is_leader
        assert replica.commit_index
        assert (replica.sync_p99_us, replica.queued, snapshot.processes) == (None, None, ())
        assert diagnose(snapshot) == []
        assert "shards 1/1 have a leader" in text_of(snapshot)
        with pytest.raises(NotDone):
            attached.act(Verb.RESTART, ProcessName.replica(node.name, 1), None, force=False)


def test_its_keys_and_their_history(etcd_endpoint: str) -> None:
    with KvClient([etcd_endpoint], None, 10) as client:
        for value in (b"one", b"two"):
            client.put(rpc.PutRequest(key=b"top/key", value=value))
    with EndpointAttachment([etcd_endpoint], IN_THE_CLEAR) as attached:
        (table,) = attached.poll().tables
        reader = attached.table(table.name)
        assert b"top/key" in [row.key for row in reader.page(b"top/").rows]
        assert [row.value for row in reader.history(b"top/key")] == [b"two", b"one"]


def test_nobody_at_home_is_said_so() -> None:
    with EndpointAttachment(["127.0.0.1:1"], IN_THE_CLEAR) as attached:
        snapshot = attached.poll()
    assert snapshot.nodes == []
    assert len(snapshot.problems) == 1
    assert "127.0.0.1:1" in snapshot.problems[0]


def text_of(snapshot: Snapshot) -> str:
    return "\n".join(frame(Scene.of(snapshot, Trend(), now=snapshot.taken_at, file="FILE"), 120))
