"""etcd's JSON gateway: every method of its API as a POST, for who has HTTP and no gRPC (Patroni, curl).

A page translates, and calls the same route that gRPC reaches. Errors, streams and headers have the form of
grpc-gateway 1.16, which etcd 3.5 uses: an answer that streams is one JSON object a line, each in a chunk of its own,
since some clients take a chunk for a message. `Grpc-Timeout` bounds a call, as it does there.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import structlog
from google.protobuf import descriptor_pool, message_factory

from coordinator.api import outcomes
from coordinator.api.local_call import Expired, LocalCall
from coordinator.front import grpc_wire, json_text
from coordinator.front.answers import refusal
from coordinator.front.http_pages import Request, Response
from proto import errors
from proto.codes import Code
from proto.methods import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

    from google.protobuf.message import Message

    from coordinator.api.call import Metadata, Route
    from coordinator.api.meter import CallMeter
    from coordinator.front.answers import CommonShare
    from coordinator.front.http_pages import Header, Page

HTTP_STATUS: Final[Mapping[Code, HTTPStatus]] = {
    Code.OK: HTTPStatus.OK,
    Code.CANCELLED: HTTPStatus.REQUEST_TIMEOUT,
    Code.UNKNOWN: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.ABORTED: HTTPStatus.CONFLICT,
    Code.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DATA_LOSS: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
}

JSON: Final[tuple[Header, ...]] = (
    ("Content-Type", "application/json"),
    ("Grpc-Metadata-Content-Type", "application/grpc"),
)
CORS: Final[tuple[Header, ...]] = (
    ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
)

WHOLE_BYTES_MAX: Final = 16 << 10
"""An answer up to this is encoded at once; a larger one part by part, as it is sent."""

_TIMEOUT_HEADER: Final = "grpc-timeout"
_METADATA_PREFIX: Final = "grpc-metadata-"
_PASSED_ON: Final = frozenset({"authorization", "traceparent", "tracestate"})

log = structlog.get_logger()


def gateway_pages(
    routes: Mapping[str, Route], loop: asyncio.AbstractEventLoop, share: CommonShare
) -> dict[tuple[str, str], Page]:
    """A page for each HTTP path of each route that has one, and the same below /v3beta as etcd has it. share: of all
    these pages' answers."""
    pages: dict[tuple[str, str], Page] = {}
    for route in routes.values():
        if not route.method.http:
            continue
        page = _Endpoint(route, loop, share).answer
        for path in route.method.http:
            pages["POST", path] = page
            pages["POST", path.replace("/v3/", "/v3beta/", 1)] = page
    return pages


class _BadTimeout(Exception):
    """Grpc-Timeout says nothing that can be understood."""


class _Endpoint:
    """One method as a page."""

    def __init__(self, route: Route, loop: asyncio.AbstractEventLoop, share: CommonShare) -> None:
        self._route = route
        self._loop = loop
        self._share = share
        service, _, name = route.path.lstrip("/").rpartition("/")
        method = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        self._request = message_factory.GetMessageClass(method.input_type)
        self._response = message_factory.GetMessageClass(method.output_type)

    async def answer(self, request: Request) -> Response:
        """The page."""
        kind = self._route.method.kind
        if kind is Kind.UNARY:
            return await self._answer_unary(request)
        if kind is Kind.SERVER_STREAM:
            try:
                messages = [json_text.parse(request.body, self._request())]
            except json_text.BadJson as error:
                return _failed(Code.INVALID_ARGUMENT, str(error))
        else:
            messages = self._read_stream(request.body)
            if not messages and request.body.strip():
                return _failed(Code.UNKNOWN, "the body does not begin with a message of this method")
        return await self._answer_stream(request, messages)

    def _call(self, request: Request, messages: Sequence[bytes]) -> LocalCall:
        """Raises _BadTimeout."""
        told = request.headers.get(_TIMEOUT_HEADER)
        timeout_s = None if told is None else grpc_wire.parse_timeout(told.encode())
        if told is not None and timeout_s is None:
            raise _BadTimeout(f"invalid grpc-timeout: {told}")
        deadline, is_clients = grpc_wire.deadline_of(timeout_s, self._route.timeout_s, self._loop.time())
        return LocalCall(
            messages, metadata=_metadata(request), deadline=deadline, peer=request.peer, expires=is_clients
        )

    async def _answer_unary(self, request: Request) -> Response:
        try:
            body = json_text.parse(request.body, self._request()).SerializeToString()
        except json_text.BadJson as error:
            return _failed(Code.INVALID_ARGUMENT, str(error))
        if len(body) > self._route.api.message_bytes_max:
            return _failed(
                *self._outcome(errors.MessageTooLarge(f"{len(body)} vs. {self._route.api.message_bytes_max}"))
            )
        try:
            call = self._call(request, (body,))
            with self._measured(call):
                answer = await self._answer_in_turn(call)
        except Exception as error:
            return _failed(*self._outcome(error))
        message = self._response.FromString(answer)
        if len(answer) <= WHOLE_BYTES_MAX:
            return Response(headers=JSON, body=json_text.encode(json_text.to_value(message)))
        return Response(headers=JSON, body=json_text.parts(message), held_bytes=len(answer))

    async def _answer_in_turn(self, call: LocalCall) -> bytes:
        """As over gRPC: when there is room for what is to be expected, and if there is for what comes."""
        share, method, meter = self._share, self._route.method, self._route.meter
        if method.waits:
            return await call.answer(self._route)
        if share.may_start(meter.answer_bytes_mean):
            expected = share.begin(meter)
        else:
            try:
                expected = await _Turn(self._loop, share, meter).begin(call.deadline)
            except TimeoutError:
                raise Expired if call.expires else errors.ReadTimedOut from None
        answer = None
        try:
            answer = await call.answer(self._route)
        finally:
            share.end(meter, expected, None if answer is None else len(answer))
        if not share.takes_answer(len(answer)):
            raise refusal(method.access)
        return answer

    def _read_stream(self, body: bytes) -> list[Message]:
        """The messages up to the first that is none: as if the client had no more to say."""
        messages: list[Message] = []
        try:
            messages.extend(json_text.fill(value, self._request()) for value in json_text.split(body))
        except json_text.BadJson as error:
            log.debug("a stream's request ends early", method=self._route.path, reason=str(error))
        return messages

    async def _answer_stream(self, request: Request, messages: list[Message]) -> Response:
        try:
            call = self._call(request, [message.SerializeToString() for message in messages])
        except _BadTimeout as error:
            return _failed(*self._outcome(error))
        self._route.meter.received += len(messages)
        answers = self._answers(call)
        try:
            first = await anext(answers, None)
        except Exception as error:
            return _failed_stream(*self._outcome(error))
        return Response(headers=JSON, body=self._lines(first, answers))

    async def _answers(self, call: LocalCall) -> AsyncGenerator[bytes]:
        with self._measured(call):
            async with contextlib.aclosing(call.answers(self._route)) as answers:
                async for answer in answers:
                    self._route.meter.sent += 1
                    yield answer

    @contextlib.contextmanager
    def _measured(self, call: LocalCall) -> Iterator[None]:
        """Count a call as those over gRPC are counted."""
        meter, began_s = self._route.meter, perf_counter()
        try:
            yield
        except errors.BoathouseError as error:
            meter.failed(outcomes.to_status(self._route.api.outcomes, error).code)
            raise
        except Expired:
            meter.failed(Code.DEADLINE_EXCEEDED)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            meter.failed(Code.CANCELLED)
            raise
        except BaseException:
            meter.failed(Code.INTERNAL)
            raise
        finally:
            meter.ended(call.table, perf_counter() - began_s)

    async def _lines(self, first: bytes | None, answers: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        try:
            if first is None:
                return
            yield await self._line(first)
            async for answer in answers:
                yield await self._line(answer)
        except Exception as error:
            yield json_text.encode(_stream_error(*self._outcome(error))) + b"\n"
        finally:
            await answers.aclose()

    async def _line(self, answer: bytes) -> bytes:
        """An answer of a stream, which stays one chunk; others have their turns while a large one is made."""
        parts = [b'{"result":']
        for part in json_text.parts(self._response.FromString(answer)):
            parts.append(part)
            if len(part) >= json_text.PART_BYTES:
                await asyncio.sleep(0)
        return b"".join((*parts, b"}\n"))

    def _outcome(self, error: Exception) -> tuple[Code, str]:
        """The code and the text of an error, as gRPC would show them."""
        if isinstance(error, Expired):
            return Code.DEADLINE_EXCEEDED, "context deadline exceeded"
        if isinstance(error, _BadTimeout):
            return Code.INVALID_ARGUMENT, str(error)
        if not isinstance(error, errors.BoathouseError):
            log.error("a call failed with an unexpected error", method=self._route.path, exc_info=error)
            error = errors.InvariantBroken(type(error).__name__)
        row = outcomes.to_status(self._route.api.outcomes, error)
        return row.code, row.text


class _Turn:
    """A call that waits for room."""

    def __init__(self, loop: asyncio.AbstractEventLoop, share: CommonShare, meter: CallMeter) -> None:
        self._share = share
        self._meter = meter
        self._is_waiting = False
        self._begun: asyncio.Future[int] = loop.create_future()

    def proceed(self) -> None:
        """See answers.Waiting. What is expected of it counts from here on, before others have their turns."""
        self._is_waiting = False
        if not self._begun.done():  # or it is cancelled, and has not heard of that yet
            self._begun.set_result(self._share.begin(self._meter))

    async def begin(self, deadline: float) -> int:
        """Wait, and begin as with CommonShare.begin. Raises QueueFull if too many wait, TimeoutError if its turn does
        not come in time."""
        self._is_waiting = self._share.wait_to_start(self, self._meter.answer_bytes_mean)
        if not self._is_waiting:
            raise errors.QueueFull("too many requests wait for answers to be read")
        try:
            async with asyncio.timeout_at(deadline):
                return await self._begun
        except BaseException:
            if self._is_waiting:
                self._share.withdraw(self)
            elif not self._begun.cancelled():
                self._share.end(self._meter, self._begun.result(), None)
            raise


def gateway_headers(metadata: Metadata) -> dict[str, str]:
    """The headers that stand for this metadata."""
    return {f"{_METADATA_PREFIX}{name}": value for name, value in metadata.items()}


def _metadata(request: Request) -> Metadata:
    """What gRPC would have heard: `Grpc-Metadata-X: v` as x, and the token. The mark says that this is no TLS client
    of its own, so that nobody takes the gateway's certificate for the user's."""
    metadata = {"grpcgateway-accept": request.headers.get("accept", "*/*")}
    for name, value in request.headers.items():
        if name.startswith(_METADATA_PREFIX):
            metadata[name.removeprefix(_METADATA_PREFIX)] = value
        elif name in _PASSED_ON:
            metadata[name] = value
    return metadata


def _failed(code: Code, text: str) -> Response:
    body = json_text.encode({"error": text, "code": int(code), "message": text})
    return Response(status=HTTP_STATUS[code], headers=JSON[:1], body=body)


def _stream_error(code: Code, text: str) -> dict[str, Any]:
    status = HTTP_STATUS[code]
    return {
        "error": {
            "grpc_code": int(code),
            "http_code": status.value,
            "message": text,
            "http_status": status.phrase,
        }
    }


def _failed_stream(code: Code, text: str) -> Response:
    body = json_text.encode(_stream_error(code, text)) + b"\n"
    return Response(status=HTTP_STATUS[code], headers=JSON[:1], body=body)
