"""The process around a coordinator: its spec from the supervisor, its signals, its end."""

from __future__ import annotations

import resource
import socket
from typing import TYPE_CHECKING, Final

import uvloop

from config.key_files import BadTokenKey
from config.process.async_child import beat_until, watch_for_the_end
from config.process.child import emit, fail, read_spec, refuse_optimized, set_up_logging
from config.process.listeners import client_listeners
from config.process.memory import FreeMemory, collect_rarely, keep_what_lives
from config.process.tracing import TracingUnavailable, start_tracing
from config.tls_files import TlsUnusable
from config.token_files import BadTokenFile
from coordinator.front.limits import DEFAULT
from coordinator.server import Coordinator
from proto.internal.curve import BadKeyFile

if TYPE_CHECKING:
    from config.process.spec import ProcessSpec

DESCRIPTORS_BESIDE_CONNECTIONS: Final = 1_000
"""Links to replicas, connections of HTTP/1.1, the libraries' own."""


async def _serve(spec: ProcessSpec, memory: FreeMemory) -> None:
    """Serve until SIGTERM, or until the supervisor is gone."""
    stopping = watch_for_the_end()
    sockets = {name: socket.socket(fileno=descriptor) for name, descriptor in spec.sockets.items()}
    try:
        tracing = start_tracing(spec)
        coordinator = Coordinator(
            spec.cluster,
            spec.cluster.node(spec.node),
            sockets,
            number=spec.number,
            report=emit,
            tracing=tracing,
        )
    except (TlsUnusable, BadTokenKey, BadTokenFile, BadKeyFile, TracingUnavailable) as error:
        fail(str(error))
    await coordinator.start()
    keep_what_lives()
    await beat_until(stopping, memory.give_back)
    await coordinator.stop()
    if tracing is not None:
        tracing.close()


def _allow_descriptors() -> None:
    """As many open files as connections may be, and some; as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DEFAULT.connections_max + DESCRIPTORS_BESIDE_CONNECTIONS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    """Read the spec, serve, exit 0; exit 1 with one sentence if it can't."""
    collect_rarely()
    refuse_optimized()
    set_up_logging()
    spec = read_spec("coordinator")
    listeners = client_listeners(spec.cluster, spec.node)
    missing = [listener.name for listener in listeners if listener.name not in spec.sockets]
    if missing:
        fail(f"the supervisor has handed over no socket named {' or '.join(missing)}")
    memory = FreeMemory()
    _allow_descriptors()
    uvloop.run(_serve(spec, memory))
