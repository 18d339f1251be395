"""How a cluster's processes behave: the sections of the cluster file whose defaults suit most.

As in models.py, a field's docstring is its documentation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from config.compaction import Compaction
from config.values import Bytes, Milliseconds, Model, Quota, Url


class RaftConfig(Model):
    """Consensus. The defaults suit nodes within one continent; raise the ticks for longer ways."""

    tick_ms: Annotated[int, Field(ge=5, le=60_000)] = 100
    """Length of a tick, the unit of the next two."""
    heartbeat_ticks: Annotated[int, Field(ge=1, le=1_000)] = 4
    """A leader says it is alive this often. < election_ticks. Heartbeats are most of what an idle cluster costs."""
    election_ticks: Annotated[int, Field(ge=2, le=10_000)] = 10
    """A follower that hears nothing for this long, up to twice as long by chance, campaigns: one to two seconds
    when a leader is cut off or stopped. One whose process dies is noticed at once, by its broken connection."""
    append_bytes_max: Bytes = 1 << 20
    """Most entry bytes in one append message; one larger entry still goes alone."""
    entry_bytes_max: Bytes = 1 << 20
    """Most request bytes in one log entry, which holds all writes of a turn; one larger write still goes alone."""
    inflight_appends_max: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Append messages on their way to one follower before its answers are awaited."""
    inflight_bytes_max: Bytes = 64 << 20
    """Entry bytes on their way to one follower."""
    uncommitted_bytes_max: Bytes = 128 << 20
    """Entry bytes proposed but not yet committed; beyond it proposals are refused."""
    log_tail_entries: Annotated[int, Field(ge=0, lt=2**40)] = 10_000
    """Applied entries kept for slow replicas when the log is compacted. Follower clusters read the tables' own log."""
    log_tail_bytes: Bytes = 64 << 20
    """Most bytes of applied entries kept, however few entries that is."""
    digest_entries: Annotated[int, Field(ge=1, lt=2**40)] = 256
    """Replicas compare checksums of their tables after every so many entries."""

    @property
    def lease_ttl_s_min(self) -> int:
        """No lease lives for less, in seconds: one and a half election timeouts, as in etcd, so that its client can
        renew it over an election."""
        return -(-3 * self.election_ticks * self.tick_ms // 2_000)


class StoreConfig(Model):
    """The SQLite database of each replica."""

    page_cache_bytes: Bytes = 16 << 20
    """SQLite's page cache per connection."""
    checkpoint_wal_bytes: Bytes = 32 << 20
    """A checkpoint starts when the write-ahead log is this long."""
    compaction_rows_max: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    """Rows removed by one step of history compaction; a step shares a turn with writes."""
    snapshot_chunk_bytes: Annotated[int, Field(ge=4_096, le=64 << 20)] = 1 << 20
    """Size of the pieces in which a snapshot travels to another replica."""
    snapshot_rate_bytes: Bytes = 256 << 20
    """Most snapshot bytes sent by one replica in a second."""
    scrub_rows_per_s: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    """Stored rows checked against their checksums in the background; 0 = none. A thousand cost about half a percent of
    a core."""
    disk_free_bytes_min: Bytes = 64 << 20
    """With less free space on the disk, writes are refused as NOSPACE; reads go on."""
    spare_bytes: Bytes = 16 << 20
    """Held back by each replica as a file, and given up when the disk takes nothing any more, so that what frees space
    can be written even then."""
    slow_sync_ms: Annotated[int, Field(ge=0, le=60_000)] = 200
    """A leader whose syncs go on taking so long on average hands over to a voter whose syncs take at most half as long;
    0 = never."""
    reader_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads for reads that would hold up the loop, each with a connection of its own. One more is for snapshots and
    checks of what is stored."""


class LimitsConfig(Model):
    """Bounds on what clients may ask. Over a bound comes a clear refusal, never a slow death."""

    request_bytes_max: Annotated[int, Field(ge=1_024, le=512 << 20)] = 1_572_864
    """Encoded size of one write on the etcd API; etcd's --max-request-bytes and its default."""
    txn_ops_max: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """Operations in one list of an etcd transaction; etcd's --max-txn-ops and its default. All lists of a transaction,
    nested ones included, have 20,000 at most."""
    table_quota: Quota = "none"  # type: ignore[assignment]
    """What a table may hold that has no quota of its own: none, or bytes, also as 2GiB."""
    table_compaction: Compaction = "none"
    """What is compacted of a table that says nothing of its own: none, or as tables.NAME.compaction."""
    pending_requests_max: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    """Requests waiting in one process; more are refused as RESOURCE_EXHAUSTED, in Regatta's API as UNAVAILABLE."""
    pending_bytes_max: Bytes = 256 << 20
    """Request bytes waiting in one process."""
    answer_bytes_max: Bytes = 256 << 20
    """Answers that wait in one coordinator for clients to take them; above it replicas keep their requests waiting."""
    write_timeout_ms: Milliseconds = 7_000
    """A write unanswered for so long ends with its outcome unknown (5 s and two elections, as in etcd)."""
    read_timeout_ms: Milliseconds = 7_000
    """A linearizable read unconfirmed for so long is refused."""
    cursors_max: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Open IterateRange streams on one replica."""
    cursors_per_table_max: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Open IterateRange streams of one table on one replica."""
    cursors_per_client_max: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Open streams of one client host on one replica: IterateRange, RangeStream, backups, snapshots."""
    cursor_idle_ms: Milliseconds = 60_000
    """A cursor nobody reads from for so long is closed."""
    cursor_lifetime_ms: Milliseconds = 600_000
    """A cursor is closed after so long, however its client reads: it keeps the replica from reusing its write-ahead
    log. Not so where its answer goes into a file, as of a backup or a snapshot: then the disk's room is the bound."""
    cursor_wal_bytes_max: Bytes = 256 << 20
    """While the write-ahead log of a replica is longer than this, its oldest cursor is closed whose answer does not go
    into a file."""
    turn_answer_bytes_max: Bytes = 32 << 20
    """Answers to reads that a replica holds at a time; more reads wait in order. One answer may exceed it."""
    link_answer_bytes_max: Annotated[int, Field(ge=4 << 20, lt=2**40)] = 64 << 20
    """Answers on their way from one replica to one coordinator; more reads wait in order. One answer may exceed it."""


class WatchConfig(Model):
    """What clients that watch may count on."""

    progress_interval_ms: Annotated[int, Field(ge=100, le=86_400_000)] = 600_000
    """A watcher that has asked for progress notifications gets one so often while nothing else tells it of a
    revision; up to a tenth later."""


class SupervisorConfig(Model):
    """How processes are kept alive."""

    backoff_min_ms: Milliseconds = 100
    """Wait before the first restart of a crashed process; doubles with each further crash."""
    backoff_max_ms: Milliseconds = 10_000
    """Longest wait between restarts."""
    stable_ms: Milliseconds = 10_000
    """A process that ran for so long starts again from backoff_min_ms."""
    crashes_max: Annotated[int, Field(ge=1, le=1_000)] = 8
    """So many crashes within crash_window_ms and the process stays down, as failed."""
    crash_window_ms: Milliseconds = 60_000
    """See crashes_max."""
    stop_timeout_ms: Milliseconds = 10_000
    """A process that has not stopped in order by then is killed."""
    hang_timeout_ms: Annotated[int, Field(ge=0, le=86_400_000)] = 10_000
    """A process that is silent for so long, though it lives, is killed and started again; 0 = never."""
    start_timeout_ms: Annotated[int, Field(ge=0, le=86_400_000)] = 300_000
    """The same until it first shows that it works: to open a large database after a crash takes a while; 0 = never."""
    log_bytes_max: Annotated[int, Field(ge=4_096, lt=2**40)] = 10 << 20
    """Size at which a process's log file is moved aside."""
    log_files_max: Annotated[int, Field(ge=1, le=100)] = 3
    """Log files kept per process, the current one included."""


class TracingConfig(Model):
    """Traces of calls, by OpenTelemetry; needs the extra `boathouse[tracing]`."""

    endpoint: Url
    """URL of a collector that takes OTLP over HTTP: http://127.0.0.1:4318"""
    sample_ratio: Annotated[float, Field(ge=0, le=1, strict=False)] = 0.01
    """Share of the calls that is traced, of those whose clients do not say so themselves (`traceparent`)."""
