"""The ceiling: a coordinator's front end that sends each request back as the answer. `python -m tools.bench.echo PORT`.

What a coordinator does behind its front end comes on top of this, so none is faster for the same client."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvloop

from coordinator.api import outcomes
from coordinator.api.call import Api, Call, Route
from coordinator.front import http1, http_pages
from coordinator.front.front import Front
from coordinator.front.limits import DEFAULT
from coordinator.front.listener import Listener
from coordinator.front.routes import Routes
from proto.methods import METHODS
from tools.bench.workload import PATHS

if TYPE_CHECKING:
    from collections.abc import Iterable

MESSAGE_BYTES_MAX = 64 << 20


async def _echo(call: Call) -> bytes:
    return call.body


def _routes(paths: Iterable[str]) -> Routes:
    api = Api(outcomes=outcomes.ETCD, message_bytes_max=MESSAGE_BYTES_MAX)
    routes = [
        Route(path=path, method=METHODS[path], api=api, handler=_echo, timeout_s=None) for path in set(paths)
    ]
    return Routes(routes, known_services=frozenset(), unserved=api)


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    front, pages = Front(asyncio.get_running_loop(), _routes(PATHS.values()), DEFAULT), http_pages.Pages({})
    with socket.create_server(("127.0.0.1", port)) as listening:
        listener = Listener(front, http1.Door(pages), listening)
        await listener.start()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        listener.close()
        front.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
