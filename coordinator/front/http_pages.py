"""What is served over HTTP/1.1: pages by method and path, and how much of it clients may take.

A page gets a Request and gives a Response. How both travel is http1.py's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Protocol

import structlog

from coordinator.front.tally import Held, Tally

Header = tuple[str, str]

TEXT: Final[Header] = ("Content-Type", "text/plain; charset=utf-8")
CLOSE: Final[Header] = ("Connection", "close")
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a page gets to see."""

    method: str
    path: str
    """Without percent signs and query."""
    query: str
    """As it came, without the question mark."""
    headers: Mapping[str, str]
    """By lower-case name; several of one name are joined by commas, as HTTP has it."""
    body: bytes
    common_name: str = ""
    """Of the certificate that the client showed; "" if it showed none."""
    peer: str = ""
    """Whose connection it came by (front/peers.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a page answers."""

    status: HTTPStatus = HTTPStatus.OK
    headers: Sequence[Header] = (TEXT,)
    """Without those that say how long the body is."""
    body: bytes | Iterator[bytes] | AsyncGenerator[bytes] = b""
    """Parts are sent as they come, each as soon as the client has read most of those before it. They are parts of one
    answer if they come from an iterator; an asynchronous generator is a stream, which may never end, and is closed when
    its client has left."""
    held_bytes: int = 0
    """What an iterator has in memory from its first part to its last."""


Page = Callable[[Request], Awaitable[Response]]
"""Cancelled when its client goes away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may take."""

    connections_max: int = 256
    """Of one process, on each of its ports. As many more are told so; what comes beyond those is cut without a word."""
    head_bytes_max: int = 16 << 10
    """Request line and headers."""
    body_bytes_max: int = 64 << 10
    bodies_bytes_max: int = 64 << 20
    """Of all requests that have come in part or are being answered."""
    chunks_max: int = 4_096
    """A body may come in so many of any size, and in more if they have chunk_bytes_min on the average: h11 takes 7 us
    for one, whatever is in it."""
    chunk_bytes_min: int = 64
    idle_s: float = 60.0
    """More than the minute between two looks of most monitoring, so that it may keep its connection."""
    request_s: float = 10.0
    send_s: float = 10.0
    answer_s: float = 240.0
    """A whole answer that is no stream, however steadily it is read: what is held for it is in the way of others."""
    unsent_bytes_max: int = 64 << 10
    """Of an answer, handed to the socket ahead of its reader."""
    leave_s: float = 2.0


class Visitor(Protocol):
    """A client's connection."""

    def close(self) -> None:
        """Let the client go, after the answer that it waits for."""


class Entrance(Protocol):
    """Where the connections of one port come in."""

    @property
    def connections(self) -> Collection[Visitor]: ...


class Pages:
    """All pages by method and path, and the ports where they are asked for."""

    def __init__(
        self,
        pages: Mapping[tuple[str, str], Page],
        limits: Limits | None = None,
        held: Held | None = None,
        *,
        cors: Sequence[Header] = (),
    ) -> None:
        """A page for GET is one for HEAD. held counts answers until they are sent. cors: what lets scripts of other
        pages read every answer, refusals too; with any, OPTIONS of every path is answered by it."""
        self._pages = pages
        self._cors = tuple(cors)
        self.limits = limits or Limits()
        self.held = held or Held(Tally(), lambda: None)
        self.closing = False
        self.bodies_bytes = 0
        """What connections hold of requests."""
        self.doors: list[Entrance] = []

    @property
    def connections(self) -> int:
        """How many are open."""
        return sum(len(door.connections) for door in self.doors)

    def close(self) -> None:
        """Let every client go: now, or when the answer that is being made is sent. Streams end now."""
        self.closing = True
        for door in self.doors:
            for connection in tuple(door.connections):
                connection.close()

    async def answer(self, request: Request) -> Response:
        """The page's answer, or why there is none."""
        if self._cors and request.method == "OPTIONS":
            return self.readable(Response())
        return self.readable(await self._answer(request))

    def readable(self, response: Response) -> Response:
        """The answer, as scripts may read it."""
        return replace(response, headers=(*response.headers, *self._cors)) if self._cors else response

    async def _answer(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        page = self._pages.get((method, request.path))
        if page is None:
            return self._refuse(request.path)
        try:
            return await page(request)
        except Exception as error:
            log.exception("a page could not be made", path=request.path)
            text = f"{request.path} could not be made: {type(error).__name__}; the log says more\n"
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    def _refuse(self, path: str) -> Response:
        if methods := [method for method, known in self._pages if known == path]:
            allowed = ", ".join([*methods, "OPTIONS"] if self._cors else methods)
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes {allowed}\n", ("Allow", allowed))
        if path.startswith("/v3"):
            return refusal(HTTPStatus.NOT_FOUND, "Not Found\n")
        known = ", ".join(path for method, path in self._pages if method == "GET")
        return refusal(HTTPStatus.NOT_FOUND, f"no such page; there are {known}\n")


async def alive(_request: Request) -> Response:
    """An empty page that says that the process runs, not that it can serve."""
    return Response()


def refusal(status: HTTPStatus, text: str, *headers: Header) -> Response:
    """A page in a sentence."""
    return Response(status=status, headers=(TEXT, *headers), body=text.encode())
