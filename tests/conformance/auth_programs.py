"""Random programs of users: who may do what changes all the time, and everybody tries everything.

Left out is what etcd leaves to the order in which things were granted: ranges and permissions that are inverted, and
several permissions of one role that begin with the same key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proto.etcd import auth_pb2
from proto.etcd import rpc_pb2 as etcd
from tests.conformance.keyspace import EVERYTHING
from tests.conformance.programs import LEASES, Programmer
from tests.conformance.versions import (
    ASKS_LESS_OF_USERS,
    SHOWS_WHAT_ROOT_MAY,
    TELLS_EVERYBODY_OF_AUTH,
    TRANSLATES_REFUSED_MAINTENANCE,
)

if TYPE_CHECKING:
    import random

    from google.protobuf.message import Message

ROOT: Final = "root"
USERS: Final = (ROOT, "u", "v")
ROLES: Final = (ROOT, "r", "s")
PASSWORDS: Final = ("p", "q")
ENDS: Final = {
    b"a": (b"", b"b", b"c"),
    b"b": (b"", b"c", EVERYTHING),
    EVERYTHING: (EVERYTHING,),
}
"""Of the permissions that begin with a key. A program knows only one of each key: of several with the same key etcd
replaces the first alone, and grants the others again."""

NOBODY: Final = ""
STRANGER: Final = "whose token is none"


class Step(NamedTuple):
    """A request, and who makes it: NOBODY, STRANGER, or a user by his newest token."""

    who: str
    request: Message


class AuthProgrammer:
    """Draws steps."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._keys = Programmer(rng)
        self._spans = [(key, rng.choice(ends)) for key, ends in ENDS.items()]
        self._first = list(reversed(self._beginning())) if not self._keys.one_in(4) else []

    @property
    def revision(self) -> int:
        return self._keys.revision

    @revision.setter
    def revision(self, revision: int) -> None:
        self._keys.revision = revision

    def _beginning(self) -> list[Step]:
        """Chance would take long to come to a table with authentication enabled."""
        requests: list[Message] = [etcd.LeaseGrantRequest(ID=lease, TTL=10_000) for lease in LEASES]
        for user, role in ((ROOT, ROOT), ("u", "r"), ("v", "s")):
            requests += [
                etcd.AuthUserAddRequest(name=user, password="p"),
                etcd.AuthRoleAddRequest(name=role),
                etcd.AuthUserGrantRoleRequest(user=user, role=role),
            ]
        requests += [self._grant() for _ in range(4)]
        requests.append(etcd.AuthEnableRequest())
        requests += [etcd.AuthenticateRequest(name=user, password="p") for user in USERS]
        return [Step(NOBODY, request) for request in requests]

    def _grant(self) -> etcd.AuthRoleGrantPermissionRequest:
        key, end = self.rng.choice(self._spans)
        accesses = (auth_pb2.Permission.READ, auth_pb2.Permission.WRITE, auth_pb2.Permission.READWRITE)
        perm = auth_pb2.Permission(permType=self.rng.choice(accesses), key=key, range_end=end)
        role = self.rng.choice(ROLES)
        return etcd.AuthRoleGrantPermissionRequest(name=role, perm=None if self._keys.one_in(20) else perm)

    def step(self) -> Step:
        if self._first:
            return self._first.pop()
        draw = self.rng.randrange(100)
        if draw < 45:
            return Step(self._whoever(root=6), self._change())
        if draw < 60:
            return Step(self._whoever(root=1), self._look())
        return Step(self._whoever(root=1), self._of_keys())

    def _whoever(self, *, root: int) -> str:
        """root: how much likelier that one is than each of the others."""
        return self.rng.choice((NOBODY, STRANGER, *USERS, *[ROOT] * root))

    def _change(self) -> Message:
        choice, draw = self.rng.choice, self.rng.randrange(100)
        user, role, password = choice(USERS), choice(ROLES), choice(PASSWORDS)
        if draw < 12:
            return etcd.AuthEnableRequest()
        if draw < 14:
            return etcd.AuthDisableRequest()
        if draw < 34:
            return etcd.AuthenticateRequest(name=choice((*USERS, "nobody")), password=password)
        if draw < 46:
            name = "" if self._keys.one_in(15) else user
            # The user root can always log in, or nobody could take authentication away in the end.
            no_password = self._keys.one_in(10) and name != ROOT
            options = auth_pb2.UserAddOptions(no_password=True) if no_password else None
            return etcd.AuthUserAddRequest(name=name, password=password, options=options)
        if draw < 50:
            return etcd.AuthUserDeleteRequest(name=user)
        if draw < 55:
            return etcd.AuthUserChangePasswordRequest(name=user, password=password)
        if draw < 67:
            return etcd.AuthUserGrantRoleRequest(user=user, role=role)
        if draw < 72:
            return etcd.AuthUserRevokeRoleRequest(name=user, role=role)
        if draw < 80:
            return etcd.AuthRoleAddRequest(name="" if self._keys.one_in(15) else role)
        if draw < 83:
            return etcd.AuthRoleDeleteRequest(role=role)
        if draw < 95:
            return self._grant()
        key, end = choice(self._spans)
        return etcd.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=end)

    def _look(self) -> Message:
        choice = self.rng.choice
        looks: list[Message] = [
            etcd.AuthUserGetRequest(name=choice(USERS)),
            etcd.AuthRoleGetRequest(role=choice(ROLES[1:] if SHOWS_WHAT_ROOT_MAY.is_met else ROLES)),
            etcd.AuthUserListRequest(),
            etcd.AuthRoleListRequest(),
        ]
        if not TELLS_EVERYBODY_OF_AUTH.is_met:
            looks.append(etcd.AuthStatusRequest())
        return choice(looks)

    def _of_keys(self) -> Message:
        while True:
            request = self._keys.request()
            if ASKS_LESS_OF_USERS.is_met and is_asked_less_of(request):
                continue
            if TRANSLATES_REFUSED_MAINTENANCE.is_met and isinstance(request, etcd.HashKVRequest):
                continue
            if not is_inverted(request):
                return request


def is_asked_less_of(request: Message) -> bool:
    """Whether ASKS_LESS_OF_USERS means this request."""
    if isinstance(request, etcd.TxnRequest):
        return any(
            op.HasField("request_txn") or op.request_put.prev_kv or op.request_put.lease
            for op in (*request.success, *request.failure)
        )
    return isinstance(
        request,
        etcd.CompactionRequest
        | etcd.LeaseGrantRequest
        | etcd.LeaseRevokeRequest
        | etcd.LeaseTimeToLiveRequest
        | etcd.LeaseLeasesRequest
        | etcd.LeaseKeepAliveRequest
        | etcd.AlarmRequest,
    )


def is_inverted(message: Message) -> bool:
    """Whether any range in it ends before it begins."""
    for field, value in message.ListFields():
        if field.name == "range_end" and value != EVERYTHING and value <= getattr(message, "key", b""):
            return True
        if field.message_type is not None:
            parts = [value] if hasattr(value, "ListFields") else value
            if any(is_inverted(part) for part in parts):
                return True
    return False
