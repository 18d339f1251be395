"""What a cluster sends of a table, and what is made of it when it falls short."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from proto.catalog import TableEntry
from proto.ids import ShardId
from proto.regatta import maintenance_pb2 as maintenance
from proto.regatta import replication_pb2 as replication
from tests.unit.tools.serving import Quiet, serving
from tools.admin.backup import BackupClient, BackupFailed, Rate
from tools.admin.reach import Connection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tools.admin.backup_folder import SavedTable

TABLE = TableEntry("t", 10_001, ShardId(1))
FACTS = replication.SnapshotChunk(facts=maintenance.Facts(revision=7, keys=1).SerializeToString())


def data(text: bytes, *, promised: bytes) -> replication.SnapshotChunk:
    return replication.SnapshotChunk(data=text, sha256=hashlib.sha256(promised).digest(), records=1)


class Coordinator(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Sends these of any table."""

    def __init__(self, chunks: Sequence[replication.SnapshotChunk]) -> None:
        self._chunks = chunks

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        assert details.method == "/maintenance.v1.Maintenance/Backup"
        return grpc.unary_stream_rpc_method_handler(
            lambda _request, _context: iter(self._chunks),
            maintenance.BackupRequest.FromString,
            replication.SnapshotChunk.SerializeToString,
        )


def saved(folder: Path, chunks: Sequence[replication.SnapshotChunk]) -> SavedTable:
    with serving(Coordinator(chunks)) as addresses, BackupClient(Connection(addresses, None, "")) as client:
        table, _ = client.save(folder, TABLE, None, taken=frozenset(), rate=Rate(0), progress=Quiet())
        return table


def test_all_that_was_sent_is_in_a_file(tmp_path: Path) -> None:
    (piece,) = saved(tmp_path, [FACTS, data(b"pairs", promised=b"pairs")]).pieces
    assert (tmp_path / piece.file_name).read_bytes() == b"pairs"


@pytest.mark.parametrize(
    ("chunks", "why"),
    [
        ([], "sent nothing"),
        ([FACTS], "not what was sent"),
        ([FACTS, data(b"pai", promised=b"pairs")], "not what was sent"),
    ],
)
def test_a_stream_that_falls_short_is_no_backup(
    tmp_path: Path, chunks: list[replication.SnapshotChunk], why: str
) -> None:
    with pytest.raises(BackupFailed, match=f"table t: .*{why}"):
        saved(tmp_path, chunks)
    assert not list(tmp_path.iterdir())
