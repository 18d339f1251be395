"""Pages of coordinators: who answers, who does not, and who is none."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from proto.internal import figures_pb2 as figures
from tests.waiting import free_ports
from tools.admin.node_pages import COUNTED, PROCESSES, NodePages
from tools.admin.reach import IN_THE_CLEAR

if TYPE_CHECKING:
    from collections.abc import Iterator


class Coordinator(ThreadingHTTPServer):
    """Has one page, and counts connections."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Pages)
        self.connections = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def get_request(self):  # type: ignore[no-untyped-def]
        self.connections += 1
        return super().get_request()


class _Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, Coordinator)
        self.server.goes_on.wait(20)
        is_there = self.path == PROCESSES
        body = figures.NodeProcesses(node="n1").SerializeToString() if is_there else b""
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def coordinator() -> Iterator[Coordinator]:
    with Coordinator() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.goes_on.set()
        server.shutdown()
        thread.join(10)


def test_pages_are_read_over_one_connection() -> None:
    with coordinator() as server, NodePages(IN_THE_CLEAR) as pages:
        for _ in range(3):
            pages.begin({server.endpoint: [PROCESSES, COUNTED]})
            page = pages.take(10)[server.endpoint]
            told = page.read(PROCESSES, figures.NodeProcesses)
            assert told is not None
            assert (told.node, page.is_lost, page.is_away) == ("n1", True, False)
            assert page.read(COUNTED, figures.NodeFigures) is None
        assert server.connections == 1


def test_where_nobody_listens_nobody_is() -> None:
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    with NodePages(IN_THE_CLEAR) as pages:
        pages.begin({endpoint: [PROCESSES]})
        page = pages.take(10)[endpoint]
    assert (page.is_away, page.is_lost, page.read(PROCESSES, figures.NodeProcesses)) == (True, False, None)


def test_who_hangs_is_waited_for_once() -> None:
    with coordinator() as server, NodePages(IN_THE_CLEAR) as pages:
        server.goes_on.clear()
        pages.begin({server.endpoint: [PROCESSES]})
        assert pages.take(0.05) == {}
        began = time.monotonic()
        pages.begin({server.endpoint: [PROCESSES]})
        assert pages.take(30) == {}
        assert time.monotonic() - began < 10
