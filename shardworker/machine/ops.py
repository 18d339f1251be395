"""What a request asks of a table, in words that both APIs share, and what came of it.

Each API's codec translates its messages into these operations and the outcomes back into its own messages; the
engine in between knows neither API. A key span is (key, end): an empty end means the single key, one zero byte
means everything from key on, anything else is exclusive.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Order(enum.Enum):
    """How a range is sorted. NONE is not quite ASCEND: see Range.order."""

    NONE = 0
    ASCEND = 1
    DESCEND = 2


class Target(enum.Enum):
    """What a sort or a comparison looks at."""

    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4
    LEASE = 5
    EXISTENCE = 6
    NOTHING = 7


class Relation(enum.Enum):
    """How the stored side stands to the given side. ANY holds always: an unknown number on the wire."""

    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3
    ANY = 4


@dataclass(slots=True)
class Put:
    key: bytes
    value: bytes | None
    """None keeps the value that is there."""
    lease: int | None
    """None keeps the lease that is there, 0 detaches."""
    prev_kv: bool


@dataclass(slots=True)
class DeleteRange:
    key: bytes
    end: bytes
    prev_kv: bool
    prev_bytes_max: int | None
    """Regatta's cap on the previous pairs it returns, in its own encoding; None = all of them."""
    counted: bool = True
    """Whether the answer says how many keys were deleted; Regatta's does only if asked."""


@dataclass(slots=True)
class Compact:
    """etcd's compaction."""

    revision: int
    physical: bool
    """Whether the answer waits until what is given up is gone from the disk."""


@dataclass(slots=True)
class GrantLease:
    id: int
    """0 asks for any that is not in use."""
    ttl_s: int


@dataclass(slots=True)
class RevokeLease:
    id: int


@dataclass(slots=True)
class ExpireLeases:
    """What the leader found to have run out."""

    leases: list[tuple[int, int]]
    """Id, and the log index of the grant."""


@dataclass(slots=True)
class CheckpointLeases:
    """What is left of leases, as the leader counts."""

    leases: list[tuple[int, int, int]]
    """Id, the log index of the grant, and milliseconds."""


@dataclass(slots=True)
class Get:
    """The newest pair of one key: what most reads are."""

    key: bytes


@dataclass(slots=True)
class Range:
    """etcd's range."""

    key: bytes
    end: bytes
    limit: int = 0
    """0 or less = none."""
    revision: int = 0
    """0 or less = the newest."""
    order: Order = Order.NONE
    """NONE with a target other than KEY sorts ascending, but only what the limit (plus one) let through."""
    target: Target = Target.KEY
    keys_only: bool = False
    count_only: bool = False
    min_mod: int = 0
    max_mod: int = 0
    min_create: int = 0
    max_create: int = 0

    @property
    def filtered(self) -> bool:
        return bool(self.min_mod or self.max_mod or self.min_create or self.max_create)


@dataclass(slots=True)
class Page:
    """Regatta's range: at most `limit` keys and about `bytes_max` encoded bytes."""

    key: bytes
    end: bytes
    limit: int
    keys_only: bool
    count_only: bool
    bytes_max: int


@dataclass(slots=True)
class Nothing:
    """Regatta's RequestOp with no request set: makes its transaction a write, does nothing, has no answer."""


@dataclass(slots=True)
class Compare:
    key: bytes
    end: bytes
    target: Target
    relation: Relation
    operand: int | bytes
    missing_fails: bool
    """A span without keys fails whatever is compared (Regatta); else it counts as zeros, but fails for VALUE."""


@dataclass(slots=True)
class Txn:
    compares: list[Compare]
    success: list[Operation]
    failure: list[Operation]


@dataclass(slots=True)
class LoadedChange:
    """A change that another table made, as it is stored."""

    id: int
    key: bytes
    kv: bytes | None
    """None = deleted."""
    create_revision: int
    version: int
    lease: int


Operation = Put | DeleteRange | Range | Page | Nothing | Txn


def add_point_keys(op: Put | DeleteRange | Txn, keys: set[bytes]) -> None:
    """Adds the keys whose newest rows a write asks for by name; of a transaction, those that it puts if all is well."""
    if isinstance(op, Put):
        keys.add(op.key)
    elif isinstance(op, Txn):
        keys.update([inner.key for inner in op.success if isinstance(inner, Put)])
    elif not op.end:
        keys.add(op.key)


@dataclass(slots=True)
class PutDone:
    revision: int
    prev: bytes | None
    """The previous pair as stored (field 2 of a RangeResponse), if asked for and existing."""


@dataclass(slots=True)
class Deleted:
    revision: int
    count: int
    prev: list[bytes]
    """Previous pairs as stored, in key order, if asked for."""


@dataclass(slots=True)
class Ranged:
    revision: int
    kvs: bytes
    """The pairs as stored, concatenated."""
    count: int
    more: bool


@dataclass(slots=True)
class Paged:
    kvs: list[bytes]
    """Pieces of regatta.v1.RangeResponse.kvs."""
    last_key: bytes
    """Of these pairs."""
    count: int
    more: bool


@dataclass(slots=True)
class TxnDone:
    revision: int
    succeeded: bool
    outcomes: list[Outcome]


Outcome = PutDone | Deleted | Ranged | Paged | Nothing | TxnDone
