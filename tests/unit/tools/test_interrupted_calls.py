"""Ctrl-C ends a command wherever in a call it comes, also where it leaves gRPC's own state half made."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from proto import catalog
from proto.etcd import rpc_pb2 as rpc
from proto.ids import ShardId
from proto.regatta import replication_pb2 as replication
from tests.unit.tools.serving import serving
from tools import cli
from tools.failure import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

LIMIT_S = 30.0


class Coordinator(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Has one table, whose backup comes to no end."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method.endswith("/Range"):
            return grpc.unary_unary_rpc_method_handler(self._list)
        assert details.method.endswith("/Backup")
        return grpc.unary_stream_rpc_method_handler(self._back_up)

    def _list(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        entry = catalog.TableEntry("t", 10_001, ShardId(1))
        response = rpc.RangeResponse()
        response.kvs.add(key=catalog.row_key(entry.name), value=catalog.encode_row(entry))
        return response.SerializeToString()

    def _back_up(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        ended = threading.Event()
        context.add_callback(ended.set)
        yield replication.SnapshotChunk().SerializeToString()
        ended.wait(2 * LIMIT_S)


def half_made(frame: FrameType, event: str) -> bool:
    """The channel knows the call, and the thread that would hear of its end is not there yet."""
    return event == "call" and frame.f_code.co_name == "_run_channel_spin_thread"


def half_entered(frame: FrameType, event: str) -> bool:
    """The call's lock has been taken, and the block whose end would let go of it is not entered yet."""
    caller = frame.f_back
    return (
        event == "return"
        and frame.f_code.co_qualname == "Condition.__enter__"
        and caller is not None
        and caller.f_code.co_name == "_next"
    )


def run_interrupted(is_time: Callable[[FrameType, str], bool], arguments: list[str]) -> None:
    """The command, which Ctrl-C meets at the first such moment in this thread."""

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        if is_time(frame, event):
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    sys.argv = ["boathouse", *arguments]
    sys.settrace(trace)
    cli.main()


@pytest.mark.parametrize("is_time", [half_made, half_entered])
def test_a_backup_that_is_interrupted_ends(is_time: Callable[[FrameType, str], bool], tmp_path: Path) -> None:
    with serving(Coordinator()) as (endpoint,):
        arguments = ["backup", "--dir", str(tmp_path), "--endpoint", endpoint]
        command = multiprocessing.get_context("spawn").Process(
            target=run_interrupted, args=(is_time, arguments)
        )
        command.start()
        try:
            command.join(LIMIT_S)
            assert command.exitcode == INTERRUPTED
        finally:
            command.kill()
            command.join()
