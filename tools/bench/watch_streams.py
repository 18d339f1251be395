"""Streams of watches as clients hold them, for what is measured beside them or by them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from proto.etcd import rpc_pb2 as etcd
from tools.admin.client import channel_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tools.bench.systems import System

OWN_CONNECTION: Final = ("grpc.use_local_subchannel_pool", 1)


@asynccontextmanager
async def watch_stream(system: System, number: int = 0) -> AsyncIterator[Any]:
    """A call of Watch on a connection of its own, to one endpoint after the other by its number."""
    endpoint = system.endpoints[number % len(system.endpoints)]
    options = [*channel_options(endpoint), OWN_CONNECTION]
    channel: Any
    if system.tls.given:
        channel = grpc.aio.secure_channel(endpoint, system.tls.credentials(), options=options)
    else:
        channel = grpc.aio.insecure_channel(endpoint, options=options)
    async with channel:
        call = channel.stream_stream(
            "/etcdserverpb.Watch/Watch", etcd.WatchRequest.SerializeToString, etcd.WatchResponse.FromString
        )()
        yield call
        call.cancel()
