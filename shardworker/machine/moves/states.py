"""What a shard knows of its tables' moves: one small value for each table that ever came or went, by its newest move.

At the source           (nothing, or HERE) --depart--> COPYING --fence--> FENCED --leave--> MOVED
                        COPYING, FENCED --cancel--> HERE
At the target           (nothing, or MOVED) --arrive--> ARRIVING --the last part--> HERE
                        (nothing), MOVED, ARRIVING --cancel--> MOVED

These values stay for good, as dead ids do: whoever still asks the wrong shard for a table is sent on, and a step of an
earlier move that comes late finds a higher number. A step that was done before is done: its repeat changes nothing.
coordinator/moves/DESIGN.md has the whole protocol, and why no two shards ever take writes of one table.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

from proto import errors
from shardworker.machine.checked_rows import CheckedRows
from shardworker.machine.tables import REVISION_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    import apsw

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS moves (
    table_id INTEGER PRIMARY KEY,
    data TEXT NOT NULL,            -- a Move as JSON
    crc INTEGER NOT NULL           -- of both, checked whenever the row is read
) STRICT
"""


def _crc(table_id: int, data: str) -> int:
    return crc32(f"{table_id} {data}".encode())


_ROWS: Final = CheckedRows("moves", {"table_id": int, "data": str}, "the move of table id {0}", _crc)


class State(enum.IntEnum):
    """By the numbers of frames.MoveState.State."""

    COPYING = 1
    FENCED = 2
    MOVED = 3
    ARRIVING = 4
    HERE = 5


class Position(NamedTuple):
    """Where a copy stands; see frames.MovePosition."""

    change: int = 0
    result: int = 0
    arrived: int = 0


class Arrival(NamedTuple):
    """What has come so far of a table."""

    name: str
    history: int
    revision: int = 1
    keys: int = 0
    written_bytes: int = 0
    position: Position = Position()


@dataclass(frozen=True, slots=True)
class Move:
    """A table's newest move, as one of its two shards has it."""

    state: State
    number: int
    shard: int
    """The other one."""
    floor: int = -1
    """Of COPYING and FENCED: of the table when it began. What lies above is kept for the copy."""
    arrival: Arrival | None = None
    """Of ARRIVING."""


class Moves:
    """By table id, with the life of the transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Takes over what the database holds. Raises Corrupt."""
        self._connection = connection
        connection.execute(_SCHEMA)
        self._moves: dict[int, Move] = {
            table_id: _move(data) for table_id, data in _ROWS.all(connection, "ORDER BY table_id")
        }
        self._before_turn: dict[int, Move] | None = None
        self._digest: int | None = None

    def get(self, table_id: int) -> Move | None:
        """The table's newest move."""
        return self._moves.get(table_id)

    def __iter__(self) -> Iterator[tuple[int, Move]]:
        """(table id, move), ascending."""
        return iter(sorted(self._moves.items()))

    @property
    def digest(self) -> int:
        """One number over all of them, for comparing replicas."""
        if self._digest is None:
            self._digest = crc32("".join(f"{table_id}{_plain(move)}" for table_id, move in self).encode())
        return self._digest

    # ---- what follows from it ---------------------------------------------------------------------------------------

    def check_serves(self, table_id: int) -> None:
        """Raises TableElsewhere or TableArriving for a table whose writes and linearizable reads are not for this
        shard."""
        move = self._moves.get(table_id)
        if move is not None:
            if move.state is State.ARRIVING:
                raise errors.TableArriving
            if move.state in (State.FENCED, State.MOVED):
                raise errors.TableElsewhere(str(move.shard))

    def absence(self, table_id: int) -> errors.BoathouseError:
        """Why this shard has no such table."""
        try:
            self.check_serves(table_id)
        except errors.TableAway as away:
            return away
        return errors.TableNotFound()

    def is_fenced(self, table_id: int) -> bool:
        """Whether the table is here, and nothing changes in it any more."""
        move = self._moves.get(table_id)
        return move is not None and move.state is State.FENCED

    def is_departing(self, table_id: int) -> bool:
        """Whether the table is being copied to another shard."""
        move = self._moves.get(table_id)
        return move is not None and move.state in (State.COPYING, State.FENCED)

    def sweep_limit(self, table_id: int) -> int:
        """No revision of the table after this one is swept."""
        return self._moves[table_id].floor if self.is_departing(table_id) else REVISION_MAX

    # ---- changes ----------------------------------------------------------------------------------------------------

    def put(self, table_id: int, move: Move) -> None:
        """This is the table's newest move now."""
        self._keep()
        self._moves[table_id] = move
        row = _ROWS.sealed(table_id, _plain(move))
        self._connection.execute("REPLACE INTO moves VALUES (?, ?, ?)", row)

    def forget(self, table_id: int) -> None:
        """The table was deleted here."""
        if table_id in self._moves:
            self._keep()
            del self._moves[table_id]
            self._connection.execute("DELETE FROM moves WHERE table_id = ?", (table_id,))

    def _keep(self) -> None:
        self._digest = None
        if self._before_turn is None:
            self._before_turn = dict(self._moves)

    def committed(self) -> None:
        """The transaction is durable."""
        self._before_turn = None

    def rollback(self) -> None:
        """The transaction was rolled back: everything is what it was before it."""
        if self._before_turn is not None:
            self._moves, self._before_turn = self._before_turn, None
            self._digest = None


def read_move(connection: apsw.Connection, table_id: int) -> Move | None:
    """Moves.get() as this connection sees it. Raises Corrupt."""
    row = _ROWS.find(connection, "WHERE table_id = ?", (table_id,))
    return None if row is None else _move(row[1])


def _plain(move: Move) -> str:
    return json.dumps([int(move.state), move.number, move.shard, move.floor, move.arrival])


def _move(data: str) -> Move:
    state, number, shard, floor, arrival = json.loads(data)
    return Move(State(state), number, shard, floor, None if arrival is None else _arrival(arrival))


def _arrival(plain: list[Any]) -> Arrival:
    name, history, revision, keys, written_bytes, position = plain
    return Arrival(name, history, revision, keys, written_bytes, Position(*position))
