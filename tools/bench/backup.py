"""How fast a table is saved, restored and iterated over, and what that takes of memory: one node, started here."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from typing import TYPE_CHECKING, Any, Final

import cramjam

from proto.etcd import rpc_pb2 as etcd
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from tools.admin import backup_folder
from tools.admin.backup import BackupClient, Rate
from tools.admin.backup_folder import Piece, SavedTable
from tools.admin.client import open_channel
from tools.admin.reach import Connection
from tools.admin.tables import TablesClient
from tools.bench import systems
from tools.bench.memory import Growth
from tools.bench.report import OURS, Figure, Report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import grpc

    from tools.bench.setting import Setting
    from tools.bench.workload import Workload

KEYS: Final = 1_000_000
ETCD_KEYS: Final = 200_000
"""Enough for its speed, and filled in a few seconds."""
PAGE_KEYS: Final = 10_000
TXN_PUTS: Final = 100
RECORDS: Final = 2_000
"""In one step of making what is restored first."""
TABLE: Final = "saved"


class _Quiet:
    def begin(self, table: str, total: int) -> None:
        """See Progress."""

    def done(self, count: int, size_bytes: int) -> None:
        """See Progress."""

    def end(self) -> None:
        """See Progress."""


def backup(setting: Setting, workload: Workload) -> Report:
    """A table of 1,000,000 keys: restored, saved, iterated over; and etcd's ranges in pages beside that."""
    report = Report("1,000,000 keys saved, restored and iterated over, 1 node", compared="rows_per_second")
    for _ in range(setting.rounds):
        report.figures += _ours(setting.folder / "backup", workload.value_bytes)
        if setting.against_etcd:
            report.figures.append(_etcd(setting.folder / "etcd", workload.value_bytes))
    return report


def _ours(folder: Path, value_bytes: int) -> list[Figure]:
    saved = folder / "saved"
    saved.mkdir(parents=True)
    system = systems.Boathouse(folder / "cluster", 1, 1, 1, ("default",))
    try:
        system.start()
        connection = Connection(tuple(system.endpoints), None, "")
        with BackupClient(connection) as client:
            table = _made(saved, value_bytes)
            with Growth(system) as growth:
                restored = client.restore(saved, table, TABLE, rate=Rate(0), progress=_Quiet())
                (entry,) = [one for one in TablesClient(connection, 10.0).list() if one.name == TABLE]
                _, said = client.save(
                    saved, entry, None, taken=frozenset({"made.bak"}), rate=Rate(0), progress=_Quiet()
                )
                rows, took_s = _iterate(system.endpoints[0])
    finally:
        system.stop()
        shutil.rmtree(folder, ignore_errors=True)
    assert said.records == rows == KEYS, "keys are missing"
    return [
        Figure(OURS, "restored", KEYS / restored.seconds, "keys/s"),
        Figure(OURS, "saved", KEYS / said.seconds, "keys/s"),
        Figure(OURS, "rows_per_second", rows / took_s, "rows/s", "IterateRange"),
        Figure(OURS, "largest_growth", growth.largest_mb, "MB", "of a process, in all of that"),
    ]


def _made(folder: Path, value_bytes: int) -> SavedTable:
    """A backup as Regatta's tool has it."""
    compressor = cramjam.snappy.Compressor()
    md5 = hashlib.md5(usedforsecurity=False)
    with backup_folder.writing(folder, "made.bak") as write:
        for start in range(0, KEYS, RECORDS):
            compressor.compress(b"".join(_records(range(start, start + RECORDS), value_bytes)))
            data = bytes(compressor.flush())
            md5.update(data)
            write(data)
    return SavedTable(TABLE, [Piece("made.bak", md5.hexdigest())])


def _records(numbers: range, value_bytes: int) -> Iterator[bytes]:
    for number in numbers:
        value = os.urandom((value_bytes + 1) // 2).hex().encode()[:value_bytes]
        record = mvcc.Command(kv=mvcc.KeyValue(key=_key(number), value=value)).SerializeToString()
        yield len(record).to_bytes(8, "little") + record


def _key(number: int) -> bytes:
    return b"key/%012d" % number


def _iterate(endpoint: str) -> tuple[int, float]:
    """Rows, and seconds."""
    request = regatta.RangeRequest(table=TABLE.encode(), key=b"\0", range_end=b"\0", linearizable=True)
    with open_channel(endpoint, None) as channel:
        call: Any = channel.unary_stream(
            "/regatta.v1.KV/IterateRange",
            regatta.RangeRequest.SerializeToString,
            regatta.RangeResponse.FromString,
        )
        began = time.monotonic()
        rows = sum(part.count for part in call(request))
        return rows, time.monotonic() - began


def _etcd(folder: Path, value_bytes: int) -> Figure:
    system = systems.Etcd(folder, 1)
    try:
        system.start()
        with open_channel(system.endpoints[0], None) as channel:
            _fill_etcd(channel, value_bytes)
            range_: Any = channel.unary_unary(
                "/etcdserverpb.KV/Range", etcd.RangeRequest.SerializeToString, etcd.RangeResponse.FromString
            )
            began, rows, key = time.monotonic(), 0, b"\0"
            while True:
                page = range_(etcd.RangeRequest(key=key, range_end=b"\0", limit=PAGE_KEYS), timeout=30)
                rows += len(page.kvs)
                if not page.more:
                    break
                key = page.kvs[-1].key + b"\0"
            took_s = time.monotonic() - began
    finally:
        system.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return Figure("etcd", "rows_per_second", rows / took_s, "rows/s", f"Range in pages of {PAGE_KEYS:,}")


def _fill_etcd(channel: grpc.Channel, value_bytes: int) -> None:
    txn: Any = channel.unary_unary(
        "/etcdserverpb.KV/Txn", etcd.TxnRequest.SerializeToString, etcd.TxnResponse.FromString
    )
    for start in range(0, ETCD_KEYS, TXN_PUTS):
        puts = [
            etcd.PutRequest(key=_key(number), value=os.urandom(value_bytes))
            for number in range(start, start + TXN_PUTS)
        ]
        txn(etcd.TxnRequest(success=[etcd.RequestOp(request_put=put) for put in puts]), timeout=30)
