"""The control socket's server: one JSON object per line, one answer per request, over a unix socket only this user can
open. Its client is tools/admin/control_client.py.

Requests: {"op": "status"}, {"op": "start" | "stop" | "restart", "processes": ["shard-1", ...]}, {"op":
"down"}. Answers: {"ok": true, ...} or {"ok": false, "error": "one line"}."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

LINE_BYTES_MAX: Final = 4 << 20
FAREWELL_S: Final = 1.0

Handler: TypeAlias = "Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]"


class ControlServer:
    """Answers requests on a unix socket until it is closed.

    Its owner holds the node's lock, so a socket file that is there already is a dead one."""

    def __init__(self, path: Path, handle: Handler) -> None:
        self._path = path
        self._handle = handle
        self._clients: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._busy: set[asyncio.Task[Any]] = set()
        self._server: asyncio.AbstractServer | None = None
        self._is_closed = False
        self._made: tuple[int, int] | None = None
        """Which file is our socket's."""

    async def listen(self) -> None:
        """Listen, if that is not so or if the socket's file is no longer ours. Conversations under way go on. One that
        is closed stays so: the file may be another supervisor's by then.

        Raises OSError."""
        if self._is_closed or (self._server is not None and self._made == _identity(self._path)):
            return
        if self._server is not None:
            self._server.close()
            self._server = None
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._converse, self._path, limit=LINE_BYTES_MAX)
        self._path.chmod(0o600)
        self._made = _identity(self._path)

    async def close(self) -> None:
        """Stop listening, let answers that are due go out, and hang up."""
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        if self._busy:
            await asyncio.wait(self._busy, timeout=FAREWELL_S)
        for writer in self._clients.values():
            writer.close()
        if self._clients:
            await asyncio.wait(self._clients.keys(), timeout=FAREWELL_S)
        with contextlib.suppress(OSError):
            if self._made == _identity(self._path):
                self._path.unlink()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients[task] = writer
        try:
            while line := await reader.readline():
                self._busy.add(task)
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
                self._busy.discard(task)
        except (ConnectionError, ValueError):
            pass  # the client went away, or sent a line over the limit
        finally:
            self._busy.discard(task)
            del self._clients[task]
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is a JSON object")
            return {"ok": True, **await self._handle(request)}
        except ValueError as error:
            return {"ok": False, "error": str(error)}


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file a path names; None if none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
