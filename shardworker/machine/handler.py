"""What the machine needs to know of one method. registry.py holds one for each that it can carry out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from proto import errors
    from shardworker.machine.auth import Caller
    from shardworker.machine.auth_writer import AuthWriter
    from shardworker.machine.dead_tables import DeadTables
    from shardworker.machine.moves.results import Arrived
    from shardworker.machine.moves.states import Moves
    from shardworker.machine.replication.followers import Followers
    from shardworker.machine.table_cache import TableCache
    from shardworker.machine.tables import TableState
    from shardworker.machine.view import View
    from shardworker.machine.writer import Writer


class TooNew(Exception):
    """The log or the tables hold what this version does not know. The replica stops: to skip it would be to differ."""


class UnreadableEntry(Exception):
    """A committed entry is not what a leader proposes: the one that did was damaged, or is none of ours. The replica
    stops: to skip the entry would be to differ from those that could run it."""


class Result(NamedTuple):
    """What came of one command or read. On an error the body is empty."""

    revision: int
    """The table's revision that the answer's header shows; 0 if there is no such table."""
    body: bytes
    """The API's response message without its header."""
    error: errors.BoathouseError | None = None
    more: bool = False
    """Of an iteration: another part follows."""


class Shard(Protocol):
    """What a command may change that concerns the shard as a whole."""

    @property
    def tables(self) -> TableCache: ...

    def beside_bytes(self, table_id: int) -> int:
        """What the table holds beside its changes (quota.py)."""

    def origin_of(self, table_id: int) -> int:
        """The id of the leader cluster's table that this one copies; 0 = none."""

    @property
    def dead_tables(self) -> DeadTables: ...

    def create_table(self, table: TableState, origin: int = 0) -> None:
        """Begins a table, with everything that belongs to it."""

    @property
    def number(self) -> int:
        """Of the shard, from 1."""

    @property
    def moves(self) -> Moves: ...

    def arriving_writer(self, table: TableState) -> Writer:
        """Writes rows of a table that is not here yet: nobody hears of it."""

    def take_results(self, coming: Iterable[Arrived]) -> None:
        """Remembers what another shard has answered. Their clock of ages holds how old they are."""

    def begin_rows(self, table_id: int) -> None:
        """Rows of a table that is to come."""

    def leave_rows(self, table_id: int) -> None:
        """Rows of a table that is not to come after all; they are freed later."""

    def open_table(
        self,
        table: TableState,
        origin: int,
        *,
        leases: Iterable[tuple[int, int, int]],
        auth: Iterable[tuple[int, bytes, str]],
        copied_leases: Mapping[int, int],
    ) -> None:
        """Serves a table, whose rows are there, from the next command on. leases: ids, seconds for
        which they were granted, and milliseconds left."""

    def give_up_table(self, table_id: int) -> None:
        """The table is another shard's now. What belongs to it is freed later."""

    def drop_table(self, table_id: int) -> None:
        """Ends a table, if there is one, and its id for good: no table gets it again. What belongs to it is freed
        later."""

    def change_origin(self, table: TableState, origin: int) -> None:
        """The table copies that one from now on, and has no leases; with 0 it is its own, and has those that its keys
        name."""

    @property
    def followers(self) -> Followers: ...

    def raise_level(self, level: int) -> None:
        """The shard's machine level is at least this from now on. Raises TooNew."""


Op = TypeVar("Op")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler(Generic[Op]):
    """One method. `write`, `administer`, `on_shard` make it a command, `read`, `inspect`, `parts` a read; ETCD_TXN
    is both."""

    parse: Callable[[bytes], Op]
    """The body, once a replica. Raises DecodeError, or the error that the body deserves whatever is stored."""
    write: Callable[[Writer, Op], bytes] | None = None
    """Changes one table. Raises what is the request's fault before the first change."""
    on_shard: Callable[[Shard, Op], Result] | None = None
    """Changes what is no single table's. Raises as write does."""
    administer: Callable[[AuthWriter, Op], bytes] | None = None
    """Changes who may do what in one table. Raises as write does."""
    read: Callable[[View, Op], bytes] | None = None
    inspect: Callable[[Caller, Op], bytes] | None = None
    """Reads who may do what in one table."""
    parts: Callable[[View, Op], Iterator[tuple[bytes, bool]]] | None = None
    """An answer in several messages: (message, whether another follows), at least one."""
    check: Callable[[Caller, Op], None] | None = None
    """Raises unless the caller may have it; asked only where authentication is enabled. None: it is the cluster's own,
    and no client can ask for it."""
    is_heavy: Callable[[Callable[[], View], Op], bool] | None = None
    """Whether the read may hold up a loop for more than about a millisecond. It may look, by a view that it asks for;
    much cheaper than the read itself. None: it never does."""
    add_keys: Callable[[Op, set[bytes]], None] | None = None
    """Adds the keys whose newest rows a write is going to ask for: they are fetched for a whole entry at once."""
    cost: Callable[[Op], int] | None = None
    """Bytes that a write may add to its table (quota.py); None for what never makes one grow."""
    under_alarm: bool = False
    """A write that is taken whatever alarms the table has: it sets or clears them, or keeps its books."""
    awaits_sweep: Callable[[Op], int | None] | None = None
    """The revision below which history must be physically gone before the write is answered; None if it need not."""
    origin_of: Callable[[Op], int] | None = None
    """Of a write that brings changes of a table of the leader cluster: that table's id there. It is carried out on the
    copy of that table only, and no other write is carried out there."""
    of_move: bool = False
    """It concerns the table's move to another shard, which does not keep it from being carried out."""
    replaces_rows: type[errors.BoathouseError] | None = None
    """Of a write that puts other rows in the place of all: what it is told while they are copied to another shard."""
    for_copies: bool = False
    """Of a write that changes neither pairs nor users: a copy takes it too."""
