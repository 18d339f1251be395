"""How the store's own rows look on disk: fixed encodings, each with a checksum over its content and place.

    meta   id 1  replica state: term, vote, commit, applied index and term, truncation point (binary)
           id 2  membership as of the applied index (JSON)
           id 3  identity of the replica (JSON)
           id 4  only while the replica is being rebuilt: up to which entry, and why (JSON)
           id 5  the epoch, which grows when a process begins to write (JSON; birth.py)
    log    one row per entry; the checksum covers index, term, kind and data

Hard state and applied index share one row on purpose: one page write a turn, and no way to save one without
the other. JSON where nobody is in a hurry, so that an operator can read it with any SQLite shell."""

from __future__ import annotations

import json
import struct
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from zlib import crc32

from proto.errors import Corrupt
from shardworker.raft.types import Entry, EntryKind, HardState, LogIndex, Membership, NodeId, Term

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION_ID = 0x626F6174
"""SQLite's `application_id` of our databases: "boat"."""

FORMAT_VERSION = 4
"""SQLite's `user_version` of our databases, for all that is in them, tables and results included; a replica refuses
every other, also in a snapshot that it is sent. Another one for any change of what a table has for columns."""

SCHEMA = (
    """CREATE TABLE meta(
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, value BLOB NOT NULL, crc INTEGER NOT NULL)""",
    # INTEGER PRIMARY KEY is the rowid: appends go to the right edge of one b-tree, truncation to its left
    # edge.
    """CREATE TABLE log(
        idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, kind INTEGER NOT NULL, crc INTEGER NOT NULL,
        data BLOB NOT NULL)""",
)

STATE_ROW, MEMBERSHIP_ROW, IDENTITY_ROW, REBUILD_ROW, EPOCH_ROW = 1, 2, 3, 4, 5
ROW_NAMES = {
    STATE_ROW: "state",
    MEMBERSHIP_ROW: "membership",
    IDENTITY_ROW: "identity",
    REBUILD_ROW: "rebuild",
    EPOCH_ROW: "epoch",
}

_STATE = struct.Struct("<8Q")
_ENTRY = struct.Struct("<QQB")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose replica this is. A database of another one is refused, never adopted."""

    cluster_id: int
    """Hash of the cluster's name and settings that may not change; not zero."""
    node: int
    """Numeric id of the node."""
    shard: int
    """From 1."""
    cluster_name: str = ""
    """For messages only; not compared."""
    replica: str = ""
    """Drawn when the database is made (birth.py). Empty in what a caller expects, and in a database from before there
    were births."""

    def named(self, replica: str) -> Identity:
        """The same, with the id of a birth."""
        return replace(self, replica=replica)

    def same_as(self, other: Identity) -> bool:
        return (self.cluster_id, self.node, self.shard) == (other.cluster_id, other.node, other.shard)

    def __str__(self) -> str:
        name = f"'{self.cluster_name}' " if self.cluster_name else ""
        return f"cluster {name}(id {self.cluster_id:016x}), node {self.node}, shard {self.shard}"


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """The row that every turn may write. truncated_index ≤ applied_index ≤ commit ≤ last_index."""

    term: int = 0
    vote: int = 0
    commit: int = 0
    applied_index: int = 0
    applied_term: int = 0
    truncated_index: int = 0
    """The last index that is no longer in the log; 0 if nothing was ever dropped."""
    truncated_term: int = 0
    last_index: int = 0
    """The end of the log. Kept here as well, because a damaged page can make the newest rows vanish without a
    trace, and with them entries that this replica has vouched for."""

    @property
    def hard_state(self) -> HardState:
        return HardState(Term(self.term), NodeId(self.vote), LogIndex(self.commit))

    def encode(self) -> bytes:
        return _STATE.pack(
            self.term,
            self.vote,
            self.commit,
            self.applied_index,
            self.applied_term,
            self.truncated_index,
            self.truncated_term,
            self.last_index,
        )

    @classmethod
    def decode(cls, data: bytes) -> ReplicaState:
        """Raises Corrupt for what encode() has not made."""
        if len(data) != _STATE.size:
            raise Corrupt(f"the replica's state row has {len(data)} bytes instead of {_STATE.size}")
        return cls(*_STATE.unpack(data))


def row_checksum(row: int, value: bytes) -> int:
    """Checksum of a meta row; a row that stands in another row's place does not match."""
    return crc32(value, row)


def entry_checksum(index: int, term: int, kind: int, data: bytes) -> int:
    """Checksum of a log row; a row that stands at another index does not match."""
    return crc32(data, crc32(_ENTRY.pack(index, term, kind)))


def checked_entry(index: int, term: int, kind: int, crc: int, data: bytes) -> Entry:
    """The entry of a log row. Raises Corrupt when its checksum differs: it is never served."""
    try:
        if entry_checksum(index, term, kind, data) == crc:
            return Entry(Term(term), LogIndex(index), EntryKind(kind), data)
    except (struct.error, ValueError, TypeError):
        pass  # a flipped bit can leave a value outside its range or type just as well
    raise Corrupt(
        f"the log row of index {index} fails its checksum; the disk returned other bytes than were written"
    )


@dataclass(frozen=True, slots=True, order=True)
class LogEnd:
    """The last entry of a log, or the last that is applied of one. Whatever is committed and in a log, is also in each
    that ends in a committed entry which is not less: if its term is later, since that leader had it (Raft, figure 3,
    leader completeness), else since it is the same leader's log, and as long."""

    term: Term
    index: LogIndex

    def __str__(self) -> str:
        return f"index {self.index} of term {self.term}"


@contextmanager
def text_is_damage(what: str) -> Iterator[None]:
    """Within the block rows are read that hold no text. A flipped bit can make text of their bytes all the same, which
    is then read as UTF-8, and need not be. Raises Corrupt."""
    try:
        yield
    except UnicodeDecodeError:
        raise Corrupt(f"{what} fails its checksum; the disk returned text where bytes were written") from None


@dataclass(frozen=True, slots=True)
class RebuildMark:
    """This replica is being rebuilt from its leader (rebuild.py)."""

    until: LogEnd
    """The last entry it may have acknowledged before."""
    reason: str
    """For people."""

    def encode(self) -> bytes:
        fields = {"until": self.until.index, "term": self.until.term, "reason": self.reason}
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, data: bytes, *, term_max: Term) -> RebuildMark:
        """term_max: the replica's, which none of its entries exceeds, for a mark that an older version has made."""
        fields = json.loads(data)
        return cls(LogEnd(Term(fields.get("term", term_max)), LogIndex(fields["until"])), fields["reason"])


@dataclass(frozen=True, slots=True)
class Promises:
    """What a replica that is to be rebuilt has promised, as far as anybody can tell."""

    term: Term
    vote: NodeId
    last: LogEnd
    """Nothing behind it was acknowledged and relied on."""


def encode_membership(membership: Membership) -> bytes:
    fields = {
        "voters": sorted(membership.voters),
        "voters_outgoing": sorted(membership.voters_outgoing),
        "learners": sorted(membership.learners),
        "learners_next": sorted(membership.learners_next),
        "auto_leave": membership.auto_leave,
        "directory": [[node, record.hex()] for node, record in membership.directory],
        "generation": membership.generation,
        "departed": [[node, record.hex()] for node, record in membership.departed],
    }
    return json.dumps(fields, sort_keys=True).encode()


def decode_membership(data: bytes) -> Membership:
    fields = json.loads(data)
    return Membership(
        voters=frozenset(map(NodeId, fields["voters"])),
        voters_outgoing=frozenset(map(NodeId, fields["voters_outgoing"])),
        learners=frozenset(map(NodeId, fields["learners"])),
        learners_next=frozenset(map(NodeId, fields["learners_next"])),
        auto_leave=bool(fields["auto_leave"]),
        directory=tuple((NodeId(node), bytes.fromhex(record)) for node, record in fields["directory"]),
        generation=fields.get("generation", 0),
        departed=tuple((NodeId(node), bytes.fromhex(record)) for node, record in fields.get("departed", ())),
    )


def encode_identity(identity: Identity) -> bytes:
    fields = {
        "cluster_id": f"{identity.cluster_id:016x}",
        "cluster": identity.cluster_name,
        "node": identity.node,
        "shard": identity.shard,
        "replica": identity.replica,
    }
    return json.dumps(fields, sort_keys=True).encode()


def decode_identity(data: bytes) -> Identity:
    fields = json.loads(data)
    return Identity(
        int(fields["cluster_id"], 16),
        fields["node"],
        fields["shard"],
        fields["cluster"],
        fields.get("replica", ""),
    )
