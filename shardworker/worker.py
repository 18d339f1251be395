"""The process around a replica: what is built in which order, the loop, and how it ends.

The loop waits for messages or the next tick, hands everything that has arrived to the replica, and lets it take one
turn. Under load it holds requests back for a moment (`_pace_s`): a turn costs about as much for one write as for
twenty, and on a busy machine that cost is taken from everybody.
"""

from __future__ import annotations

import math
import os
import random
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

import apsw
import structlog
import zmq

from config.process.child import ask_restart, emit, fail, read_spec, refuse_optimized, set_up_logging
from proto import errors
from shardworker.background import BackgroundThreads
from shardworker.machine import StateMachine
from shardworker.raft import Membership, NodeId, Raft, Settings
from shardworker.replica.rebuild import RebuildBegun, begin_rebuild, has_peers
from shardworker.replica.replica import Replica
from shardworker.store import (
    CrashPoint,
    Identity,
    ReplicaStore,
    StoreError,
    StoreSettings,
    advice,
    from_environment,
    translated,
)
from shardworker.ticks import Ticks
from shardworker.transport import Transport

if TYPE_CHECKING:
    from config import ClusterConfig, NodeConfig, ProcessSpec
    from proto.internal import frames_pb2 as frames

log = structlog.get_logger()

PACE_S: Final = 0.004
PACE_S_PER_WRITE_PER_S: Final = 0.000006
PACE_S_MAX: Final = 0.014
PACE_S_MAX_ALONE: Final = 0.008
"""Under load requests are taken in batches PACE_S apart, because much of a turn's cost does not depend on how many it
serves; what peers say is never held back. For writes, where every replica takes a turn and syncs, the batches are
further apart the faster they come: 6 ms at 1,000 writes/s, and at most PACE_S_MAX. A replica without peers has only its
own turns to save."""

LOAD_REQUESTS_PER_S: Final = 1000.0
"""What counts as load. Below it requests are taken at once: one client, or a few, are never made to wait."""

LOAD_WINDOW_S: Final = 0.05
"""Time constant of the average that is compared with it."""

ANNOUNCE_S: Final = 0.005
"""Followers learn what is committed from the next append. If none follows within this, they are told at once: under
load that saves each of them a turn per batch, and without load they lag no longer than this."""

IDLE_S_MAX: Final = 60.0
"""Longest wait for a message where no tick will ever matter: a replica that nobody has told its membership yet."""

DRAIN_S_MAX: Final = 2.0
"""An orderly stop waits so long for a successor and for owed answers."""


class Worker:
    """One replica with its sockets, threads and database."""

    def __init__(self, spec: ProcessSpec) -> None:
        """Open the database and bind the sockets. Raises StoreError, errors.Corrupt or zmq.ZMQError."""
        assert spec.shard is not None
        cluster, shard = spec.cluster, spec.shard
        node = cluster.node(spec.node)
        self._tick_s = cluster.raft.tick_ms / 1000
        founders = Membership(voters=frozenset(NodeId(holder.id) for holder in cluster.replica_nodes(shard)))
        alone = founders.voters == {NodeId(node.id)}
        self._store = ReplicaStore.open(
            cluster.replica_dir(spec.node, shard),
            Identity(cluster_id=cluster.cluster_id, node=node.id, shard=shard),
            _store_settings(cluster),
            crash_points=from_environment(os.environ),
            alone=alone,
        )
        if alone:
            self._begin_alone(founders)
        try:
            machine = StateMachine(
                self._store.connection,
                shard,
                table_written=lambda: self._store.crash_points.reach(CrashPoint.CATALOG_WRITTEN),
            )
        except apsw.Error as error:
            raise translated(error, "opening the tables") from error
        core = Raft(
            _raft_settings(cluster, node),
            self._store.log,
            self._store.hard_state,
            self._store.membership,
            self._store.applied_index,
            random.Random(),
        )
        self._transport = Transport(
            binds=(cluster.worker_ipc(spec.node, shard), cluster.worker_tcp(spec.node, shard)),
            peers={
                NodeId(peer.id): cluster.worker_tcp(peer.id, shard)
                for peer in cluster.replica_nodes(shard)
                if peer.id != node.id
            },
            group=cluster.group(shard),
        )
        self._background = BackgroundThreads(threads=cluster.store.reader_threads, wake=self._transport.wake)
        self._replica = Replica(
            shard=shard,
            node=NodeId(node.id),
            core=core,
            store=self._store,
            machine=machine,
            outbox=self._transport,
            background=self._background,
            cluster=cluster,
            wall_clock_ms=lambda: time.time_ns() // 1_000_000,
            founders=founders,
            life=secrets.randbits(62) + 1,
        )
        self._has_peers = len(cluster.replica_nodes(shard)) > 1
        self._held: list[tuple[bytes, frames.Envelope]] = []
        self._next_batch = 0.0
        self._stopping = False
        if core.membership.voters == {NodeId(node.id)}:
            core.campaign()  # nobody else to wait for

    def _begin_alone(self, founders: Membership) -> None:
        """A new replica that is all of its shard has nobody to ask (census.py)."""
        if not self._store.membership.voters and self._store.rebuild is None:
            with self._store.turn(sync=True) as turn:
                turn.set_membership(founders)

    def run(self) -> None:
        """Serve until stop() or until the supervisor is gone, then end in order."""
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
        stdin = sys.stdin.fileno()
        self._transport.watch(stdin, self._read_stdin)
        emit("ready")
        try:
            self._serve()
            self._end_in_order()
        except (errors.Corrupt, apsw.CorruptError) as error:
            # Memory still knows the term and the vote, so a sound replica can be made of this one.
            if not has_peers(self._store):
                raise
            begin_rebuild(self._store, f"stored data is damaged: {error}")
        finally:
            self._background.close()
            self._transport.close()
            self._store.close()

    def stop(self) -> None:
        """End the loop soon. Safe in a signal handler."""
        self._stopping = True
        self._transport.wake()

    def _read_stdin(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self._transport.unwatch(sys.stdin.fileno())
            log.info("the supervisor is gone: stopping")
            self.stop()

    def _serve(self) -> None:
        now = time.monotonic()
        self._ticks = Ticks(self._tick_s, now)
        self._load = Rate(LOAD_WINDOW_S, now)
        self._writes = Rate(LOAD_WINDOW_S, now)
        while not self._stopping:
            self._step()

    def _step(self) -> None:
        """Wait for something to do, and do it."""
        owes_commit = self._replica.owes_commit()
        received = self._transport.receive(
            self._timeout_s(ANNOUNCE_S if owes_commit else IDLE_S_MAX),
            # Nobody but clients talks to a replica without peers: it can sleep over what it would only hold.
            pace_until=0.0 if self._has_peers else self._next_batch,
        )
        if owes_commit and not received:
            self._replica.announce_commit()
        now = time.monotonic()
        before, after = self._ticks.passed(now, self._replica.ticks_until_action())
        self._tick(before)
        for node in self._transport.disconnected():
            self._replica.handle_disconnected(node)
        has_taken = self._take(received, now)
        self._tick(after)
        if has_taken:
            self._replica.turn()

    def _timeout_s(self, longest_s: float) -> float:
        """How long nothing has to be done unless a message comes."""
        if self._replica.has_work():
            return 0.0
        now = time.monotonic()
        next_tick = self._ticks.due(self._replica.ticks_until_action())
        if self._held:
            next_tick = min(next_tick, self._next_batch)
        return min(longest_s, max(0.0, next_tick - now))

    def _take(self, received: list[tuple[bytes, frames.Envelope]], now: float) -> bool:
        """Hand over what has arrived; requests that come before the next batch is due are held back until then, so
        that peers are answered at once and clients together. False if all of it is held."""
        held_before = len(self._held)
        for identity, envelope in received:
            if envelope.requests:
                self._held.append((identity, envelope))
            else:
                self._replica.handle(identity, envelope)
        all_held = bool(received) and len(self._held) - held_before == len(received)
        if not self._held or now < self._next_batch:
            return not all_held
        requests = sum([len(envelope.requests) for _, envelope in self._held])
        # A link carries what one coordinator gathered: its first request says well enough what kind of load this is.
        writes = sum(
            [len(envelope.requests) for _, envelope in self._held if envelope.requests[0].request_id]
        )
        for identity, envelope in self._held:
            self._replica.handle(identity, envelope)
        self._held.clear()
        self._load.add(requests, now)
        self._writes.add(writes, now)
        self._next_batch = now + self._pace_s() if self._load.per_s > LOAD_REQUESTS_PER_S else 0.0
        return True

    def _pace_s(self) -> float:
        """How long to gather the next batch."""
        longest_s = PACE_S_MAX if self._has_peers else PACE_S_MAX_ALONE
        return min(longest_s, max(PACE_S, self._writes.per_s * PACE_S_PER_WRITE_PER_S))

    def _tick(self, ticks: int) -> None:
        for _ in range(ticks):
            self._replica.tick()

    def _end_in_order(self) -> None:
        """Hand leadership over and answer what is owed, for at most DRAIN_S_MAX."""
        self._replica.drain()
        deadline = time.monotonic() + DRAIN_S_MAX
        while not self._replica.drained() and time.monotonic() < deadline:
            self._step()


class Rate:
    """An exponentially decaying average of events per second."""

    def __init__(self, window_s: float, now: float) -> None:
        self._window_s = window_s
        self._last = now
        self.per_s = 0.0

    def add(self, events: int, now: float) -> None:
        """So many events have happened up to now."""
        self.per_s = self.per_s * math.exp((self._last - now) / self._window_s) + events / self._window_s
        self._last = now


def _raft_settings(cluster: ClusterConfig, node: NodeConfig) -> Settings:
    raft = cluster.raft
    return Settings(
        node=NodeId(node.id),
        election_ticks=raft.election_ticks,
        heartbeat_ticks=raft.heartbeat_ticks,
        append_bytes_max=raft.append_bytes_max,
        inflight_appends_max=raft.inflight_appends_max,
        inflight_bytes_max=raft.inflight_bytes_max,
        uncommitted_bytes_max=raft.uncommitted_bytes_max,
        eager_commit=False,
    )


def _store_settings(cluster: ClusterConfig) -> StoreSettings:
    store = cluster.store
    return StoreSettings(
        cache_bytes=store.page_cache_bytes,
        checkpoint_wal_bytes=store.checkpoint_wal_bytes,
        wal_bytes_max=4 * store.checkpoint_wal_bytes,
    )


def main() -> None:
    """Read the spec, serve, exit 0; exit 1 with one sentence if the replica cannot run."""
    refuse_optimized()
    set_up_logging()
    spec = read_spec("shardworker")
    try:
        worker = Worker(spec)
    except errors.Corrupt as error:
        fail(_refusal(spec, error))
    except StoreError as error:
        fail(str(error))
    except zmq.ZMQError as error:
        fail(f"the worker's address can't be used: {error}")
    try:
        worker.run()
    except errors.Corrupt as error:
        fail(_refusal(spec, error))
    except apsw.CorruptError as error:
        fail(_refusal(spec, errors.Corrupt(f"SQLite found a damaged page: {error}")))
    except RebuildBegun as error:
        ask_restart(str(error))
    except StoreError as error:
        fail(str(error))


def _refusal(spec: ProcessSpec, error: errors.Corrupt) -> str:
    assert spec.shard is not None
    return f"{error}. {advice(spec.cluster.replica_dir(spec.node, spec.shard))}"
