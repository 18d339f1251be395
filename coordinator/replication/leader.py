"""The leader cluster, as its follower's replicator calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from coordinator.replication.channels import LeaderChannels
    from proto import errors

VERSION: Final = 1
"""Of the fields in replication.proto that are boathouse's own."""

METADATA_S: Final = 5.0
REPLICATE_S: Final = 30.0
"""Of one stream, which the leader cluster ends after 5 seconds or as soon as its last message is taken."""


class LeaderFailed(Exception):
    """A call to the leader cluster came to nothing."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")


def reason_of(error: errors.BoathouseError | LeaderFailed) -> str:
    """In words."""
    return str(error) if isinstance(error, LeaderFailed) else f"{type(error).__name__}: {error.detail}"


class Leader:
    """Calls replication.v1, over any of its coordinators."""

    def __init__(self, channels: LeaderChannels) -> None:
        self._channels = channels

    async def metadata(self) -> replication.MetadataResponse:
        """Its name and all its tables. Raises LeaderFailed."""
        channel = self._channels.current()
        get = channel.unary_unary(
            "/replication.v1.Metadata/Get", response_deserializer=replication.MetadataResponse.FromString
        )
        try:
            response: replication.MetadataResponse = await get(
                b"", timeout=METADATA_S, metadata=self._channels.metadata
            )
        except grpc.aio.AioRpcError as error:
            raise self._failed(channel, error) from None
        return response

    def replicate(
        self, table: str, table_id: int, first: int
    ) -> AsyncGenerator[replication.ReplicateResponse]:
        """What the table changed from this revision on. Raises LeaderFailed."""
        request = replication.ReplicateRequest(
            table=table.encode(), leader_index=first, boathouse=_boathouse(table_id)
        )
        return self._stream(
            "/replication.v1.Log/Replicate",
            request.SerializeToString(),
            replication.ReplicateResponse.FromString,
            REPLICATE_S,
        )

    def snapshot(self, table: str, table_id: int) -> AsyncGenerator[replication.SnapshotChunk]:
        """All of the table's pairs. Raises LeaderFailed."""
        request = replication.SnapshotRequest(table=table.encode(), boathouse=_boathouse(table_id))
        return self._stream(
            "/replication.v1.Snapshot/Stream",
            request.SerializeToString(),
            replication.SnapshotChunk.FromString,
            None,
        )

    async def _stream(
        self, path: str, request: bytes, parse: Callable[[bytes], Any], timeout_s: float | None
    ) -> AsyncGenerator[Any]:
        channel = self._channels.current()
        method = channel.unary_stream(path, response_deserializer=parse)
        call = method(request, timeout=timeout_s, metadata=self._channels.metadata)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._failed(channel, error) from None
        finally:
            call.cancel()

    def _failed(self, channel: Any, error: grpc.aio.AioRpcError) -> LeaderFailed:
        self._channels.failed(channel)
        return LeaderFailed(error.code().name, error.details() or "")


def _boathouse(table_id: int) -> replication.Boathouse:
    return replication.Boathouse(version=VERSION, table_id=table_id)
