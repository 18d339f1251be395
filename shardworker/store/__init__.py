"""The SQLite database of one replica. DESIGN.md beside this file tells what is on disk when."""

from shardworker.store.crash_points import (
    NO_CRASH_POINTS,
    CrashPoint,
    CrashPoints,
    KillAt,
    NoCrashPoints,
    from_environment,
)
from shardworker.store.database import StoreSettings, check_sqlite_version
from shardworker.store.errors import (
    DataMissing,
    DiskFull,
    IdentityMismatch,
    SnapshotRejected,
    SqliteTooOld,
    StorageFailed,
    StoreError,
    StoreInUse,
    translated,
)
from shardworker.store.files import REAL_FILES, Files, RealFiles
from shardworker.store.log import RaftLog
from shardworker.store.rebuild import CannotRebuild, advice, rebuild_stopped
from shardworker.store.records import Identity, LogEnd, Promises, RebuildMark, ReplicaState
from shardworker.store.replica_store import ReplicaStore
from shardworker.store.snapshot import ReceivedSnapshot, SnapshotFile, SnapshotReceiver
from shardworker.store.turn import Turn

__all__ = [
    "NO_CRASH_POINTS",
    "REAL_FILES",
    "CannotRebuild",
    "CrashPoint",
    "CrashPoints",
    "DataMissing",
    "DiskFull",
    "Files",
    "Identity",
    "IdentityMismatch",
    "KillAt",
    "LogEnd",
    "NoCrashPoints",
    "Promises",
    "RaftLog",
    "RealFiles",
    "RebuildMark",
    "ReceivedSnapshot",
    "ReplicaState",
    "ReplicaStore",
    "SnapshotFile",
    "SnapshotReceiver",
    "SnapshotRejected",
    "SqliteTooOld",
    "StorageFailed",
    "StoreError",
    "StoreInUse",
    "StoreSettings",
    "Turn",
    "advice",
    "check_sqlite_version",
    "from_environment",
    "rebuild_stopped",
    "translated",
]
