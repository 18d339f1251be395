"""What a command may change about the users of its table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.machine.auth import Permission, TableAuth, User
    from shardworker.machine.auth_store import AuthStore


class AuthWriter:
    """One table's users, roles and tokens, within one log entry. Each change is a whole one: nothing is left to end."""

    def __init__(self, store: AuthStore, table_id: int, index: int) -> None:
        """index: of the log entry."""
        self.index = index
        self._store = store
        self._table_id = table_id

    @property
    def auth(self) -> TableAuth:
        """As it stands."""
        return self._store.of(self._table_id)

    def enable(self) -> None:
        """Which is no new revision, as in etcd."""
        self._store.replace(self._table_id, replace(self.auth, enabled=True))

    def disable(self) -> None:
        """Nobody is logged in any more."""
        auth = self.auth
        self._store.replace(self._table_id, replace(auth, enabled=False, revision=auth.revision + 1))
        self._store.drop_tokens(self._table_id, list(self._store.tokens(self._table_id)))

    def take_over(self, auth: TableAuth) -> None:
        """All of it, with its revision."""
        self._store.replace(self._table_id, auth)

    def set_users(self, users: Mapping[str, User]) -> None:
        """A new revision."""
        auth = self.auth
        self._store.replace(self._table_id, replace(auth, users=users, revision=auth.revision + 1))

    def set_roles(
        self, roles: Mapping[str, tuple[Permission, ...]], users: Mapping[str, User] | None = None
    ) -> None:
        """A new revision. users: if they change with the roles."""
        auth = self.auth
        changed = replace(
            auth, roles=roles, users=auth.users if users is None else users, revision=auth.revision + 1
        )
        self._store.replace(self._table_id, changed)

    def add_token(self, token: bytes, user: str) -> None:
        """He has logged in."""
        self._store.add_token(self._table_id, token, user)

    def drop_tokens_of(self, user: str) -> None:
        """He has to log in again."""
        tokens = self._store.tokens(self._table_id)
        self._store.drop_tokens(self._table_id, [token for token, whose in tokens.items() if whose == user])

    def drop_tokens(self, tokens: list[bytes]) -> None:
        """Nobody has used them for long."""
        self._store.drop_tokens(self._table_id, tokens)
