"""The coordinators of one node, who share its ports: whichever of them is asked for metrics, all of them answer.

Each counts for itself, from its own beginning. Told from one alone, a scrape would show another one's figures each
time. So each tells its own on a unix socket of the node's runtime folder, to whoever connects; a node that has only
one has no such socket."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from config.process.names import COORDINATOR, ProcessName, processes_of
from proto.internal import figures_pb2 as figures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from config import ClusterConfig

ANSWER_TIMEOUT_S: Final = 1.0
"""One that takes longer is left out of the scrape."""


class Siblings:
    """The coordinators of a node, as one of them sees them."""

    def __init__(
        self, cluster: ClusterConfig, me: ProcessName, tell: Callable[[], figures.CoordinatorFigures]
    ) -> None:
        """tell: what this coordinator has counted."""
        coordinators = [name for name in processes_of(cluster, me.node) if name.kind is COORDINATOR]
        self._folder = cluster.runtime_dir
        self._me = me
        self._others = [name for name in coordinators if name != me]
        self._tell = tell
        self._server: asyncio.Server | None = None

    def _path(self, name: ProcessName) -> Path:
        return self._folder / f"{name.node}.{name.local}"

    async def start(self) -> None:
        """Answer the others from now on, in the place of a predecessor that may still be there."""
        if not self._others:
            return
        path = self._path(self._me)
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, path)
        path.chmod(0o600)

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._tell().SerializeToString())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async def ask(self) -> list[figures.CoordinatorFigures]:
        """What each has counted that answers in time, this one first."""
        answers = await asyncio.gather(*(self._ask(name) for name in self._others))
        return [self._tell(), *(answer for answer in answers if answer is not None)]

    async def _ask(self, name: ProcessName) -> figures.CoordinatorFigures | None:
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._path(name))
                try:
                    return figures.CoordinatorFigures.FromString(await reader.read())
                finally:
                    writer.close()
        return None

    def close(self) -> None:
        """Answer no more. The socket's file is left, since a successor may have put its own there."""
        if self._server is not None:
            self._server.close()
            self._server = None
