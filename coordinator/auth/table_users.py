"""Users who mean a table: programs that were written for etcd name none, and each finds its own by who it is.

A client that logs in says its name once, and shows a token from then on. So the token it gets tells the table too,
behind a mark that no token has in it otherwise. That proves nothing: what stands before the mark is held against the
users of that table, as any token is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from config.models import ClusterConfig
    from coordinator.api.call import Metadata

TOKEN_KEY: Final = "token"  # noqa: S105
AUTHORIZATION_KEY: Final = "authorization"
BEARER: Final = "Bearer "

_MARK: Final = "@"


class TableUsers:
    """As the cluster file has them."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._tables = {user: name for name, table in cluster.tables.items() for user in table.users}
        self._named = frozenset(self._tables.values())

    def __contains__(self, user: str) -> bool:
        return user in self._tables

    def table_of(self, metadata: Metadata, common_name: str, login: str = "") -> str | None:
        """What a client means that names no table; None: it is nobody's of these.

        common_name: of its certificate. login: the name that it logs in with."""
        if login in self._tables:
            return self._tables[login]
        shown = _shown(metadata) or ""
        told = unquote(shown.partition(_MARK)[2])
        # Also a table that by now is named here no longer: its clients must not go on in another. But whoever runs the
        # cluster shows a token that may have anything in it.
        if told in self._named or (told and not shown.startswith(BEARER)):
            return told
        return self._tables.get(common_name)

    def token_for(self, table: str, token: str) -> str:
        """The token of a client that named no table, and was found to mean this one."""
        return f"{token}{_MARK}{quote(table, safe='')}" if table in self._named else token


def shown_token(metadata: Metadata) -> str | None:
    """What a client shows of a login; None: nothing. An empty one is shown, too, and nobody's, as with etcd."""
    shown = _shown(metadata)
    return None if shown is None else shown.removeprefix(BEARER)


def _shown(metadata: Metadata) -> str | None:
    return metadata.get(TOKEN_KEY, metadata.get(AUTHORIZATION_KEY))


def bare(token: str) -> str:
    """The token as its table knows it."""
    return token.partition(_MARK)[0]
