"""TLS on a port: who gets in, which certificate is shown, and what those hear who speak something else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import grpc
import h2.events
import pytest
import trustme
from structlog.testing import capture_logs

from config.changed_files import LOOK_INTERVAL_S
from config.tls_files import TlsUnusable
from coordinator.front.certificates import is_valid_for
from coordinator.front.tls_listener import TlsListener
from proto.methods import Kind
from tests.unit.coordinator.running import in_loop
from tests.unit.front.certificates import (
    AUTHORITY,
    client_context,
    files,
    server_tls,
    touch_later,
    write,
)
from tests.unit.front.raw_client import raw, short
from tests.unit.front.serving import route, serving
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.api.call import Call
    from tests.unit.front.serving import Serving


async def echo(call: Call) -> bytes:
    return call.body


async def who(call: Call) -> bytes:
    return call.identity.common_name.encode()


async def get(server: Serving, tls: ssl.SSLContext | None) -> bytes:
    """All of what GET /healthz brings by HTTP/1.1; b"" if the connection ends without an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return await reader.read()
    except (ConnectionError, ssl.SSLError):
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def answers(server: Serving, tls: ssl.SSLContext) -> bool:
    return (await get(server, tls)).startswith(b"HTTP/1.1 200")


async def call(
    server: Serving, method: str, leaf: trustme.LeafCert | None = None, body: bytes = b""
) -> bytes:
    """By gRPC, with a certificate of the client's own if one is given."""
    credentials = grpc.ssl_channel_credentials(
        AUTHORITY.cert_pem.bytes(),
        leaf.private_key_pem.bytes() if leaf else None,
        leaf.cert_chain_pems[0].bytes() if leaf else None,
    )
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(f"localhost:{server.port}", credentials, options=options) as channel:
        method_call = channel.unary_unary(f"/test.Service/{method}", None, None)
        answer: bytes = await method_call(body, timeout=5)
        return answer


# ---- what is spoken --------------------------------------------------------------------------------------------------


@in_loop
async def test_alpn_says_what_a_connection_speaks(tmp_path: Path) -> None:
    async with serving(route("Echo", echo), tls=server_tls(files(tmp_path))) as server:
        assert await call(server, "Echo", body=bytes(1_000_000)) == bytes(1_000_000)
        assert await answers(server, client_context("http/1.1"))
        assert await answers(server, client_context()), "and without ALPN the first bytes do"


@in_loop
async def test_who_offers_both_wants_a_page(tmp_path: Path) -> None:
    async with serving(tls=server_tls(files(tmp_path))) as server:
        assert await answers(server, client_context("h2", "http/1.1"))


@pytest.mark.parametrize("said", [b"GET /health HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_who_speaks_in_the_clear_is_told(said: bytes, tmp_path: Path) -> None:
    @in_loop
    async def scenario() -> None:
        async with serving(tls=server_tls(files(tmp_path))) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(said)
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert answer.endswith(b"\r\n\r\nthis port speaks TLS; use https\n")

    scenario()


@in_loop
async def test_a_grpc_client_in_the_clear_does_not_come_back_at_once(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with serving(route("Echo", echo), tls=server_tls(files(tmp_path))) as server:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await server.unary("Echo")(b"", timeout=1.0, wait_for_ready=False)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    refused = [entry for entry in logs if entry.get("reason") == "it does not speak TLS"]
    assert 1 <= len(refused) <= 3


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
def test_a_handshake_that_does_not_end_is_ended(said: bytes, tmp_path: Path) -> None:
    @in_loop
    async def scenario() -> None:
        tls = server_tls(files(tmp_path))
        async with (
            serving(limits=short(handshake_s=0.1), tls=tls) as server,
            raw(server, hello=False) as peer,
        ):
            peer.writer.write(said)
            await wait_until_async(lambda: server.front.greeting == 1, timeout_s=5, what="the connection")
            assert await peer.ended()
            await wait_until_async(lambda: server.front.greeting == 0, timeout_s=5, what="its end")

    scenario()


@in_loop
async def test_handshakes_count_as_connections(tmp_path: Path) -> None:
    tls = server_tls(files(tmp_path))
    async with serving(limits=short(connections_max=1), tls=tls) as server:
        async with raw(server, hello=False):
            await wait_until_async(lambda: server.front.greeting == 1, timeout_s=5, what="the connection")
            assert await get(server, None) == b"", "cut without a word"
        await wait_until_async(lambda: server.front.greeting == 0, timeout_s=5, what="its end")
        assert await answers(server, client_context())


@in_loop
async def test_a_handshake_that_has_begun_goes_on_when_no_more_are_accepted(tmp_path: Path) -> None:
    async with serving(tls=server_tls(files(tmp_path))) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await wait_until_async(lambda: server.front.greeting == 1, timeout_s=5, what="the connection")
        server.listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        await writer.start_tls(client_context(), server_hostname="localhost")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()


@in_loop
async def test_a_port_that_its_owner_has_ended_is_left_alone(tmp_path: Path) -> None:
    """As the supervisor does before it stops the process: until then nothing is to be done, and nothing to be said."""
    tls = server_tls(files(tmp_path))
    async with serving(tls=tls) as server:
        loop, failures = asyncio.get_running_loop(), list[dict[str, Any]]()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        with socket.create_server(("127.0.0.1", 0)) as ours:
            listener = TlsListener(server.front, asyncio.Protocol, ours.dup(), tls)
            listener.start()
            ours.shutdown(socket.SHUT_RDWR)
            for _ in range(20):
                await asyncio.sleep(0)
            assert failures == []
            listener.close()


@in_loop
async def test_a_stream_that_fills_the_socket_goes_on_as_it_is_read(tmp_path: Path) -> None:
    """Back-pressure is the transport's, and TLS has one of its own."""
    part, parts, sent = bytes(100_000), 200, 0

    async def flood(call: Call) -> None:
        nonlocal sent
        for _ in range(parts):
            await call.send(part)
            sent += 1

    tls = server_tls(files(tmp_path))
    async with serving(route("Flood", flood, Kind.SERVER_STREAM), tls=tls) as server:
        async with raw(server, tls=client_context("h2"), INITIAL_WINDOW_SIZE=1 << 30) as peer:
            peer.h2.increment_flow_control_window(1 << 30)
            peer.call("/test.Service/Flood")
            # The kernel's buffers hold some megabytes, the front end one more.
            await wait_until_async(lambda: sent > 10, timeout_s=5, what="the first parts")
            (session,) = server.front.sessions
            await wait_until_async(lambda: session.unsent_bytes > 0, timeout_s=5, what="a full socket")
            assert session.unsent_bytes < 2 * server.front.limits.write_buffer_bytes + len(part)
            received = 0
            while received < parts * len(part):
                event = await peer.hears(h2.events.DataReceived)
                received += len(event.data)
            assert sent == parts


# ---- who gets in -----------------------------------------------------------------------------------------------------


@in_loop
async def test_a_client_shows_a_certificate_that_the_authority_has_signed(tmp_path: Path) -> None:
    tls = server_tls(files(tmp_path, client_cert_auth=True))
    stranger = trustme.CA().issue_cert("x.example", common_name="ann")
    async with serving(route("Who", who), tls=tls) as server:
        known = AUTHORITY.issue_cert("ann.example", common_name="ann")
        assert await call(server, "Who", known) == b"ann"
        for leaf in (None, stranger):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(server, "Who", leaf)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not await answers(server, client_context(certificate=leaf))


@in_loop
async def test_without_client_cert_auth_nobody_has_a_name(tmp_path: Path) -> None:
    async with serving(route("Who", who), tls=server_tls(files(tmp_path))) as server:
        assert await call(server, "Who", AUTHORITY.issue_cert("ann.example", common_name="ann")) == b""


@pytest.mark.parametrize("admitted", [{"allowed_cn": "ann"}, {"allowed_hostname": "ann.example"}])
def test_only_the_certificates_that_are_named(admitted: dict[str, str], tmp_path: Path) -> None:
    @in_loop
    async def scenario() -> None:
        tls = server_tls(files(tmp_path, client_cert_auth=True, **admitted))
        async with serving(route("Who", who), tls=tls) as server:
            ann = AUTHORITY.issue_cert("ann.example", common_name="ann")
            bob = AUTHORITY.issue_cert("bob.example", common_name="bob")
            assert await call(server, "Who", ann) == b"ann"
            with capture_logs() as logs:
                assert not await answers(server, client_context(certificate=bob))
            assert [entry["event"] for entry in logs] == ["a client was refused"]

    scenario()


@pytest.mark.parametrize(
    ("host", "valid"),
    [
        ("a.example", True),
        ("A.Example.", True),
        ("b.wild.example", True),
        ("wild.example", False),
        ("c.b.wild.example", False),
        ("10.0.0.1", True),
        ("10.0.0.2", False),
        ("2001:db8::1", True),
        ("only-the-common-name", False),
    ],
)
def test_which_host_a_certificate_is_valid_for(host: str, *, valid: bool) -> None:
    certificate = {
        "subject": ((("commonName", "only-the-common-name"),),),
        "subjectAltName": (
            ("DNS", "a.example"),
            ("DNS", "*.wild.example"),
            ("IP Address", "10.0.0.1"),
            ("IP Address", "2001:DB8:0:0:0:0:0:1"),
            ("email", "10.0.0.2"),
        ),
    }
    assert is_valid_for(certificate, host) == valid


# ---- files that change -----------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@in_loop
async def test_a_new_pair_is_used_from_the_next_handshake_on(tmp_path: Path) -> None:
    config, clock = files(tmp_path), Clock()
    async with serving(route("Echo", echo), tls=server_tls(config, clock)) as server:
        assert await answers(server, client_context())
        other = trustme.CA()
        write(tmp_path, other.issue_cert("127.0.0.1"), "server")
        touch_later(config.cert, config.key)
        assert await answers(server, client_context()), "no more than a look a second"
        clock.now += LOOK_INTERVAL_S
        assert await answers(server, client_context(authority=other))
        with pytest.raises(ssl.SSLError):
            await get(server, client_context())


@in_loop
async def test_open_connections_keep_what_they_began_with(tmp_path: Path) -> None:
    config, clock = files(tmp_path), Clock()
    async with serving(tls=server_tls(config, clock)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=client_context())
        write(tmp_path, trustme.CA().issue_cert("127.0.0.1"), "server")
        clock.now += LOOK_INTERVAL_S
        with pytest.raises(ssl.SSLError):
            await get(server, client_context())
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("harm", ["another key", "no PEM", "gone", "open to others"])
def test_a_broken_new_pair_is_refused_and_the_old_one_stays(harm: str, tmp_path: Path) -> None:
    @in_loop
    async def scenario() -> None:
        config, clock = files(tmp_path), Clock()
        async with serving(tls=server_tls(config, clock)) as server:
            match harm:
                case "another key":
                    AUTHORITY.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(config.key))
                case "no PEM":
                    config.cert.write_text("half a certif")
                case "gone":
                    config.cert.unlink()
                case _:
                    config.key.chmod(0o644)
                    touch_later(config.key)
            with capture_logs() as logs:
                for _ in range(3):
                    clock.now += LOOK_INTERVAL_S
                    assert await answers(server, client_context())
            refusals = [entry for entry in logs if entry["log_level"] == "error"]
            assert len(refusals) == 1, "said once"
            assert "PRIVATE KEY" not in str(refusals)
            write(tmp_path, AUTHORITY.issue_cert("127.0.0.1"), "server")
            touch_later(config.cert, config.key)
            clock.now += LOOK_INTERVAL_S
            with capture_logs() as logs:
                assert await answers(server, client_context())
            assert [entry["event"] for entry in logs] == ["a new certificate is used"]

    scenario()


def status_line(
    port: int, client: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bytes, bool, ssl.SSLSession | None]:
    """What /healthz answers first, whether the session was resumed, and the session for the next time. Blocks."""
    with socket.create_connection(("127.0.0.1", port)) as plain:
        with client.wrap_socket(plain, server_hostname="localhost", session=session) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            with contextlib.suppress(OSError):
                while data := sock.recv(1 << 16):
                    answer += data
            return answer.split(b"\r\n")[0], bool(sock.session_reused), sock.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_was_let_in_by_an_authority_that_is_gone_is_not_let_in_again(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    @in_loop
    async def scenario() -> None:
        config, clock = files(tmp_path, client_cert_auth=True), Clock()
        async with serving(tls=server_tls(config, clock)) as server:
            client = client_context(certificate=AUTHORITY.issue_cert("ann.example"))
            client.maximum_version = version
            line, _, session = await asyncio.to_thread(status_line, server.port, client, None)
            assert line == b"HTTP/1.1 200 OK"
            line, is_resumed, session = await asyncio.to_thread(status_line, server.port, client, session)
            assert (line, is_resumed) == (b"HTTP/1.1 200 OK", True)
            assert config.ca is not None
            trustme.CA().cert_pem.write_to_path(str(config.ca))
            touch_later(config.ca)
            clock.now += LOOK_INTERVAL_S
            with contextlib.suppress(OSError):  # a refusal may come before the handshake's end, or after it
                line, is_resumed, _ = await asyncio.to_thread(status_line, server.port, client, session)
                assert (line, is_resumed) == (b"", False)

    scenario()


def test_a_server_does_not_begin_with_files_that_can_not_be_used(tmp_path: Path) -> None:
    config = files(tmp_path)
    config.key.chmod(0o644)
    with pytest.raises(
        TlsUnusable, match=r"server-key.pem can be used by others than its owner; chmod 600 it"
    ):
        server_tls(config)
