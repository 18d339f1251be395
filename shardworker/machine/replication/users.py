"""The users of a table, for the cluster that copies it.

They are copied whole whenever anything about them has changed. Tokens are not: who has logged in here has not logged in
there. A copy's users are changed by this alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine.auth import AUTH_OFF
from shardworker.machine.auth_store import Kind, UnsoundRow, auth_of, read_rows

if TYPE_CHECKING:
    from shardworker.machine.auth import TableAuth
    from shardworker.machine.auth_writer import AuthWriter
    from shardworker.machine.view import View


@dataclass(frozen=True, slots=True)
class Users:
    """A frames.ReplicatedUsers, read and found sound."""

    origin: int
    auth: TableAuth


def tell_users(view: View, _op: object) -> bytes:
    """A frames.TableUsers. Raises Corrupt."""
    told = frames.TableUsers()
    for kind, name, data in read_rows(view.connection, view.table.id):
        if kind is not Kind.TOKEN:
            told.rows.add(kind=kind, name=name, data=data)
    return told.SerializeToString()


def read_users(body: bytes) -> Users:
    """Raises DecodeError, and MalformedRequest for what no table has."""
    request = frames.ReplicatedUsers.FromString(body)
    try:
        auth = auth_of((row.kind, row.name, row.data) for row in request.users.rows)
    except UnsoundRow as error:
        raise errors.MalformedRequest(f"the users and roles can't be read: {error}") from None
    return Users(request.origin, auth or AUTH_OFF)


def take_users(writer: AuthWriter, op: Users) -> bytes:
    """Who is gone, or has another password, has to log in again; who was logged in before it was disabled, too."""
    before, now = writer.auth, op.auth
    if now == before:
        return b""
    writer.take_over(now)
    for name, user in before.users.items():
        held = now.users.get(name)
        if not now.enabled or held is None or held.hash != user.hash:
            writer.drop_tokens_of(name)
    return b""
