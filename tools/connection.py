"""How a command reaches coordinators: what its options and its environment say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import typer

from tools.tls_options import tls_options

if TYPE_CHECKING:
    from tools.admin.attachment import EndpointAttachment
    from tools.admin.reach import Connection, Reach

TOKEN_VARIABLE: Final = "BOATHOUSE_TOKEN"  # noqa: S105
"""Of the environment: what a table with authentication enabled asks for."""


def given_connection(endpoint: str, *, option: str = "--endpoint") -> Connection:
    """What --endpoint, or an option of another name, and those of TLS say, with the token in the environment: on the
    command line everybody on this machine could read it."""
    from tools.admin.endpoints import parse_endpoints
    from tools.admin.reach import Connection

    tls = tls_options()
    try:
        endpoints = parse_endpoints(endpoint)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    if endpoints.scheme in ("http", "unix") and tls.given:
        raise typer.BadParameter(
            f"{endpoints.scheme}:// is without TLS; write https://, or no scheme", param_hint=option
        )
    is_secure = endpoints.scheme == "https" or tls.given
    return Connection(endpoints.addresses, tls.credentials() if is_secure else None, _token())


def given_reach(*, is_secure: bool) -> Reach:
    """The same for a command that finds the coordinators elsewhere. is_secure: they are known to speak TLS."""
    from tools.admin.reach import Reach

    tls = tls_options()
    if not (is_secure or tls.given):
        return Reach(token=_token())
    return Reach(tls.credentials(), tls.context(), _token())


def attached_to(endpoints: str) -> EndpointAttachment:
    """The cluster that --endpoints names, over TLS if that is asked for."""
    from tools.admin.attachment import EndpointAttachment

    connection = given_connection(endpoints, option="--endpoints")
    return EndpointAttachment(connection.addresses, given_reach(is_secure=connection.credentials is not None))


def _token() -> str:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not (token.isascii() and token.isprintable()):
        raise typer.BadParameter(f"{TOKEN_VARIABLE} holds no token: it is not printable ASCII")
    return token
