"""A coordinator that lists tables and answers a canary's calls, or fails them."""

from __future__ import annotations

import threading

import grpc

from proto import catalog
from proto.etcd import rpc_pb2 as rpc
from proto.ids import ShardId

TABLES = [("_own", 5, 1), ("late", 10_009, 2), ("default", 10_001, 1), ("users", 10_002, 2)]


class Coordinator(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Lists TABLES; other calls are noted, and fail for tables in `failing`."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, str]] = set()
        self.failing: set[str] = set()
        self.has_failed = threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = details.method.rpartition("/")[2]
        table = str(dict(details.invocation_metadata)["table"])

        def serve(request: bytes, context: grpc.ServicerContext) -> bytes:
            if table == catalog.CATALOG_NAME:
                return _catalog()
            self.asked.add((table, method))
            if table in self.failing:
                self.has_failed.set()
                context.abort(grpc.StatusCode.UNAVAILABLE, "no luck")
            if method == "Txn":
                (never,) = rpc.TxnRequest.FromString(request).compare
                assert (never.target, never.result, never.version) == (
                    rpc.Compare.VERSION,
                    rpc.Compare.LESS,
                    0,
                )
            return b""

        return grpc.unary_unary_rpc_method_handler(serve)


def _catalog() -> bytes:
    response = rpc.RangeResponse()
    for name, number, shard in TABLES:
        entry = catalog.TableEntry(name, number, ShardId(shard))
        response.kvs.add(key=catalog.row_key(name), value=catalog.encode_row(entry))
    return response.SerializeToString()
