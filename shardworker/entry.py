"""The process of a worker: what is built in which order, its signals, and how it ends."""

from __future__ import annotations

import functools
import os
import random
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING

import apsw
import structlog
import zmq

from config.process.child import (
    ask_restart,
    emit,
    fail,
    read_spec,
    refuse_optimized,
    set_up_logging,
    tell_in_log,
)
from config.process.memory import FreeMemory, collect_rarely, keep_what_lives
from config.process.tracing import TracingUnavailable, start_tracing
from config.tls_files import peer_keys
from config.topology import FileTopology
from proto import errors, ids
from proto.ids import ShardId
from proto.internal.curve import BadKeyFile
from shardworker.background import BackgroundThreads
from shardworker.loop import Loop
from shardworker.machine import REGISTRY, Registry, StateMachine, TooNew, UnreadableEntry
from shardworker.raft import Membership, NodeId, Raft
from shardworker.replica.generations import GivenUp
from shardworker.replica.long_reads import OTHER_THREADS
from shardworker.replica.rebuild import RebuildBegun, begin_rebuild, has_peers
from shardworker.replica.replica import Replica
from shardworker.settings import begin_alone, is_alone, raft_settings, store_settings
from shardworker.store import (
    CrashPoint,
    Identity,
    ReplicaStore,
    StoreError,
    advice,
    from_environment,
    translated,
)
from shardworker.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ProcessSpec
    from proto.internal import frames_pb2 as frames

log = structlog.get_logger()


class _SteadyClock:
    def now(self) -> float:
        return time.monotonic()

    def cpu(self) -> float:
        return time.thread_time()


class Worker:
    """One replica with its sockets, threads and database."""

    def __init__(self, spec: ProcessSpec, registry: Registry, memory: FreeMemory) -> None:
        """Open the database and bind the sockets. registry: what this build can carry out. Raises StoreError, TooNew,
        errors.Corrupt, BadKeyFile, TracingUnavailable or zmq.ZMQError."""
        self._memory = memory
        self._tracing = start_tracing(spec)
        assert spec.shard is not None
        cluster, shard = spec.cluster, ShardId(spec.shard)
        node = NodeId(cluster.node(spec.node).id)
        topology, here = FileTopology(cluster), ids.NodeId(node)
        # Who belongs to a shard that has changed since it was founded, or whom a later node joins, a leader tells.
        has_changed = shard in cluster.holders or cluster.node(spec.node).joins
        founders = None if has_changed else Membership(frozenset(map(NodeId, topology.replicas_of(shard))))
        self._store = ReplicaStore.open(
            cluster.replica_dir(spec.node, shard),
            Identity(cluster_id=cluster.cluster_id, node=node, shard=shard),
            store_settings(cluster),
            crash_points=from_environment(os.environ),
            alone=founders is not None and is_alone(node, founders),
        )
        if founders is not None:
            begin_alone(self._store, founders)
        try:
            machine = StateMachine(
                self._store.connection,
                shard,
                registry=registry,
                table_written=lambda: self._store.crash_points.reach(CrashPoint.CATALOG_WRITTEN),
            )
        except apsw.Error as error:
            raise translated(error, "opening the tables") from error
        core = Raft(
            raft_settings(cluster, node),
            self._store.log,
            self._store.hard_state,
            self._store.membership,
            self._store.applied_index,
            random.Random(),
        )
        tell_in_log("term", lambda: core.term)
        make_transport: Callable[..., Transport] = Transport
        if self._tracing is not None:
            # Here, because it imports what only who traces has installed.
            from shardworker.tracing import TracedTransport

            make_transport = functools.partial(TracedTransport, self._tracing, shard)
        self._transport = make_transport(
            binds=(
                topology.address_of(here, shard, seen_from=here),
                topology.address_of(here, shard),
            ),
            peers={
                NodeId(peer): topology.address_of(peer, shard, seen_from=here)
                for peer in topology.replicas_of(shard)
                if peer != here
            },
            group=topology.group_of(shard),
            keys=peer_keys(cluster, spec.node),
        )
        self._background = BackgroundThreads(
            threads=cluster.store.reader_threads + OTHER_THREADS, wake=self._transport.wake
        )
        replica = Replica(
            shard=shard,
            node=node,
            core=core,
            store=self._store,
            machine=machine,
            outbox=self._transport,
            background=self._background,
            cluster=cluster,
            wall_clock_ms=lambda: time.time_ns() // 1_000_000,
            founders=founders,
            life=secrets.randbits(62) + 1,
            tell_process=self._tell_process,
        )
        self._loop = Loop(
            replica,
            self._transport,
            _SteadyClock(),
            tick_s=cluster.raft.tick_ms / 1000,
            alone=lambda: replica.is_alone,
            beat=self._beat,
        )
        if core.membership.voters == {node}:
            core.campaign()  # nobody else to wait for

    def run(self) -> None:
        """Serve until stop() or until the supervisor is gone, then end in order."""
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
        self._transport.watch(sys.stdin.fileno(), self._read_stdin)
        emit("ready")
        keep_what_lives()
        try:
            self._loop.run()
        except (errors.Corrupt, apsw.CorruptError) as error:
            # Memory still knows the term and the vote, so a sound replica can be made of this one.
            if not has_peers(self._store):
                raise
            begin_rebuild(self._store, f"stored data is damaged: {error}")
        finally:
            self._background.close()
            self._transport.close()
            self._store.close()
            if self._tracing is not None:
                self._tracing.close()

    def stop(self) -> None:
        """End the loop soon. Safe in a signal handler."""
        self._loop.stop()
        self._transport.wake()

    def _beat(self) -> None:
        emit("beat")
        self._memory.give_back()

    def _tell_process(self, status: frames.ReplicaStatus) -> None:
        status.pid = os.getpid()
        status.peers.extend(self._transport.traffic)
        status.newer_protocol = self._transport.newer_protocol

    def _read_stdin(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self._transport.unwatch(sys.stdin.fileno())
            log.info("the supervisor is gone: stopping")
            self.stop()


def main(registry: Registry = REGISTRY) -> None:
    """Read the spec, serve, exit 0; exit 1 with one sentence if the replica cannot run."""
    collect_rarely()
    refuse_optimized()
    set_up_logging()
    memory = FreeMemory()
    spec = read_spec("shardworker")
    try:
        worker = Worker(spec, registry, memory)
    except errors.Corrupt as error:
        fail(_refusal(spec, error))
    except (StoreError, TooNew, BadKeyFile, TracingUnavailable) as error:
        fail(str(error))
    except zmq.ZMQError as error:
        fail(f"the worker's address can't be used: {error}")
    try:
        worker.run()
    except (errors.Corrupt, UnreadableEntry) as error:
        # The latter is nothing that a replica starts over for by itself: all of the shard may have met it.
        fail(_refusal(spec, error))
    except apsw.CorruptError as error:
        fail(_refusal(spec, errors.Corrupt(f"SQLite found a damaged page: {error}")))
    except RebuildBegun as error:
        ask_restart(str(error))
    except GivenUp as error:
        assert spec.shard is not None
        folder = spec.cluster.replica_dir(spec.node, spec.shard)
        fail(
            f"{error}. Move {folder} away; started empty, the node can be given the shard by `boathouse node add`"
        )
    except (StoreError, TooNew) as error:
        fail(str(error))


def _refusal(spec: ProcessSpec, error: Exception) -> str:
    assert spec.shard is not None
    return f"{error}. {advice(spec.cluster.replica_dir(spec.node, spec.shard))}"
