"""gRPC's test service on our front end, with nothing of a cluster behind it.

https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md says what each method has to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

from coordinator.api import outcomes
from coordinator.api.call import Api, Call, Handler, Route
from coordinator.front import http1, http_pages
from coordinator.front.front import Front
from coordinator.front.limits import DEFAULT
from coordinator.front.listener import Listener
from coordinator.front.routes import Routes
from proto import errors
from proto.codes import Code
from proto.methods import Access, ApiName, Kind, Method
from tests.conformance.foreign import testing_pb2 as testing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVICE: Final = "grpc.testing.TestService"
MESSAGE_BYTES_MAX: Final = 4 << 20

ECHOED_HEADER: Final = "x-grpc-test-echo-initial"
ECHOED_TRAILER: Final = "x-grpc-test-echo-trailing-bin"


class AskedFor(errors.BoathouseError):
    """The client asked for this end."""

    frame_code = 9_100


API: Final = Api(
    # The test cases that ask for a status ask for this code.
    outcomes={**outcomes.GRPC, AskedFor: outcomes.Row(Code.UNKNOWN, "{detail}")},
    message_bytes_max=MESSAGE_BYTES_MAX,
)


async def empty_call(_call: Call) -> bytes:
    return testing.Empty().SerializeToString()


async def unary_call(call: Call) -> bytes:
    echo_metadata(call)
    request = testing.SimpleRequest.FromString(call.body)
    maybe_end(request.response_status)
    return testing.SimpleResponse(payload=payload(request.response_size)).SerializeToString()


async def streaming_input_call(call: Call) -> bytes:
    size = 0
    async for message in call.messages():
        size += len(testing.StreamingInputCallRequest.FromString(message).payload.body)
    return testing.StreamingInputCallResponse(aggregated_payload_size=size).SerializeToString()


async def streaming_output_call(call: Call) -> None:
    await answer_one(call, call.body)


async def full_duplex_call(call: Call) -> None:
    echo_metadata(call)
    async for message in call.messages():
        await answer_one(call, message)


async def answer_one(call: Call, message: bytes) -> None:
    request = testing.StreamingOutputCallRequest.FromString(message)
    maybe_end(request.response_status)
    for wanted in request.response_parameters:
        answer = testing.StreamingOutputCallResponse(payload=payload(wanted.size))
        await call.send(answer.SerializeToString())


def payload(size: int) -> testing.Payload:
    return testing.Payload(body=bytes(size))


def maybe_end(status: testing.EchoStatus) -> None:
    """Raises AskedFor."""
    if status.code:
        assert status.code == Code.UNKNOWN
        raise AskedFor(status.message)


def echo_metadata(call: Call) -> None:
    if ECHOED_HEADER in call.metadata:
        call.add_header(ECHOED_HEADER, call.metadata[ECHOED_HEADER])
    if ECHOED_TRAILER in call.metadata:
        call.add_trailer(ECHOED_TRAILER, call.metadata[ECHOED_TRAILER])


HANDLERS: Final[dict[str, tuple[Kind, Handler]]] = {
    "EmptyCall": (Kind.UNARY, empty_call),
    "UnaryCall": (Kind.UNARY, unary_call),
    "StreamingInputCall": (Kind.CLIENT_STREAM, streaming_input_call),
    "StreamingOutputCall": (Kind.SERVER_STREAM, streaming_output_call),
    "FullDuplexCall": (Kind.BIDI_STREAM, full_duplex_call),
}


def make_front() -> Front:
    routes = [
        Route(
            path=f"/{SERVICE}/{name}",
            method=Method(api=ApiName.GRPC, access=Access.COORDINATOR, kind=kind),
            api=API,
            handler=handler,
            timeout_s=None,
        )
        for name, (kind, handler) in HANDLERS.items()
    ]
    known = Routes(routes, known_services=frozenset({SERVICE}), unserved=API)
    return Front(asyncio.get_running_loop(), known, DEFAULT)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """A server with the test service, and a page at /; its port."""
    front, pages = make_front(), http_pages.Pages({("GET", "/"): http_pages.alive})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener = Listener(front, http1.Door(pages), listening)
        await listener.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listener.close()
            pages.close()
            front.close()
