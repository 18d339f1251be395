"""Users, roles and tokens of all tables in the shard's database, and in memory with the life of the transaction.

The database is the truth and this a copy of it. Changes are rare, and are written at once, a row for each user, role
and token; `checksum` sums up all rows, for comparing replicas. What a row holds is JSON with sorted keys, so equal
states have equal rows.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from shardworker.machine.auth import AUTH_OFF, FIRST_REVISION, Access, Permission, TableAuth, User
from shardworker.machine.checked_rows import CheckedRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import apsw

TOKENS_MAX: Final = 10_000
"""Of one table. One more takes the place of the oldest. Part of the replicated behaviour."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS auth (
    table_id INTEGER NOT NULL,
    kind INTEGER NOT NULL,         -- see Kind
    name BLOB NOT NULL,            -- of the user or role; what the token is known by
    data TEXT NOT NULL,
    crc INTEGER NOT NULL,          -- of all that, checked whenever the row is read
    PRIMARY KEY (table_id, kind, name)
) STRICT, WITHOUT ROWID
"""


def _crc(table_id: int, kind: int, name: bytes, data: str) -> int:
    return crc32(f"{table_id} {kind} {len(name)} ".encode() + name + data.encode())


_ROWS: Final = CheckedRows(
    "auth",
    {"table_id": int, "kind": int, "name": bytes, "data": str},
    "a user, role or token of table id {0}",
    _crc,
)

ROW_BYTES: Final = 256
"""What a user or a role counts beside its name and row (quota.py). Part of the replicated behaviour."""


class UnsoundRow(Exception):
    """A row from outside that can't be read; a sentence says why."""


class Kind(enum.IntEnum):
    """What a row is about."""

    STATE = 0
    USER = 1
    ROLE = 2
    TOKEN = 3


_Kinds = dict[Kind, dict[bytes, Any]]
"""What the rows of a table hold, by kind and name."""


@dataclass(slots=True)
class _Before:
    """What a table was before this turn."""

    auth: TableAuth
    tokens: dict[bytes, str]
    size_bytes: int


class AuthStore:
    """All tables of the shard."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Takes over what the database holds. Raises Corrupt."""
        self._connection = connection
        self._auth: dict[int, TableAuth] = {}
        self._tokens: dict[int, dict[bytes, str]] = {}
        self._size_bytes: dict[int, int] = {}
        self.guarded: set[int] = set()
        """Tables with authentication enabled."""
        self.checksum = 0
        self._before_turn: dict[int, _Before] = {}
        self._checksum_before = 0
        connection.execute(_SCHEMA)
        self._load()

    def of(self, table_id: int) -> TableAuth:
        """Who may do what in this table."""
        return self._auth.get(table_id, AUTH_OFF)

    def tokens(self, table_id: int) -> Mapping[bytes, str]:
        """The user behind each token, by what it is known by; that of an older one is less."""
        return self._tokens.get(table_id, {})

    def size_bytes(self, table_id: int) -> int:
        """What the users and roles of a table count in its size."""
        return self._size_bytes.get(table_id, 0)

    # ---- changes ------------------------------------------------------------------------------------------------

    def replace(self, table_id: int, auth: TableAuth) -> None:
        """The table's users and roles are these from now on."""
        before = self.of(table_id)
        self._keep(table_id)
        self._write_changed(table_id, Kind.USER, before.users, auth.users)
        self._write_changed(table_id, Kind.ROLE, before.roles, auth.roles)
        self._write(table_id, Kind.STATE, b"", [int(auth.enabled), auth.revision])
        self._auth[table_id] = auth
        self._guard(table_id)

    def add_token(self, table_id: int, token: bytes, user: str) -> None:
        """A user has logged in."""
        self._keep(table_id)
        tokens = self._tokens.setdefault(table_id, {})
        if len(tokens) >= TOKENS_MAX:
            # Not the first of the dict: its order within a log entry is forgotten by a restart.
            self.drop_tokens(table_id, [min(tokens)])
        tokens[token] = user
        self._write(table_id, Kind.TOKEN, token, user)

    def drop_tokens(self, table_id: int, dropped: Iterable[bytes]) -> None:
        """These are worth nothing any more, if they were."""
        tokens = self._tokens.get(table_id, {})
        for token in dropped:
            if token in tokens:
                self._keep(table_id)
                del tokens[token]
                self._write(table_id, Kind.TOKEN, token, None)

    def adopt(self, table_id: int, rows: Iterable[tuple[int, bytes, str]]) -> None:
        """Everything of a table that has come from another shard, as its rows there had it: (kind, name, data)."""
        self._keep(table_id)
        kinds: _Kinds = {}
        for kind, name, data in rows:
            kinds.setdefault(Kind(kind), {})[name] = json.loads(data)
            self._write(table_id, Kind(kind), name, json.loads(data))
        if kinds:
            self._enter(table_id, kinds)

    def drop_table(self, table_id: int) -> None:
        """The table is no more, and nobody is its user."""
        self.drop_tokens(table_id, list(self.tokens(table_id)))
        if table_id in self._auth:
            self.replace(table_id, AUTH_OFF)
            self._write(table_id, Kind.STATE, b"", None)
            del self._auth[table_id]

    def _write_changed(
        self,
        table_id: int,
        kind: Kind,
        before: Mapping[str, User] | Mapping[str, tuple[Permission, ...]],
        now: Mapping[str, User] | Mapping[str, tuple[Permission, ...]],
    ) -> None:
        if before is now:
            return
        for name in sorted(before.keys() | now.keys()):
            held = now.get(name)
            if held != before.get(name):
                self._write(table_id, kind, name.encode(), None if held is None else _plain(held))

    def _write(self, table_id: int, kind: Kind, name: bytes, plain: Any) -> None:
        """plain: None deletes the row."""
        where = (table_id, int(kind), name)
        before = _ROWS.find(self._connection, "WHERE table_id = ? AND kind = ? AND name = ?", where)
        if before is not None:
            self._count(before, -1)
        if plain is None:
            self._connection.execute("DELETE FROM auth WHERE table_id = ? AND kind = ? AND name = ?", where)
            return
        row = (*where, json.dumps(plain, sort_keys=True))
        self._count(row, 1)
        self._connection.execute("REPLACE INTO auth VALUES (?, ?, ?, ?, ?)", _ROWS.sealed(*row))

    def _count(self, row: tuple[Any, ...], sign: int) -> None:
        """A row comes (1) or goes (-1)."""
        table_id, kind, name, data = row
        self.checksum += sign * _crc(*row)
        if kind in (Kind.USER, Kind.ROLE):
            size_bytes = ROW_BYTES + len(name) + len(data)
            self._size_bytes[table_id] = self.size_bytes(table_id) + sign * size_bytes

    # ---- life of the transaction --------------------------------------------------------------------------------

    def _keep(self, table_id: int) -> None:
        if not self._before_turn:
            self._checksum_before = self.checksum
        if table_id not in self._before_turn:
            self._before_turn[table_id] = _Before(
                self.of(table_id), dict(self.tokens(table_id)), self.size_bytes(table_id)
            )

    def committed(self) -> None:
        """The transaction is durable."""
        self._before_turn.clear()

    def rollback(self) -> None:
        """The transaction was rolled back: everything is what it was before it."""
        if not self._before_turn:
            return
        for table_id, before in self._before_turn.items():
            self._auth[table_id] = before.auth
            self._tokens[table_id] = before.tokens
            self._size_bytes[table_id] = before.size_bytes
            self._guard(table_id)
        self._before_turn.clear()
        self.checksum = self._checksum_before

    def _guard(self, table_id: int) -> None:
        if self.of(table_id).enabled:
            self.guarded.add(table_id)
        else:
            self.guarded.discard(table_id)

    def _load(self) -> None:
        found: dict[int, _Kinds] = {}
        for row in _ROWS.all(self._connection, "ORDER BY 1, 2, 3"):
            table_id, kind, name, data = row
            self._count(row, 1)
            found.setdefault(table_id, {}).setdefault(Kind(kind), {})[name] = json.loads(data)
        for table_id, kinds in found.items():
            self._enter(table_id, kinds)

    def _enter(self, table_id: int, kinds: _Kinds) -> None:
        """What the rows of a table say."""
        self._auth[table_id] = _table_auth(kinds)
        self._tokens[table_id] = kinds.get(Kind.TOKEN, {})
        self._guard(table_id)


def read_rows(connection: apsw.Connection, table_id: int) -> list[tuple[Kind, bytes, str]]:
    """What is stored of a table as this connection sees it: kind, name and data. Raises Corrupt."""
    rows = _ROWS.all(connection, "WHERE table_id = ? ORDER BY 2, 3", (table_id,))
    return [(Kind(kind), name, data) for _, kind, name, data in rows]


def read_version(connection: apsw.Connection, table_id: int) -> int:
    """TableAuth.version as this connection sees it, whatever else is stored of the table. Raises Corrupt."""
    row = _ROWS.find(connection, "WHERE table_id = ? AND kind = ? AND name = x''", (table_id, Kind.STATE))
    return _table_auth({} if row is None else {Kind.STATE: {b"": json.loads(row[3])}}).version


def auth_of(rows: Iterable[tuple[int, bytes, str]]) -> TableAuth | None:
    """What such rows, of no tokens, say; None without rows. Raises UnsoundRow."""
    found: dict[Kind, dict[bytes, Any]] = {}
    try:
        for kind, name, data in rows:
            found.setdefault(Kind(kind), {})[name] = json.loads(data)
        if Kind.TOKEN in found:
            raise UnsoundRow("there are tokens among them")
        return _table_auth(found) if found else None
    except (TypeError, ValueError, AttributeError) as error:
        raise UnsoundRow(str(error)) from None


def _table_auth(kinds: Mapping[Kind, Mapping[bytes, Any]]) -> TableAuth:
    enabled, revision = kinds.get(Kind.STATE, {}).get(b"", (0, FIRST_REVISION))
    return replace(
        AUTH_OFF,
        enabled=bool(enabled),
        revision=int(revision),
        users={name.decode(): _user(*plain) for name, plain in kinds.get(Kind.USER, {}).items()},
        roles={name.decode(): _role(plain) for name, plain in kinds.get(Kind.ROLE, {}).items()},
    )


def _plain(held: User | tuple[Permission, ...]) -> Any:
    if isinstance(held, User):
        return [held.hash, int(held.no_password), list(held.roles)]
    return [[each.access.value, each.key.hex(), each.end.hex()] for each in held]


def _user(hash_: str, no_password: int, roles: list[str]) -> User:
    return User(hash_, bool(no_password), tuple(roles))


def _role(plain: list[tuple[int, str, str]]) -> tuple[Permission, ...]:
    return tuple(
        Permission(Access(access), bytes.fromhex(key), bytes.fromhex(end)) for access, key, end in plain
    )
