"""A watch stream of a keyspace: what its client says, and what it hears in return."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final, Self

import grpc

from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from tests.conformance.keyspace import Keyspace

HEAR_TIMEOUT_S: Final = 10.0


class WatchStream:
    """One call of Watch. It ends with the block."""

    def __init__(self, keyspace: Keyspace, *metadata: tuple[str, str]) -> None:
        self.keyspace = keyspace
        self._said: queue.SimpleQueue[etcd.WatchRequest | None] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[etcd.WatchResponse | grpc.RpcError] = queue.SimpleQueue()
        stub = keyspace.channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            etcd.WatchRequest.SerializeToString,
            etcd.WatchResponse.FromString,
        )
        self._call = stub(iter(self._said.get, None), metadata=(*keyspace.metadata, *metadata))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._heard.put(response)
        except grpc.RpcError as error:
            self._heard.put(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the call."""
        self._call.cancel()  # type: ignore[no-untyped-call]  # missing in grpc-stubs
        self.half_close()
        self._reader.join()

    def half_close(self) -> None:
        """Say that there is no more to say."""
        self._said.put(None)

    def say(self, request: etcd.WatchRequest) -> None:
        self._said.put(request)

    def create(self, key: bytes, end: bytes = b"", **options: object) -> etcd.WatchResponse:
        """Ask for a watcher; the next response."""
        create = etcd.WatchCreateRequest(key=key, range_end=end, **options)  # type: ignore[arg-type]
        self.say(etcd.WatchRequest(create_request=create))
        return self.hear()

    def cancel(self, watch_id: int) -> None:
        self.say(etcd.WatchRequest(cancel_request=etcd.WatchCancelRequest(watch_id=watch_id)))

    def ask_progress(self) -> None:
        self.say(etcd.WatchRequest(progress_request=etcd.WatchProgressRequest()))

    def hear(self, timeout_s: float = HEAR_TIMEOUT_S) -> etcd.WatchResponse:
        """The next response, without what differs between systems. Raises the error that ended the stream."""
        return self._without_ids(self._heard.get(timeout=timeout_s))

    def pending(self) -> Iterator[etcd.WatchResponse]:
        """What has come and was not heard yet, as hear() gives it."""
        while not self._heard.empty():
            yield self._without_ids(self._heard.get())

    @staticmethod
    def _without_ids(heard: etcd.WatchResponse | grpc.RpcError) -> etcd.WatchResponse:
        if isinstance(heard, grpc.RpcError):
            raise heard
        header = heard.header
        header.cluster_id = header.member_id = header.raft_term = 0
        return heard
