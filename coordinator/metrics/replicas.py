"""What the replicas of a node say of themselves, in Prometheus's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.metrics.families import counter, gauge, histogram
from proto.histogram import DISK_BOUNDS_S
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from proto.ids import ShardId

    Statuses = Mapping[ShardId, frames.ReplicaStatus | None]
    """By shard; None for a replica that does not answer."""

REPLICA: Final[Mapping[str, tuple[str, Callable[[frames.ReplicaStatus], float]]]] = {
    "boathouse_replica_fault": (
        "1 if the replica found that its data is damaged or differs from the other replicas', and stopped serving.",
        lambda status: bool(status.fault),
    ),
    "boathouse_replica_newer_protocol": (
        "Version of the protocol between nodes in which somebody spoke lately, too new for this build; 0: nobody.",
        lambda status: status.newer_protocol,
    ),
    "boathouse_replica_no_space": (
        "1 if the replica refuses writes because its disk is full.",
        lambda status: status.no_space,
    ),
    "boathouse_replica_has_leader": (
        "1 if the replica knows a leader of its shard.",
        lambda status: status.leader != 0,
    ),
    "boathouse_replica_is_leader": (
        "1 if the replica leads its shard.",
        lambda status: status.leader == status.node,
    ),
    "boathouse_replica_term": ("Raft term.", lambda status: status.term),
    "boathouse_replica_commit_index": (
        "Raft index up to which the replica knows the log to be committed.",
        lambda status: status.commit_index,
    ),
    "boathouse_replica_applied_index": (
        "Raft index up to which the replica has applied the log.",
        lambda status: status.applied_index,
    ),
    "boathouse_replica_database_bytes": (
        "Size of the replica's database file.",
        lambda status: status.database_bytes,
    ),
    "boathouse_replica_database_in_use_bytes": (
        "Part of the replica's database file that holds data.",
        lambda status: status.database_in_use_bytes,
    ),
    # By etcd's names, for the dashboards and alerts that people have. What is one figure of an etcd is one of each
    # replica here.
    "etcd_server_has_leader": ("1 if a leader exists, 0 if not.", lambda status: status.leader != 0),
    "etcd_server_is_leader": (
        "1 if the replica is the leader, 0 if not.",
        lambda status: status.leader == status.node,
    ),
    "etcd_server_is_learner": (
        "1 if the replica is a learner, 0 if not.",
        lambda status: status.node in status.learners,
    ),
    "etcd_server_proposals_committed_total": (
        "Raft index up to which entries are committed.",
        lambda status: status.commit_index,
    ),
    "etcd_server_proposals_applied_total": (
        "Raft index up to which entries are applied.",
        lambda status: status.applied_index,
    ),
    "etcd_server_proposals_pending": (
        "Writes that wait for their answer.",
        lambda status: status.statistics["writes_waiting"],
    ),
    "etcd_mvcc_db_total_size_in_bytes": (
        "Size of the database, allocated on disk.",
        lambda status: status.database_bytes,
    ),
    "etcd_mvcc_db_total_size_in_use_in_bytes": (
        "Part of the database that is in use.",
        lambda status: status.database_in_use_bytes,
    ),
    "etcd_disk_defrag_inflight": (
        "1 while free pages are given back because a client has asked for it, 0 if not.",
        lambda status: status.statistics["defragments_waiting"] > 0,
    ),
}
"""Help text and value of each gauge with a label `shard`."""

TABLE: Final[Mapping[str, tuple[str, Callable[[frames.TableStatus], float]]]] = {
    "boathouse_table_revision": (
        "Revision of the table that the replica has applied.",
        lambda table: table.revision,
    ),
    "boathouse_table_keys": ("Keys in the table.", lambda table: table.keys),
    "boathouse_table_size_bytes": (
        "What the table holds, history included, as its quota counts.",
        lambda table: table.size_bytes,
    ),
    "boathouse_table_quota_bytes": (
        "What the table may hold; 0 = any amount.",
        lambda table: table.quota_bytes,
    ),
    "boathouse_table_full": ("1 if the table's quota refuses what makes it grow.", lambda table: table.full),
    # By etcd's names, as above.
    "etcd_server_quota_backend_bytes": (
        "What the table may hold; 0 = any amount.",
        lambda table: table.quota_bytes,
    ),
    "etcd_debugging_mvcc_keys_total": ("Keys in the table.", lambda table: table.keys),
    "etcd_debugging_mvcc_current_revision": ("The table's revision.", lambda table: table.revision),
    "etcd_debugging_mvcc_compact_revision": (
        "The revision that the table is compacted at; -1 = never.",
        lambda table: table.compacted_revision,
    ),
    "etcd_debugging_auth_revision": (
        "Revision of the table's users, roles and permissions.",
        lambda table: table.auth_revision,
    ),
}
"""Help text and value of each gauge with labels `shard` and `table`."""

RAFTNODE: Final[Mapping[str, tuple[str, Callable[[frames.ReplicaStatus], float]]]] = {
    "dragonboat_raftnode_has_leader": ("1 if a leader exists, 0 if not.", lambda status: status.leader != 0),
    "dragonboat_raftnode_term": ("Raft term.", lambda status: status.term),
}
"""Help text and value of each gauge that Regatta's alerts read, with its labels."""

COUNTERS: Final[Mapping[str, tuple[str, Callable[[frames.ReplicaStatus], float]]]] = {
    "etcd_server_leader_changes_seen_total": (
        "Leader changes that the replica has seen.",
        lambda status: status.statistics["leader_changes"],
    ),
    "etcd_server_proposals_failed_total": (
        "Writes whose client was told that nobody knows what became of them.",
        lambda status: status.statistics["writes_failed"],
    ),
    "etcd_server_read_indexes_failed_total": (
        "Reads that were refused because leadership was lost.",
        lambda status: status.statistics["reads_failed"],
    ),
    "etcd_server_slow_read_indexes_total": (
        "Rounds of reads that leadership was not confirmed for within limits.read_timeout_ms.",
        lambda status: status.statistics["slow_read_rounds"],
    ),
    "etcd_server_slow_apply_total": (
        "Turns in which applying took more than 100 ms.",
        lambda status: status.statistics["slow_applies"],
    ),
    "etcd_mvcc_range_total": (
        "Ranges read.",
        lambda status: _of(status.reads, frames.ETCD_RANGE, frames.REGATTA_RANGE),
    ),
    "etcd_mvcc_put_total": (
        "Puts applied, apart from those in transactions.",
        lambda status: _of(status.commands, frames.ETCD_PUT, frames.REGATTA_PUT),
    ),
    "etcd_mvcc_delete_total": (
        "Deletions applied, apart from those in transactions.",
        lambda status: _of(status.commands, frames.ETCD_DELETE_RANGE, frames.REGATTA_DELETE_RANGE),
    ),
    "etcd_mvcc_txn_total": (
        "Transactions applied.",
        lambda status: _of(status.commands, frames.ETCD_TXN, frames.REGATTA_TXN),
    ),
    "etcd_debugging_lease_granted_total": (
        "Leases granted.",
        lambda status: _of(status.commands, frames.LEASE_GRANT),
    ),
    "etcd_debugging_lease_revoked_total": (
        "Leases revoked by their clients.",
        lambda status: _of(status.commands, frames.LEASE_REVOKE),
    ),
}
"""Help text and value of each counter with a label `shard`, by etcd's names."""

DURATIONS: Final[Mapping[str, tuple[str, str]]] = {
    "etcd_disk_wal_fsync_duration_seconds": ("wal_fsync", "Commits that were synced to disk."),
    "etcd_disk_backend_commit_duration_seconds": (
        "commit",
        "Commits, synced or not: one a turn that writes.",
    ),
    "boathouse_replica_apply_duration_seconds": ("apply", "Applying the entries of a turn."),
}
"""Name in the status and help text of each histogram with a label `shard`."""

PEERS: Final[Mapping[str, tuple[str, str, Callable[[frames.PeerTraffic], float]]]] = {
    "etcd_network_peer_sent_bytes_total": (
        "To",
        "Bytes sent to the shard's replica on another node.",
        lambda peer: peer.sent_bytes,
    ),
    "etcd_network_peer_received_bytes_total": (
        "From",
        "Bytes received from the shard's replica on another node.",
        lambda peer: peer.received_bytes,
    ),
    "etcd_network_peer_sent_failures_total": (
        "To",
        "Messages to the shard's replica on another node that were dropped, because its queue was full.",
        lambda peer: peer.lost_messages,
    ),
}
"""Label for the other node, help text and value of each counter with a label `shard`. As with etcd the other is a
member id in hexadecimal."""


def _of(counts: Mapping[int, int], *methods: frames.Method.ValueType) -> int:
    return sum(counts.get(method, 0) for method in methods)


def replica_families(statuses: Statuses, member: Callable[[int], str]) -> Iterator[Metric]:
    """A replica that does not answer has only boathouse_replica_up, with 0. member: etcd's name for a node's id."""
    answers = [status for status in statuses.values() if status is not None]
    yield gauge(
        "boathouse_replica_up",
        "1 if the replica answers.",
        ["shard"],
        (([str(shard)], answer is not None) for shard, answer in statuses.items()),
    )
    for name, (text, value) in REPLICA.items():
        yield gauge(name, text, ["shard"], (([str(status.shard)], value(status)) for status in answers))
    for name, (text, value) in RAFTNODE.items():
        samples = (([str(status.shard), str(status.node)], value(status)) for status in answers)
        yield gauge(name, text, ["shardid", "replicaid"], samples)
    for name, (text, value) in COUNTERS.items():
        yield counter(name, text, ["shard"], (([str(status.shard)], value(status)) for status in answers))
    for name, (measured, text) in DURATIONS.items():
        durations = (([str(status.shard)], status.durations[measured]) for status in answers)
        yield histogram(name, text, ["shard"], DISK_BOUNDS_S, durations)
    for name, (label, text, traffic) in PEERS.items():
        peers = (
            ([str(status.shard), member(peer.node)], traffic(peer))
            for status in answers
            for peer in status.peers
        )
        yield counter(name, text, ["shard", label], peers)
    yield gauge(
        "boathouse_replica_peer_behind_entries",
        "Committed entries that the leader does not know to be on the other node's disk. Only a leader tells.",
        ["shard", "To"],
        (
            ([str(status.shard), member(peer.node)], max(0, status.commit_index - peer.match_index))
            for status in answers
            for peer in status.progress
        ),
    )
    yield from _statistics(answers)
    yield from _tables(answers)


def _statistics(answers: Sequence[frames.ReplicaStatus]) -> Iterator[Metric]:
    """What the parts of a replica count: each names its own, so a new part needs no line here."""
    for name in sorted({name for status in answers for name in status.statistics}):
        yield gauge(
            f"boathouse_replica_{name}",
            f"{name.replace('_', ' ').capitalize()}, as the replica counts them.",
            ["shard"],
            (
                ([str(status.shard)], status.statistics[name])
                for status in answers
                if name in status.statistics
            ),
        )


def _tables(answers: Sequence[frames.ReplicaStatus]) -> Iterator[Metric]:
    tables = [(status.shard, table) for status in answers for table in status.tables]
    for name, (text, value) in TABLE.items():
        samples = (([str(shard), table.name], value(table)) for shard, table in tables)
        yield gauge(name, text, ["shard", "table"], samples)
    yield gauge(
        "boathouse_table_follower_lag_revisions",
        "What a cluster that follows this one lacked of the table when it last came further.",
        ["shard", "table", "follower"],
        (
            ([str(shard), table.name, one.follower], max(0, table.revision - one.revision))
            for shard, table in tables
            for one in table.followers
        ),
    )
    # By Regatta's name and labels.
    yield gauge(
        "regatta_applied_index",
        "Revision of the table that the replica has applied: what Regatta's API calls its index.",
        ["table", "shard_id"],
        (([table.name, str(shard)], table.revision) for shard, table in tables),
    )
