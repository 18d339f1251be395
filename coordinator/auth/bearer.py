"""The APIs of who runs the cluster: Regatta's Maintenance and Tables. A token guards each, if the file names one.

On a cluster that others can reach, somebody has to be told from everybody else: by such a token, or by a certificate
that clients have to show. Otherwise these APIs are refused there, unless the file says `insecure: true`.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from config.key_files import bearer_token
from coordinator.auth.table_users import AUTHORIZATION_KEY
from proto import errors

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig, NodeConfig
    from coordinator.api.call import Call, Handler

_SCHEME: Final = "bearer"

MAINTENANCE: Final = "maintenance.v1.Maintenance"
TABLES: Final = "regatta.v1.Tables"


class Bearers:
    """Stands before the handlers of these services."""

    def __init__(self, cluster: ClusterConfig, node: NodeConfig) -> None:
        """Reads the tokens. Raises BadTokenKey."""
        tokens = cluster.tokens.of_node(node.name)
        self._tokens = {MAINTENANCE: _token(tokens.maintenance), TABLES: _token(tokens.tables)}
        client = cluster.tls.client
        knows_clients = client is not None and client.client_cert_auth
        self._is_open = cluster.insecure or node.is_loopback or knows_clients

    def is_guarded(self, service: str) -> bool:
        """Whether whoever reaches the service has shown its token."""
        return bool(self._tokens[service])

    def has_shown(self, call: Call, service: str) -> bool:
        """Whether this call shows the service's token; never where there is none."""
        token = self._tokens[service]
        scheme, _, given = call.metadata.get(AUTHORIZATION_KEY, "").partition(" ")
        return bool(token) and scheme.lower() == _SCHEME and hmac.compare_digest(given.encode(), token)

    def guarded(self, path: str, handler: Handler) -> Handler:
        """The handler of this path, behind the check if it needs one."""
        service = path.split("/")[1]
        if service not in self._tokens:
            return handler
        token = self._tokens[service]

        async def checked(call: Call) -> bytes | None:
            self._check(call, service, token)
            return await handler(call)

        return checked  # type: ignore[return-value]  # it answers as the handler does

    def _check(self, call: Call, service: str, token: bytes) -> None:
        if not token:
            if not self._is_open:
                key = "maintenance" if service == MAINTENANCE else "tables"
                raise errors.Unguarded(
                    f"{service} is not served to everybody: name a file with a token as tokens.{key} in the cluster"
                    " file, or write insecure: true"
                )
            return
        shown = call.metadata.get(AUTHORIZATION_KEY)
        if not shown:
            raise errors.BearerMissing
        scheme, space, given = shown.partition(" ")
        if not space:
            raise errors.BadAuthorization
        if scheme.lower() != _SCHEME:
            raise errors.BearerMissing
        if not hmac.compare_digest(given.encode(), token):
            raise errors.WrongBearer


def _token(path: Path | None) -> bytes:
    """Empty: none."""
    return b"" if path is None else bearer_token(path)
