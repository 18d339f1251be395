"""From what was counted to what Prometheus reads."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from coordinator.metrics.calls import call_families, watch_families
from coordinator.metrics.processes import process_families
from coordinator.metrics.replicas import replica_families
from proto.codes import Code
from proto.histogram import CALL_BOUNDS_S, Histogram
from proto.ids import ShardId
from proto.internal import figures_pb2 as figures
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

PUT, WATCH = "/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch"


def samples(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """By name and label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def seconds(*durations: float) -> frames.Histogram:
    histogram = Histogram(CALL_BOUNDS_S)
    for duration in durations:
        histogram.observe(duration)
    return histogram.to_frame()


def coordinator(process: str, *methods: figures.MethodFigures) -> figures.CoordinatorFigures:
    watched = [figures.WatchFigures(table="t", watchers=7, behind=2, lag_revisions=40)]
    return figures.CoordinatorFigures(process=process, methods=methods, watched=watched)


def test_calls_are_told_by_method_code_and_table() -> None:
    put = figures.MethodFigures(
        path=PUT,
        tables={"a": seconds(0.002, 0.2), "b": seconds(0.002)},
        failures={Code.DEADLINE_EXCEEDED: 1},
        under_way=2,
    )
    told = samples(call_families([coordinator("coordinator", put)]))
    labels = ("coordinator", "unary", "etcdserverpb.KV", "Put")
    assert told["grpc_server_started_total", *labels] == 5
    assert told["etcd_server_client_requests_total", "coordinator", "unary"] == 5
    assert told["grpc_server_handled_total", *labels, "OK"] == 2
    assert told["grpc_server_handled_total", *labels, "DeadlineExceeded"] == 1
    assert told["grpc_server_msg_received_total", *labels] == 5
    assert told["grpc_server_msg_sent_total", *labels] == 2
    assert told["grpc_server_handling_seconds_bucket", *labels, "0.0025"] == 2
    assert told["grpc_server_handling_seconds_bucket", *labels, "+Inf"] == 3
    assert told["grpc_server_handling_seconds_count", *labels] == 3
    assert told["boathouse_call_duration_seconds_bucket", *labels, "a", "0.0025"] == 1
    assert told["boathouse_call_duration_seconds_count", *labels, "b"] == 1


def test_a_method_that_nobody_called_is_there_from_the_start() -> None:
    told = samples(call_families([coordinator("coordinator", figures.MethodFigures(path=PUT))]))
    labels = ("coordinator", "unary", "etcdserverpb.KV", "Put")
    assert told["grpc_server_started_total", *labels] == told["grpc_server_handled_total", *labels, "OK"] == 0
    assert not [name for name, *_ in told if name.startswith("grpc_server_handling")]


def test_messages_of_streams_are_counted_and_those_of_calls_follow() -> None:
    watch = figures.MethodFigures(path=WATCH, under_way=1, received=3, sent=9)
    told = samples(call_families([coordinator("coordinator-2", watch)]))
    labels = ("coordinator-2", "bidi_stream", "etcdserverpb.Watch", "Watch")
    assert told["grpc_server_started_total", *labels] == 1
    assert told["grpc_server_msg_received_total", *labels] == 3
    assert told["grpc_server_msg_sent_total", *labels] == 9


def test_each_coordinator_of_a_node_has_series_of_its_own() -> None:
    told = samples(watch_families([coordinator("coordinator-1"), coordinator("coordinator-2")]))
    for number in ("1", "2"):
        assert told["boathouse_watchers", f"coordinator-{number}", "t"] == 7
        assert told["boathouse_watchers_behind", f"coordinator-{number}", "t"] == 2
        assert told["boathouse_watch_lag_revisions", f"coordinator-{number}", "t"] == 40
        assert told["etcd_debugging_mvcc_watcher_total", f"coordinator-{number}", "t"] == 7


def test_a_replica_is_told_by_etcds_names_too() -> None:
    status = frames.ReplicaStatus(shard=3, node=1, leader=1)
    status.statistics.update({"leader_changes": 4, "slow_read_rounds": 2, "defragments_waiting": 3})
    status.tables.add(name="t", auth_revision=6)
    status.commands.update({frames.ETCD_PUT: 5, frames.REGATTA_PUT: 6, frames.LEASE_GRANT: 1})
    status.reads[frames.ETCD_RANGE] = 9
    status.durations["wal_fsync"].CopyFrom(frames.Histogram(counts=[2, 1, *[0] * 13], sum_s=0.004))
    status.peers.add(node=2, sent_bytes=100, received_bytes=50, lost_messages=1)
    status.commit_index = 90
    status.progress.add(node=2, match_index=50)
    status.progress.add(node=4, match_index=95)  # of entries that are not committed yet
    told = samples(replica_families({ShardId(3): status, ShardId(4): None}, lambda node: f"ab{node}"))
    assert told["boathouse_replica_up", "3"] == 1
    assert told["boathouse_replica_up", "4"] == 0
    assert told["dragonboat_raftnode_has_leader", "3", "1"] == 1
    assert told["etcd_server_leader_changes_seen_total", "3"] == 4
    assert told["etcd_server_slow_read_indexes_total", "3"] == 2
    assert told["etcd_disk_defrag_inflight", "3"] == 1
    assert told["etcd_debugging_auth_revision", "3", "t"] == 6
    assert told["etcd_mvcc_put_total", "3"] == 11
    assert told["etcd_mvcc_range_total", "3"] == 9
    assert told["etcd_mvcc_txn_total", "3"] == 0
    assert told["etcd_debugging_lease_granted_total", "3"] == 1
    assert told["etcd_disk_wal_fsync_duration_seconds_bucket", "3", "0.001"] == 2
    assert told["etcd_disk_wal_fsync_duration_seconds_bucket", "3", "0.002"] == 3
    assert told["etcd_disk_wal_fsync_duration_seconds_sum", "3"] == 0.004
    assert told["etcd_disk_backend_commit_duration_seconds_count", "3"] == 0
    assert told["etcd_network_peer_sent_bytes_total", "3", "ab2"] == 100
    assert told["etcd_network_peer_received_bytes_total", "3", "ab2"] == 50
    assert told["etcd_network_peer_sent_failures_total", "3", "ab2"] == 1
    assert told["boathouse_replica_peer_behind_entries", "3", "ab2"] == 40
    assert told["boathouse_replica_peer_behind_entries", "3", "ab4"] == 0


def test_descriptors_of_a_process_are_told_by_etcds_names_with_what_it_may_have() -> None:
    told = samples(process_families({"coordinator": os.getpid(), "shard-1": 2**22}))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert told["os_fd_limit", "coordinator"] == limit
    assert 0 < told["os_fd_used", "coordinator"] <= limit
    assert ("os_fd_limit", "shard-1") not in told, "there is no such process"
