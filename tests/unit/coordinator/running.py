"""A real coordinator over fake workers, in one event loop, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import functools
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

import grpc
import uvloop

from config import ClusterConfig
from config.process.listeners import client_listeners
from coordinator.server import Coordinator
from proto.etcd import rpc_pb2
from proto.regatta import regatta_pb2
from tests.stubs import stub
from tests.unit.coordinator.fake_worker import FakeShard, FakeWorker
from tests.waiting import free_ports, wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

DEFAULT_TABLE_ID = 10_001


@dataclass
class Running:
    """What a test talks to. Node n1 is the coordinator's own."""

    cluster: ClusterConfig
    coordinator: Coordinator
    workers: dict[tuple[int, int], FakeWorker]
    """By shard and node id."""
    stores: dict[int, FakeShard]
    channel: grpc.aio.Channel
    etcd: Any
    """Stub of etcd's KV."""
    regatta: Any
    """Stub of Regatta's KV."""

    def raw(self, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """A method by its path, bytes in and out."""
        return self.channel.unary_unary(path, _unchanged, _unchanged)

    def elect(self, shard: int, leader: int, *, term: int) -> None:
        """Every replica of the shard that is up learns of its leader."""
        for (of, _), worker in self.workers.items():
            if of == shard and worker.is_up:
                worker.believe(term=term, leader=leader)

    def forget_requests(self) -> None:
        """Empty the lists of seen requests (the catalog's among them)."""
        for worker in self.workers.values():
            worker.seen.clear()


def _unchanged(message: bytes) -> bytes:
    return message


def make_config(folder: Path, *, nodes: int, shards: int, **limits: int) -> ClusterConfig:
    """A cluster on free ports. The tables named default and users live on the last shard."""
    peer_ports = [free_ports(shards, contiguous=True)[0] for _ in range(nodes)]
    return ClusterConfig.model_validate(
        {
            "cluster": "test",
            "data_dir": str(folder),
            "nodes": {
                f"n{number}": {"client_port": port, "http_port": http_port, "peer_port": peer_port}
                for number, (port, http_port, peer_port) in enumerate(
                    zip(free_ports(nodes), free_ports(nodes), peer_ports, strict=True), start=1
                )
            },
            "shards": shards,
            "tables": {"default": {"shard": shards}},
            "limits": limits,
        }
    )


def sockets_of(cluster: ClusterConfig, node: str) -> dict[str, socket.socket]:
    """What a supervisor hands to the node's coordinator."""
    host, sockets = cluster.node(node).host, {}
    for listener in client_listeners(cluster, node):
        if listener.path is None:
            sockets[listener.name] = socket.create_server((host, listener.port))
        else:
            sockets[listener.name] = socket.create_server(str(listener.path), family=socket.AF_UNIX)
    return sockets


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    *,
    nodes: int = 3,
    shards: int = 1,
    leader: int | None = 1,
    config: ClusterConfig | None = None,
    **limits: int,
) -> AsyncIterator[Running]:
    """A coordinator with its catalog read, or with leader=None one whose shards have no leader yet."""
    cluster = config or make_config(folder, nodes=nodes, shards=shards, **limits)
    shards = cluster.shards
    cluster.runtime_dir.mkdir(parents=True, exist_ok=True)
    stores = {shard: FakeShard((1,) if shard == 1 else ()) for shard in range(1, shards + 1)}
    workers = {
        (shard, node.id): FakeWorker(cluster, shard, node.id, store=stores[shard])
        for shard in range(1, shards + 1)
        for node in cluster.replica_nodes(shard)
    }
    for worker in workers.values():
        worker.leader = leader or 0
    coordinator = Coordinator(cluster, cluster.node("n1"), sockets_of(cluster, "n1"))
    await coordinator.start(catalog_s=0)
    channel = grpc.aio.insecure_channel(cluster.node("n1").client_endpoint)
    try:
        if leader is not None:
            await wait_until_async(
                lambda: coordinator.ready,
                timeout_s=10,
                what="the catalog",
            )
        yield Running(
            cluster,
            coordinator,
            workers,
            stores,
            channel,
            stub(channel, rpc_pb2, "KV"),
            stub(channel, regatta_pb2, "KV"),
        )
    finally:
        await channel.close(grace=None)
        await coordinator.stop()
        for worker in workers.values():
            worker.stop()
        for path in cluster.runtime_dir.iterdir():
            path.unlink()
        cluster.runtime_dir.rmdir()


P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on a loop of its own, of the kind that coordinators run on."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


async def refused(call: Awaitable[object]) -> tuple[str, str]:
    """The code's name and the text that a call fails with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError("the call succeeded")
