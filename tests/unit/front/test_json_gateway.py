"""The gateway's pages over routes that a test makes up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.api import outcomes
from coordinator.api.call import Api, Route
from coordinator.front import json_text
from coordinator.front.answers import AnswerRoom, CommonShare
from coordinator.front.http_pages import Pages, Request, Response
from coordinator.front.json_gateway import CORS, gateway_pages
from coordinator.front.limits import Limits
from coordinator.front.tally import Held, Tally
from proto import errors
from proto.codes import Code
from proto.etcd import rpc_pb2 as etcd
from proto.methods import METHODS, Access, ApiName, Kind, Method
from tests.unit.coordinator.running import in_loop
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.api.call import Call, Handler

API = Api(outcomes=outcomes.ETCD, message_bytes_max=1000)
WATCH = "/etcdserverpb.Watch/Watch"


def route(path: str, handler: Handler, method: Method | None = None) -> Route:
    return Route(path=path, method=method or METHODS[path], api=API, handler=handler, timeout_s=5.0)


def watch_route(handler: Callable[[Call], Any]) -> Route:
    method = Method(api=ApiName.ETCD, access=Access.COORDINATOR, kind=Kind.BIDI_STREAM, http=("/v3/watch",))
    return route(WATCH, handler, method)


def share_of(tally: Tally, limits: Limits | None = None) -> CommonShare:
    """Of pages whose answers are counted there."""
    room = AnswerRoom(limits or Limits(), asyncio.get_running_loop().call_soon)
    room.tally = tally
    return CommonShare(room, Held(tally, room.release_soon))


async def post(
    one: Route, path: str, body: bytes, share: CommonShare | None = None, **headers: str
) -> Response:
    pages = gateway_pages({one.path: one}, asyncio.get_running_loop(), share or share_of(Tally()))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await pages["POST", path](Request(method="POST", path=path, query="", headers=named, body=body))


async def lines(response: Response) -> list[dict[str, Any]]:
    assert isinstance(response.body, AsyncGenerator)
    parts = [part async for part in response.body]
    assert all(part.endswith(b"\n") and part.count(b"\n") == 1 for part in parts), "one object in each chunk"
    return [json.loads(part) for part in parts]


@in_loop
async def test_a_call_reaches_the_route_and_its_answer_comes_back() -> None:
    seen: list[Call] = []

    async def put(call: Call) -> bytes:
        seen.append(call)
        return etcd.PutResponse(header=etcd.ResponseHeader(revision=4)).SerializeToString()

    response = await post(
        route("/etcdserverpb.KV/Put", put),
        "/v3/kv/put",
        b'{"key":"Zm9v","value":"YmFy"}',
        authorization="a token",
        grpc_metadata_table="users",
        cookie="not for us",
    )
    assert response.status == HTTPStatus.OK
    assert response.body == b'{"header":{"revision":"4"}}'
    assert dict(response.headers)["Content-Type"] == "application/json"
    assert etcd.PutRequest.FromString(seen[0].body) == etcd.PutRequest(key=b"foo", value=b"bar")
    assert seen[0].metadata == {"authorization": "a token", "table": "users", "grpcgateway-accept": "*/*"}


@in_loop
async def test_an_error_has_the_apis_text_and_the_gateways_status() -> None:
    async def put(_call: Call) -> bytes:
        raise errors.EmptyKey

    response = await post(route("/etcdserverpb.KV/Put", put), "/v3beta/kv/put", b"")
    assert response.status == HTTPStatus.BAD_REQUEST
    assert response.body == (
        b'{"error":"etcdserver: key is not provided","code":3,"message":"etcdserver: key is not provided"}'
    )


@in_loop
async def test_a_bug_says_nothing_of_what_clients_store() -> None:
    async def put(_call: Call) -> bytes:
        raise ValueError("a client's secret")

    response = await post(route("/etcdserverpb.KV/Put", put), "/v3/kv/put", b"{}")
    assert response.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert isinstance(response.body, bytes)
    assert b"secret" not in response.body


@in_loop
async def test_a_request_over_the_apis_limit_is_refused_as_over_grpc() -> None:
    async def put(_call: Call) -> bytes:
        raise AssertionError

    body = json.dumps({"key": "Zm9v" * 400}).encode()
    response = await post(route("/etcdserverpb.KV/Put", put), "/v3/kv/put", body)
    assert response.status == HTTPStatus.TOO_MANY_REQUESTS


@in_loop
async def test_bad_json_is_the_callers_mistake() -> None:
    async def put(_call: Call) -> bytes:
        raise AssertionError

    response = await post(route("/etcdserverpb.KV/Put", put), "/v3/kv/put", b"{")
    assert response.status == HTTPStatus.BAD_REQUEST
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["code"] == 3


@in_loop
async def test_a_stream_takes_several_messages_and_answers_a_line_each() -> None:
    async def watch(call: Call) -> None:
        async for message in call.messages():
            created = etcd.WatchRequest.FromString(message).create_request
            await call.send(etcd.WatchResponse(watch_id=created.watch_id, created=True).SerializeToString())

    body = b'{"create_request":{"watch_id":7}}{"create_request":{"watch_id":"8"}}'
    response = await post(watch_route(watch), "/v3/watch", body)
    assert await lines(response) == [
        {"result": {"watch_id": "7", "created": True}},
        {"result": {"watch_id": "8", "created": True}},
    ]


@in_loop
async def test_a_stream_that_fails_first_has_a_status_and_later_a_line() -> None:
    async def fail(_call: Call) -> None:
        raise errors.NoLeader

    failed = await post(watch_route(fail), "/v3/watch", b"{}")
    assert failed.status == HTTPStatus.SERVICE_UNAVAILABLE

    async def fail_later(call: Call) -> None:
        await call.send(etcd.WatchResponse(created=True).SerializeToString())
        raise errors.NoLeader

    late = await post(watch_route(fail_later), "/v3/watch", b"{}")
    assert late.status == HTTPStatus.OK
    assert (await lines(late))[1] == {
        "error": {
            "grpc_code": 14,
            "http_code": 503,
            "message": "etcdserver: no leader",
            "http_status": "Service Unavailable",
        }
    }


@in_loop
async def test_garbage_fails_a_stream_only_if_it_comes_first() -> None:
    async def count(call: Call) -> None:
        number = len([message async for message in call.messages()])
        await call.send(etcd.WatchResponse(watch_id=number).SerializeToString())

    first = await post(watch_route(count), "/v3/watch", b"nonsense")
    assert first.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert isinstance(first.body, bytes)
    assert json.loads(first.body)["code"] == Code.UNKNOWN  # as of a call: no stream has begun
    later = await post(watch_route(count), "/v3/watch", b'{"create_request":{}}nonsense')
    assert await lines(later) == [{"result": {"watch_id": "1"}}]


@in_loop
async def test_a_client_that_leaves_a_stream_cancels_its_handler() -> None:
    ended = asyncio.Event()

    async def watch(call: Call) -> None:
        try:
            while True:
                await call.send(etcd.WatchResponse(created=True).SerializeToString())
        finally:
            ended.set()

    response = await post(watch_route(watch), "/v3/watch", b"{}")
    assert isinstance(response.body, AsyncGenerator)
    await anext(response.body)
    await response.body.aclose()
    assert ended.is_set()


@in_loop
async def test_web_pages_of_others_may_ask() -> None:
    async def put(_call: Call) -> bytes:
        return b""

    one = route("/etcdserverpb.KV/Put", put)
    pages = Pages(gateway_pages({one.path: one}, asyncio.get_running_loop(), share_of(Tally())), cors=CORS)
    for method, path, status in (
        ("POST", "/v3/kv/put", 200),
        ("OPTIONS", "/v3/kv/put", 200),
        ("OPTIONS", "/nothing", 200),
        ("GET", "/v3/kv/put", 405),
        ("POST", "/v3/nothing", 404),
    ):
        response = await pages.answer(Request(method=method, path=path, query="", headers={}, body=b""))
        assert response.status == status
        headers = dict(response.headers)
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers.get("Allow") == ("POST, OPTIONS" if status == 405 else None)


@in_loop
async def test_clients_are_told_apart() -> None:
    """What one of them may have at a time is counted by who it is."""
    peers: list[str] = []

    async def put(call: Call) -> bytes:
        peers.append(call.peer)
        return b""

    one = route("/etcdserverpb.KV/Put", put)
    pages = gateway_pages({one.path: one}, asyncio.get_running_loop(), share_of(Tally()))
    for peer in ("10.0.0.1:5", "10.0.0.2:7"):
        path = "/v3/kv/put"
        await pages["POST", path](
            Request(method="POST", path=path, query="", headers={}, body=b"", peer=peer)
        )
    assert peers == ["10.0.0.1:5", "10.0.0.2:7"]


@pytest.mark.parametrize("path", [path for path, method in METHODS.items() if method.http])
def test_every_path_of_the_gateway_belongs_to_one_method(path: str) -> None:
    others = {http for name, method in METHODS.items() if name != path for http in method.http}
    assert not others & set(METHODS[path].http)


async def _never(_call: Call) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


@in_loop
async def test_a_client_says_how_long_it_waits() -> None:
    unary = route("/etcdserverpb.KV/Put", _never)
    response = await post(unary, "/v3/kv/put", b'{"key":"Zm9v"}', grpc_timeout="20m")
    assert response.status == HTTPStatus.GATEWAY_TIMEOUT
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["message"] == "context deadline exceeded"
    assert unary.meter.failures == {Code.DEADLINE_EXCEEDED: 1}

    async def watch(call: Call) -> None:
        await call.send(etcd.WatchResponse(created=True).SerializeToString())
        await _never(call)

    response = await post(watch_route(watch), "/v3/watch", b"{}", grpc_timeout="20000u")
    created, end = await lines(response)
    assert created["result"]["created"]
    assert end["error"]["grpc_code"] == Code.DEADLINE_EXCEEDED
    for one, path in ((unary, "/v3/kv/put"), (watch_route(watch), "/v3/watch")):
        refused = await post(one, path, b'{"key":"Zm9v"}', grpc_timeout="soon")
        assert refused.status == HTTPStatus.BAD_REQUEST
        assert isinstance(refused.body, bytes)
        assert json.loads(refused.body)["error"] == "invalid grpc-timeout: soon"


# ---- large answers ---------------------------------------------------------------------------------------------------


def large_answer() -> etcd.RangeResponse:
    answer = etcd.RangeResponse()
    for number in range(200):
        answer.kvs.add(key=b"%d" % number, value=bytes(1_000))
    return answer


async def answer_much(_call: Call) -> bytes:
    return large_answer().SerializeToString()


@in_loop
async def test_a_large_answer_is_made_in_parts_and_counts_meanwhile() -> None:
    one = route("/etcdserverpb.KV/Range", answer_much)
    response = await post(one, "/v3/kv/range", b"{}")
    assert isinstance(response.body, Iterator)
    assert response.held_bytes == len(await answer_much(None))  # type: ignore[arg-type]
    assert b"".join(response.body) == json_text.encode(json_text.to_value(large_answer()))


@in_loop
async def test_an_answer_for_which_there_is_no_room_is_refused() -> None:
    async def write_much(call: Call) -> bytes:
        tally.bytes = 2_000_000
        return await answer_much(call)

    limits = Limits(answer_bytes_max=1_000_000)
    tally = Tally()
    read = route("/etcdserverpb.KV/Range", write_much)
    response = await post(read, "/v3/kv/range", b"{}", share_of(tally, limits))
    assert response.status == HTTPStatus.TOO_MANY_REQUESTS
    tally = Tally()
    # A write has happened: nobody may say that it has not.
    write = route("/etcdserverpb.KV/Txn", write_much)
    response = await post(write, "/v3/kv/txn", b"{}", share_of(tally, limits))
    assert response.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert isinstance(response.body, bytes)
    assert b"request timed out" in response.body


@in_loop
async def test_a_call_waits_for_room_until_its_deadline() -> None:
    tally = Tally()
    tally.bytes = 1_000_000
    share = share_of(tally, Limits(answer_bytes_max=1_000_000, calls_waiting_max=1))
    one = replace(route("/etcdserverpb.KV/Range", answer_much), timeout_s=0.05)
    one.meter.answer_bytes_mean = 100_000
    first = asyncio.create_task(post(one, "/v3/kv/range", b"{}", share))
    await wait_until_async(lambda: share._room.turns, timeout_s=5, what="a call that waits")
    assert (await post(one, "/v3/kv/range", b"{}", share)).status == HTTPStatus.TOO_MANY_REQUESTS
    assert (await first).status == HTTPStatus.SERVICE_UNAVAILABLE
    assert not share._room.turns
    patient = asyncio.create_task(post(replace(one, timeout_s=5.0), "/v3/kv/range", b"{}", share))
    await wait_until_async(lambda: share._room.turns, timeout_s=5, what="a call that waits")
    tally.bytes = 0
    share._room.release_soon()
    assert (await patient).status == HTTPStatus.OK


@in_loop
async def test_a_call_that_waits_goes_on_when_another_answer_is_sent() -> None:
    room = AnswerRoom(Limits(answer_bytes_max=1_000_000), asyncio.get_running_loop().call_soon)
    held = Held(room.tally, room.release_soon)
    one = route("/etcdserverpb.KV/Range", answer_much)
    one.meter.answer_bytes_mean = 100_000
    with held.holding(1_000_000):
        waiting = asyncio.create_task(post(one, "/v3/kv/range", b"{}", CommonShare(room, held)))
        await wait_until_async(lambda: room.turns, timeout_s=5, what="a call that waits")
    assert (await asyncio.wait_for(waiting, 2)).status == HTTPStatus.OK


@in_loop
async def test_a_small_call_does_not_wait_for_an_answer_that_another_client_does_not_read() -> None:
    room = AnswerRoom(Limits(answer_bytes_max=1_000_000), asyncio.get_running_loop().call_soon)
    held = Held(room.tally, room.release_soon)
    share = CommonShare(room, held)

    async def put(_call: Call) -> bytes:
        return etcd.PutResponse().SerializeToString()

    write = route("/etcdserverpb.KV/Put", put)
    with held.holding(1_500_000):
        response = await asyncio.wait_for(post(write, "/v3/kv/put", b'{"key":"Zm9v"}', share), 2)
    assert response.status == HTTPStatus.OK


class Crowd:
    """Calls of one method that wait for room, each expected to take all of it."""

    def __init__(self, count: int) -> None:
        self.tally = Tally()
        self.tally.bytes = 1_000_000
        self.share = share_of(self.tally, Limits(answer_bytes_max=1_000_000))
        self.room = self.share._room
        self.one = route("/etcdserverpb.KV/Range", self._answer)
        self.one.meter.answer_bytes_mean = 1_000_000
        self.running = 0
        self.go_on = asyncio.Event()
        self.calls = [
            asyncio.create_task(post(self.one, "/v3/kv/range", b"{}", self.share)) for _ in range(count)
        ]

    async def _answer(self, _call: Call) -> bytes:
        self.running += 1
        await self.go_on.wait()
        return b""

    async def wait(self) -> None:
        """Until all of them wait."""
        await wait_until_async(
            lambda: self.room.calls_waiting == len(self.calls), timeout_s=5, what="calls that wait"
        )

    async def end(self) -> None:
        """Let all that is left of them go through, and nothing stay behind."""
        self.go_on.set()
        left = [call for call in self.calls if not call.cancelled()]
        assert all(response.status == HTTPStatus.OK for response in await asyncio.gather(*left))
        assert not self.room.turns
        assert self.room.calls_waiting == self.room.expected_bytes == self.room.running == 0


@in_loop
async def test_calls_that_waited_start_as_far_as_there_is_room() -> None:
    crowd = Crowd(10)
    await crowd.wait()
    crowd.tally.bytes = 0
    crowd.room.release_soon()
    await wait_until_async(lambda: crowd.running, timeout_s=5, what="a call that runs")
    assert (crowd.running, crowd.room.calls_waiting) == (1, 9)
    await crowd.end()
    assert crowd.running == 10


@in_loop
async def test_a_client_that_goes_just_before_its_turn_holds_up_nobody() -> None:
    crowd = Crowd(3)
    await crowd.wait()
    crowd.tally.bytes = 0
    crowd.room.release_soon()
    crowd.calls[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await crowd.calls[0]
    crowd.calls.pop(0)
    await crowd.end()
    assert crowd.running == 2


@in_loop
async def test_a_client_that_goes_just_after_its_turn_gives_its_room_back() -> None:
    crowd = Crowd(3)
    await crowd.wait()
    crowd.tally.bytes = 0
    crowd.room._release()
    assert (crowd.room.running, crowd.room.calls_waiting) == (1, 2)
    crowd.calls[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await crowd.calls[0]
    crowd.calls.pop(0)
    await crowd.end()
    assert crowd.running == 2
    assert crowd.one.meter.failures == {Code.CANCELLED: 1}
