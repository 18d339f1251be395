"""The HTTP port: a few pages for those who watch over a node, by path. Anything else is 404.

A page is a WSGI application and may block: each request has a thread of its own. The event loop only accepts
connections, so an idle port costs nothing."""

from __future__ import annotations

import socket
import socketserver
import sys
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

READ_TIMEOUT_S: Final = 5.0
"""A client that says nothing for this long is hung up on."""

TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")

log = structlog.get_logger()


class HttpServer:
    """Serves pages on one address until it is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pages: Mapping[str, WSGIApplication]) -> None:
        """pages: by path. Nothing listens before start()."""
        self._loop = loop
        self._pages = pages
        self._listener: _Listener | None = None

    def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError if the address can't be had."""
        self._listener = _Listener(host, port)
        self._listener.set_app(self._answer)
        self._loop.add_reader(self._listener.fileno(), self._listener.handle_request)

    def close(self) -> None:
        """Stop listening. Answers under way are not waited for."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.server_close()
            self._listener = None

    def _answer(self, environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        page = self._pages.get(path)
        if page is None:
            start_response("404 Not Found", [TEXT])
            return [f"no such page; there are {', '.join(self._pages)}\n".encode()]
        try:
            return page(environment, start_response)
        except Exception as error:
            log.exception("a page could not be made", path=path)
            start_response("500 Internal Server Error", [TEXT])
            return [f"{path} could not be made: {type(error).__name__}; the log says more\n".encode()]


def alive(_environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """An empty page that says that the process runs, not that it can serve."""
    start_response("200 OK", [TEXT])
    return [b""]


class _Listener(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    timeout = 0  # handle_request() is called when a connection waits

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Handler)
        # A connection that is gone again by the time it is accepted must not stop the loop.
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        """Without the base class's look-up of our own name, for which a name server may keep us waiting."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up, or fall silent."""
        log.debug("an HTTP request ended early", client=str(client_address), error=repr(sys.exception()))


class _Handler(WSGIRequestHandler):
    timeout = READ_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        """One line a scrape is too much."""
