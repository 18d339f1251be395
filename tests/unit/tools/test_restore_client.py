"""Restoring goes on to the next endpoint while that can do no harm."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from proto.regatta import maintenance_pb2 as maintenance
from tests.unit.tools.serving import Quiet, serving
from tests.waiting import free_ports
from tools.admin import backup, backup_folder
from tools.admin.backup import BackupClient, BackupFailed, Rate
from tools.admin.backup_folder import Piece, SavedTable
from tools.admin.reach import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = b"\0" * 3_000_000
SLOWLY = 6_000_000
"""So that not all is sent by the time that somebody goes away."""


class Coordinator(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Takes so many messages, then goes away; or all of them, and answers."""

    def __init__(self, goes_after: int | None, *, answers: bool = True) -> None:
        self._goes_after = goes_after
        self._answers = answers
        self.taken: list[bytes] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        assert details.method == "/maintenance.v1.Maintenance/Restore"
        return grpc.stream_unary_rpc_method_handler(
            self._restore,
            maintenance.RestoreMessage.FromString,
            maintenance.RestoreResponse.SerializeToString,
        )

    def _restore(self, messages: Iterator[maintenance.RestoreMessage], context: Any) -> Any:
        self.taken = []
        for number, message in enumerate(messages):
            if number == self._goes_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "it stops")
            self.taken.append(message.chunk.data)
        if not self._answers:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return maintenance.RestoreResponse()


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SavedTable:
    monkeypatch.setattr(backup, "TRY_PAUSE_S", 0.01)
    with backup_folder.writing(tmp_path, "t.bak") as write:
        write(DATA)
    return SavedTable("t", [Piece("t.bak", hashlib.md5(DATA, usedforsecurity=False).hexdigest())])


def restore(folder: Path, table: SavedTable, addresses: tuple[str, ...], *, bytes_per_s: int = 0) -> None:
    with BackupClient(Connection(addresses, None, "")) as client:
        client.restore(folder, table, "t", rate=Rate(bytes_per_s), progress=Quiet())


def test_the_next_endpoint_takes_all_of_it_when_one_is_down_or_goes_away(
    tmp_path: Path, saved: SavedTable
) -> None:
    (nobody,) = free_ports(1)
    dies, lives = Coordinator(1), Coordinator(None)
    with serving(dies, lives) as (first, second):
        restore(tmp_path, saved, (f"127.0.0.1:{nobody}", first, second), bytes_per_s=SLOWLY)
    assert b"".join(lives.taken) == DATA


def test_a_restore_that_may_have_taken_place_is_not_made_again(tmp_path: Path, saved: SavedTable) -> None:
    silent, other = Coordinator(None, answers=False), Coordinator(None)
    with (
        serving(silent, other) as addresses,
        pytest.raises(BackupFailed, match="look at the table before you restore it again"),
    ):
        restore(tmp_path, saved, addresses)
    assert b"".join(silent.taken) == DATA
    assert not other.taken


def test_a_restore_ends_when_everybody_goes_away(tmp_path: Path, saved: SavedTable) -> None:
    with serving(Coordinator(1)) as addresses, pytest.raises(BackupFailed, match="it stops"):
        restore(tmp_path, saved, addresses, bytes_per_s=SLOWLY)
