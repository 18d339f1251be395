"""The fault proxy itself, between a socket and an echo server."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.proxy import HELD_BYTES_MAX, FaultProxy, Link, Way
from tests.waiting import free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET_S = 0.1


class _EchoHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, EchoServer)
        while data := self.request.recv(1 << 16):
            server.heard.extend(data)
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EchoHandler)
        self.heard = bytearray()
        """All bytes that arrived."""


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def link(echo: EchoServer) -> Iterator[Link]:
    with FaultProxy(seed=1) as proxy:
        yield proxy.link(echo.server_address[1])


@pytest.fixture
def client(link: Link) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", link.port), timeout=5) as connected:
        yield connected


def exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = client.recv(1 << 16)
        if not part:
            break
        got += part
    return got


def is_quiet(client: socket.socket) -> bool:
    """Whether nothing arrives for a while."""
    client.settimeout(QUIET_S)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


def test_what_is_said_passes_unchanged(client: socket.socket) -> None:
    data = bytes(range(256)) * 4096
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert receive(client, len(data)) == data
    sender.join()


def test_a_cut_holds_everything_back_and_healing_delivers_it_in_order(
    link: Link, client: socket.socket, echo: EchoServer
) -> None:
    assert exchange(client, b"before") == b"before"
    link.cut()
    client.sendall(b"one")
    client.sendall(b"two")
    assert is_quiet(client)
    assert bytes(echo.heard) == b"before"
    link.heal()
    assert receive(client, 6) == b"onetwo"


def test_a_one_way_cut_lets_the_other_way_pass(link: Link, client: socket.socket, echo: EchoServer) -> None:
    assert exchange(client, b"before") == b"before"
    link.cut(Way.FROM_TARGET)
    client.sendall(b"heard")
    wait_until(lambda: bytes(echo.heard) == b"beforeheard", timeout_s=5, what="the bytes to reach the target")
    assert is_quiet(client)
    link.heal()
    assert receive(client, 5) == b"heard"
    link.cut(Way.TO_TARGET)
    client.sendall(b"unheard")
    assert is_quiet(client)
    assert b"unheard" not in echo.heard


def test_a_new_connection_through_a_cut_gets_no_answer_until_it_heals(link: Link) -> None:
    link.cut()
    with socket.create_connection(("127.0.0.1", link.port), timeout=5) as client:
        client.sendall(b"hello")
        assert is_quiet(client)
        link.heal()
        assert receive(client, 5) == b"hello"


def test_the_end_of_a_connection_is_held_back_too(link: Link, client: socket.socket) -> None:
    assert exchange(client, b"x") == b"x"
    link.cut()
    client.close()
    assert link.connections() == 0 or link.pipes
    target_side = next(pipe for pipe in link.pipes if pipe.way is Way.TO_TARGET)
    wait_until(lambda: target_side.waiting, timeout_s=5, what="the end to arrive at the proxy")
    assert not target_side.sink.is_closing()
    link.heal()
    wait_until(target_side.sink.is_closing, timeout_s=5, what="the target's connection to be closed")


def test_a_delay_is_waited_out_and_drawn_from_the_seed(link: Link, client: socket.socket) -> None:
    link.delay(0.1, 0.15)
    started = time.monotonic()
    assert exchange(client, b"slow") == b"slow"
    assert 0.2 <= time.monotonic() - started < 2.0
    link.heal()
    started = time.monotonic()
    assert exchange(client, b"fast") == b"fast"
    assert time.monotonic() - started < 0.2


def test_the_same_seed_draws_the_same_delays(echo: EchoServer) -> None:
    drawn = []
    for _ in range(2):
        with FaultProxy(seed=7) as proxy:
            links = [proxy.link(echo.server_address[1]) for _ in range(2)]
            for link in links:
                link.delay(0.0, 1.0)
            drawn.append([link.draw_delay_s() for link in links for _ in range(5)])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 10


def test_a_reset_ends_connections_but_not_the_link(link: Link, client: socket.socket) -> None:
    assert exchange(client, b"x") == b"x"
    assert link.connections() == 1
    link.reset()
    try:
        assert client.recv(1) == b""
    except ConnectionResetError:
        pass
    wait_until(lambda: link.connections() == 0, timeout_s=5, what="the connection to be gone")
    with socket.create_connection(("127.0.0.1", link.port), timeout=5) as again:
        assert exchange(again, b"y") == b"y"


def test_a_target_that_refuses_is_refused(echo: EchoServer) -> None:
    with FaultProxy(seed=1) as proxy:
        link = proxy.link(free_ports(1)[0])
        with socket.create_connection(("127.0.0.1", link.port), timeout=5) as client:
            try:
                assert client.recv(1) == b""
            except ConnectionResetError:
                pass


def test_a_sender_is_not_read_for_ever_through_a_cut(link: Link, client: socket.socket) -> None:
    assert exchange(client, b"x") == b"x"
    link.cut()
    client.settimeout(QUIET_S)
    sent = 0
    try:
        while sent < 20 * HELD_BYTES_MAX:
            sent += client.send(bytes(1 << 16))
    except TimeoutError:
        pass  # nobody reads any more, which is what should happen
    assert sent < 20 * HELD_BYTES_MAX
    assert max(pipe.held_bytes for pipe in link.pipes) <= HELD_BYTES_MAX + (1 << 20)
    link.heal()
    client.settimeout(5)
    assert len(receive(client, sent)) >= sent
