"""A process that does everything a replica's store does, until a crash point kills it.

Run as `python -m tests.integration.store.crashing_replica FOLDER`; prints each acknowledged index. Everything is in
here that reaches a crash point, so that one program visits them all.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from shardworker.raft import HardState, LogIndex, Term
from shardworker.store import CrashPoint, StoreSettings, from_environment
from tests.unit.store.replicas import IDENTITY, MEMBERSHIP, entry, open_replica, put

SETTINGS = StoreSettings(checkpoint_wal_bytes=40 * 4096)


def main(folder: Path) -> None:
    crash_points = from_environment(os.environ)
    store = open_replica(folder / "replica", settings=SETTINGS, crash_points=crash_points)
    print("open", flush=True)  # noqa: T201 -- the parent reads it
    for _ in range(30):
        index = put(store, b"x" * 3000)
        print(f"acknowledged {index}", flush=True)  # noqa: T201
    # A suffix that nobody committed gives way to another leader's.
    with store.turn(sync=True) as turn:
        turn.append(None, [entry(31), entry(32)])
    with store.turn(sync=True) as turn:
        turn.append(HardState(Term(2), store.hard_state.vote, store.hard_state.commit), [entry(31, 2)])
        turn.set_membership(dataclasses.replace(MEMBERSHIP, learners=frozenset()))
        crash_points.reach(CrashPoint.CATALOG_WRITTEN)
    with store.turn(sync=True) as turn:
        turn.append(HardState(Term(2), store.hard_state.vote, LogIndex(31)), [])
        turn.connection.execute("INSERT INTO kv VALUES(31, x'00')")
        turn.set_applied(LogIndex(31), Term(2))
        turn.compact_log(keep_entries=5, keep_bytes=1 << 30, rows_max=10)
    print("acknowledged 31", flush=True)  # noqa: T201
    store.close()

    sender = open_replica(folder / "sender", identity=dataclasses.replace(IDENTITY, node=2))
    for _ in range(60):
        put(sender, b"y" * 300, sync=False)
    sender.close()
    sender = open_replica(
        folder / "sender", identity=dataclasses.replace(IDENTITY, node=2), crash_points=crash_points
    )
    made = sender.create_snapshot()
    store = open_replica(folder / "replica", settings=SETTINGS, crash_points=crash_points)
    incoming = store.receive_snapshot(1, made.size_bytes)
    while incoming.received_bytes < made.size_bytes:
        incoming.write(incoming.received_bytes, made.read(incoming.received_bytes, 8_000))
    store.install_snapshot(incoming.finish(made.meta, made.sha256), None)
    print("acknowledged 60", flush=True)  # noqa: T201
    put(store)
    print("acknowledged 61", flush=True)  # noqa: T201
    store.close()
    sender.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
