"""Makes a stopped replica all of its shard, when the majority of its voters is lost for good.

What it holds is what the shard has from then on. Its log is kept, also behind what it knows to be committed: the lost
ones may have acknowledged that. Changes of the membership behind it are not: they are about a group that is no more,
and become entries without an effect. The term rises far enough that nothing the lost ones may have begun is newer, and
the group is another generation: should the lost ones come back, what they say is refused, and they end once they hear
why (shardworker/replica/generations.py). Indexes behind the log's end are given anew, which other shards are told
(shardworker/machine/recoveries.py).

`python -m shardworker.recovery FOLDER CLUSTER_ID CLUSTER NODE SHARD` does it; the replica leads when it is started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from proto.errors import Corrupt
from shardworker.machine import note_recovery
from shardworker.raft import NO_NODE, Entry, EntryKind, HardState, LogIndex, Membership, NodeId, Term
from shardworker.store import Identity, ReplicaStore, StoreError

TERM_STEP: Final = 1_000
"""More elections than the lost ones can have held since they were last heard of."""
ENTRIES_BYTES_MAX: Final = 1 << 30


class CannotRecover(Exception):
    """The replica cannot go on alone; nothing was changed."""


def recover(path: Path, identity: Identity) -> LogIndex:
    """Make the replica in this folder the only voter of its shard; the last index that it holds. Durable on return.

    Raises CannotRecover, StoreError (StoreInUse among them: its worker runs) or Corrupt."""
    if not any(path.glob("replica-*.db")):
        raise CannotRecover(f"{path} holds no replica")
    store = ReplicaStore.open(path, identity)
    try:
        if store.rebuild is not None:
            raise CannotRecover(
                f"the replica in {path} was being rebuilt: it lacks what it had acknowledged, up to "
                f"{store.rebuild.until}. Take another one"
            )
        if not store.membership.voters:
            raise CannotRecover(f"the replica in {path} never belonged to its shard")
        go_on_alone(store, NodeId(identity.node))
        return store.log.last_index()
    finally:
        store.close()


def go_on_alone(store: ReplicaStore, node: NodeId) -> None:
    """Make a replica that belongs to its shard the only voter. Durable on return."""
    own = tuple(entry for entry in store.membership.directory if entry[0] == node)
    state = HardState(Term(store.hard_state.term + TERM_STEP), NO_NODE, store.hard_state.commit)
    lo, hi = LogIndex(store.applied_index + 1), LogIndex(store.log.last_index() + 1)
    tail = store.log.entries(lo, hi, ENTRIES_BYTES_MAX) if lo < hi else ()
    first = next((entry.index for entry in tail if entry.kind is EntryKind.MEMBERSHIP), None)
    rewritten = tuple(_without_effect(entry) for entry in tail if first is not None and entry.index >= first)
    with store.turn(sync=True) as turn:
        note_recovery(turn.connection)
        turn.append(state, rewritten)
        turn.set_membership(
            Membership(
                voters=frozenset({node}),
                directory=own,
                generation=store.membership.generation + 1,
                departed=_departed(store.membership, node),
            )
        )


def _departed(before: Membership, node: NodeId) -> tuple[tuple[NodeId, bytes], ...]:
    """With all the lost ones among them."""
    told = dict(before.directory)
    left = dict(before.departed) | {other: told.get(other, b"") for other in before.nodes() if other != node}
    return tuple(sorted(left.items()))


def _without_effect(entry: Entry) -> Entry:
    if entry.kind is not EntryKind.MEMBERSHIP:
        return entry
    return Entry(entry.term, entry.index, EntryKind.COMMANDS, b"")


def main(path: str, cluster_id: str, cluster: str, node: str, shard: str) -> None:
    identity = Identity(
        cluster_id=int(cluster_id, 16), node=int(node), shard=int(shard), cluster_name=cluster
    )
    try:
        last = recover(Path(path), identity)
    except (CannotRecover, StoreError, Corrupt) as error:
        sys.exit(str(error))
    sys.stdout.write(f"{last}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
