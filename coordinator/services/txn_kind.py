"""Whether a transaction writes. Decided before it is sent, because reads are not proposed to the log."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proto.etcd import rpc_pb2 as etcd
    from proto.regatta import regatta_pb2 as regatta


class TxnKind(enum.Enum):
    """What a transaction needs."""

    WRITE = "a log entry"
    READ = "a linearizable read"
    SERIALIZABLE_READ = "any replica's state"


def of_etcd(txn: etcd.TxnRequest) -> TxnKind:
    """A write if any branch, nested ones too, holds anything but ranges.

    A transaction without operations counts as serializable, as in etcd: all of its no ranges are."""
    kind = TxnKind.SERIALIZABLE_READ
    for branch in (txn.success, txn.failure):
        for op in branch:
            which = op.WhichOneof("request")
            if which == "request_range":
                if not op.request_range.serializable:
                    kind = TxnKind.READ
            elif which == "request_txn" and of_etcd(op.request_txn) is not TxnKind.WRITE:
                kind = TxnKind.READ  # etcd proposes nested ones, so they are never weaker than this
            else:
                return TxnKind.WRITE
    return kind


def of_regatta(txn: regatta.TxnRequest) -> TxnKind:
    """Only a transaction whose every operation is a range is a read, always a linearizable one. An operation with
    nothing set makes it a write."""
    for branch in (txn.success, txn.failure):
        for op in branch:
            if op.WhichOneof("request") != "request_range":
                return TxnKind.WRITE
    return TxnKind.READ
