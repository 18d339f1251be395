"""The process around a coordinator: its spec from the supervisor, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import structlog

from config.process.child import emit, fail, read_spec, refuse_optimized, set_up_logging
from config.process.events import BEAT_INTERVAL_S
from config.process.names import CLIENT_SOCKET, HTTP_SOCKET
from coordinator.server import Coordinator, PortTaken

if TYPE_CHECKING:
    from config import NodeConfig, ProcessSpec

log = structlog.get_logger()


async def _serve(spec: ProcessSpec) -> None:
    """Serve until SIGTERM, or until the supervisor is gone. Raises PortTaken."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
    stdin = sys.stdin.fileno()

    def read_stdin() -> None:
        if not os.read(stdin, 4096):
            loop.remove_reader(stdin)
            log.info("the supervisor is gone: stopping")
            stopping.set()

    loop.add_reader(stdin, read_stdin)
    node = spec.cluster.node(spec.node)
    servers: list[asyncio.Server] = []
    if spec.sockets:
        inner = _behind(node)
        coordinator = Coordinator(spec.cluster, inner)
        await coordinator.start()
        servers.append(await _forward(spec.sockets[CLIENT_SOCKET], inner.client_port))
        servers.append(await _forward(spec.sockets[HTTP_SOCKET], inner.http_port))
    else:
        coordinator = Coordinator(spec.cluster, node)
        await coordinator.start()
    # What lives now lives to the end: the collector need not look at it again, and rarely at the rest, since calls
    # leave no cycles.
    gc.freeze()
    emit("ready")
    while not stopping.is_set():
        emit("beat")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), BEAT_INTERVAL_S)
    for server in servers:
        server.close()
    await coordinator.stop()


# grpcio's server takes no socket that is bound already. It listens on ports of its own, and what the supervisor's
# sockets accept is passed on to it, byte for byte.


def _behind(node: NodeConfig) -> NodeConfig:
    """The node with ports that are free, on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = {"client_port": one.getsockname()[1], "http_port": two.getsockname()[1]}
    return node.model_copy(update={"host": "127.0.0.1", **ports})


async def _forward(descriptor: int, port: int) -> asyncio.Server:
    """Accept from an inherited listening socket, and pass on."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        except OSError:
            pass
        finally:
            writer.close()

    # asyncio listens once more, which sets the length of the supervisor's queue anew.
    return await asyncio.start_server(pass_on, sock=socket.socket(fileno=descriptor), backlog=4096)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def main() -> None:
    """Read the spec, serve, exit 0; exit 1 with one sentence if the port is taken."""
    refuse_optimized()
    set_up_logging()
    spec = read_spec("coordinator")
    try:
        asyncio.run(_serve(spec))
    except PortTaken as error:
        fail(str(error))
