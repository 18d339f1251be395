"""Ways to the leader cluster whose certificates or token change: a server that answers when it is told to."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from config import ClusterConfig
from config.access import FollowsConfig
from config.token_files import BadTokenFile
from coordinator.replication.channels import LeaderChannels
from coordinator.replication.leader import LeaderFailed
from coordinator.replication.token_key import TOKEN_KEY
from tests.unit.coordinator.running import in_loop
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

PATH = "/replication.v1.Snapshot/Stream"


class Server(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Answers each call with the token that it showed, and goes on once it may."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()

    def service(self, _details: object) -> Any:
        return grpc.unary_stream_rpc_method_handler(self._answer)

    async def _answer(self, _request: bytes, context: Any) -> AsyncGenerator[bytes]:
        yield dict(context.invocation_metadata())[TOKEN_KEY].encode()
        await self.may_go_on.wait()
        yield b"the rest"


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Server, LeaderChannels, Path]]:
    server = grpc.aio.server()
    handler = Server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    token = folder / "token"
    write_token(token, "the-first-token-of-all")
    follows = FollowsConfig(cluster="harbour", endpoints=[f"127.0.0.1:{port}"] * 2, token_file=token)
    ticks = iter(range(1_000))
    channels = LeaderChannels(follows, lambda: float(2 * next(ticks)))
    try:
        yield handler, channels, token
    finally:
        await channels.close()
        await server.stop(None)


def write_token(file: Path, token: str) -> None:
    file.write_text(token)
    file.chmod(0o600)


@in_loop
async def test_a_new_token_ends_no_call_and_the_old_channels_are_closed_behind_the_last(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (server, channels, token):
        with channels.calling() as (before, _):
            pass
        async with aclosing(channels.stream(PATH, b"", None)) as old:
            assert await anext(old) == b"the-first-token-of-all"
            write_token(token, "another-token-later-on")
            async with aclosing(channels.stream(PATH, b"", None)) as new:
                assert await anext(new) == b"another-token-later-on"
            await asyncio.sleep(0)
            server.may_go_on.set()
            assert [answer async for answer in old] == [b"the rest"]
        await wait_until_async(
            lambda: before.get_state() is grpc.ChannelConnectivity.SHUTDOWN,
            timeout_s=10,
            what="the old channel is closed",
        )


@in_loop
async def test_a_call_that_ends_with_its_channel_is_a_failure_and_no_end_of_the_caller(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (_, channels, _):
        stream = channels.stream(PATH, b"", None)
        await anext(stream)
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, channels.close())
        with pytest.raises(LeaderFailed, match="channel was closed"):
            await anext(stream)


@in_loop
async def test_a_stream_that_does_not_go_on_is_a_failure_and_the_next_endpoint_is_asked(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (server, channels, _):
        with channels.calling() as (mute, _):
            stream = channels.stream(PATH, b"", None, 0.2)
        with pytest.raises(LeaderFailed, match="DEADLINE_EXCEEDED: its answer does not go on"):
            [answer async for answer in stream]
        with channels.calling() as (next_one, _):
            assert next_one is not mute
        server.may_go_on.set()
        answers = [answer async for answer in channels.stream(PATH, b"", None, 60.0)]
        assert answers == [b"the-first-token-of-all", b"the rest"]


@in_loop
async def test_a_node_is_enough_whose_files_are_here(tmp_path: Path) -> None:
    token = tmp_path / "n2"
    follows = {
        "cluster": "harbour",
        "endpoints": ["127.0.0.1:1"],
        "token_file": str(tmp_path / "{node}"),
    }
    cluster = ClusterConfig.model_validate(
        {
            "cluster": "island",
            "nodes": {"n1": {}, "n2": {"host": "127.0.0.2"}},
            "follows": follows,
        }
    )
    with pytest.raises(BadTokenFile):
        LeaderChannels.of_any_node(cluster, lambda: 0.0)
    write_token(token, "the-token-of-all-nodes")
    channels = LeaderChannels.of_any_node(cluster, lambda: 0.0)
    with channels.calling() as (_, metadata):
        assert metadata == ((TOKEN_KEY, "the-token-of-all-nodes"),)
    await channels.close()


@in_loop
async def test_who_is_cancelled_himself_ends(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, channels, _):
        stream = channels.stream(PATH, b"", None)
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
