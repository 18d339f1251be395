"""Coordinators that a test makes up, and somebody who shows nobody how it goes."""

from __future__ import annotations

from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def serving(*coordinators: grpc.GenericRpcHandler) -> Iterator[tuple[str, ...]]:  # type: ignore[type-arg]  # generic in the stubs alone
    """The address of each, within the block."""
    servers = []
    addresses = []
    for coordinator in coordinators:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((coordinator,))
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        servers.append(server)
    try:
        yield tuple(addresses)
    finally:
        for server in servers:
            server.stop(None)


class Quiet:
    """A Progress."""

    def begin(self, table: str, total: int) -> None:
        """See Progress."""

    def done(self, count: int, size_bytes: int) -> None:
        """See Progress."""

    def end(self) -> None:
        """See Progress."""
