"""Users, roles and permissions of one table, as values: what may who do?

A `TableAuth` never changes; a command makes another one of it. So a rolled back turn has the one before it back, and a
read on another thread sees one whole. All rules of what a user may do are in `Caller`, and nowhere else.

A user may do what any of his roles permits, spans put together: [a,c) and [c,e) permit [a,e). Whoever has the role root
may do everything, whether or not a role of this name was ever made.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from proto import errors
from proto.auth_version import auth_version
from proto.spans import EVERYTHING, NOTHING, SpanSet, span_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ROOT: Final = "root"
"""The user and the role that etcd's rules name."""

FIRST_REVISION: Final = 1


class Access(enum.Enum):
    """What a permission permits, by etcd's numbers."""

    READ = 0
    WRITE = 1
    READWRITE = 2


@dataclass(frozen=True, slots=True)
class Permission:
    """Of a role, on a span of keys as messages give it."""

    access: Access
    key: bytes
    end: bytes


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can log in."""

    hash: str = field(repr=False)
    """bcrypt's, of his password; empty if he has none."""
    no_password: bool
    """He is known by the common name of his certificate only."""
    roles: tuple[str, ...]
    """Ascending."""


class Rights(NamedTuple):
    """What one user may do with keys."""

    is_root: bool
    readable: SpanSet
    writable: SpanSet


NO_RIGHTS: Final = Rights(is_root=False, readable=NOTHING, writable=NOTHING)


class Who(NamedTuple):
    """Whose request it is, as was found when it was taken."""

    user: str = ""
    """Empty = nobody in particular."""
    revision: int = 0
    """The auth revision to which that is bound; 0 = he has proved nothing."""
    is_system: bool = False
    """The cluster's own work, which no permission ends."""


NOBODY: Final = Who()
SYSTEM: Final = Who(is_system=True)


@dataclass(frozen=True, slots=True)
class TableAuth:
    """Everything about one table."""

    enabled: bool = False
    revision: int = FIRST_REVISION
    """Counts what was changed of users, roles and permissions, and each time auth was disabled."""
    users: Mapping[str, User] = field(default_factory=dict)
    roles: Mapping[str, tuple[Permission, ...]] = field(default_factory=dict)
    """Permissions ascend by key and end."""
    _rights: dict[str, Rights] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def is_unused(self) -> bool:
        """Whether nobody was ever given anything."""
        return not (self.enabled or self.users or self.roles)

    @property
    def version(self) -> int:
        """See proto/auth_version.py."""
        return auth_version(self.revision, enabled=self.enabled)

    def rights(self, name: str) -> Rights:
        """What this user may do; nothing, if there is none of this name."""
        found = self._rights.get(name)
        if found is None:
            user = self.users.get(name)
            if user is None:
                return NO_RIGHTS  # not kept: anybody can think up names
            found = self._rights[name] = self._work_out(user)
        return found

    def _work_out(self, user: User) -> Rights:
        if ROOT in user.roles:
            return Rights(is_root=True, readable=EVERYTHING, writable=EVERYTHING)
        permissions = [each for role in user.roles for each in self.roles.get(role, ())]
        return Rights(
            is_root=False,
            readable=_spans(permissions, but=Access.WRITE),
            writable=_spans(permissions, but=Access.READ),
        )


def _spans(permissions: Iterable[Permission], *, but: Access) -> SpanSet:
    spans = [span_of(each.key, each.end) for each in permissions if each.access is not but]
    return SpanSet(span for span in spans if span is not None)


AUTH_OFF: Final = TableAuth()
"""Of a table in which nobody has made a user yet."""


class Caller:
    """Who asks something of a table; check_* raise what he is told if he may not have it."""

    __slots__ = ("_next_key_of_lease", "auth", "who")

    def __init__(
        self, auth: TableAuth, who: Who, next_key_of_lease: Callable[[int, bytes], bytes | None]
    ) -> None:
        """next_key_of_lease: the first key from this one on that is attached to a lease of the table."""
        self.auth = auth
        self.who = who
        self._next_key_of_lease = next_key_of_lease

    def check_read(self, key: bytes, end: bytes = b"") -> None:
        """Raises UserEmpty, AuthOldRevision, PermissionDenied."""
        rights = self._rights()
        if rights is not None and not rights.readable.covers(span_of(key, end)):
            raise errors.PermissionDenied

    def check_write(self, key: bytes, end: bytes = b"") -> None:
        """As check_read."""
        rights = self._rights()
        if rights is not None and not rights.writable.covers(span_of(key, end)):
            raise errors.PermissionDenied

    def check_lease(self, lease: int) -> None:
        """Whether he may decide over all keys that are attached to it. As check_read."""
        rights = self._rights()
        if rights is not None:
            self._check_keys(lease, rights.writable)

    def check_lease_readable(self, lease: int) -> None:
        """Whether he may see all keys that are attached to it. As check_read."""
        rights = self._rights()
        if rights is not None:
            self._check_keys(lease, rights.readable)

    def _check_keys(self, lease: int, spans: SpanSet) -> None:
        """A look for each span that has any of them: a lease may have very many keys."""
        start: bytes | None = b""
        while start is not None:
            key = self._next_key_of_lease(lease, start)
            if key is None:
                return
            try:
                start = spans.reach(key)
            except KeyError:
                raise errors.PermissionDenied from None

    @property
    def is_limited(self) -> bool:
        """Whether there is anything that he may not do. As check_read."""
        return self._rights() is not None

    def _rights(self) -> Rights | None:
        """None: he may do everything."""
        auth, who = self.auth, self.who
        if not auth.enabled or who.is_system:
            return None
        if not who.user or who.revision == 0:
            raise errors.UserEmpty
        if who.revision < auth.revision:
            raise errors.AuthOldRevision
        rights = auth.rights(who.user)
        return None if rights.is_root else rights

    def check_user(self) -> None:
        """Whether he is anybody. Raises UserEmpty."""
        if self.auth.enabled and not self.who.is_system and not self.who.user:
            raise errors.UserEmpty

    def check_root(self) -> None:
        """Whether he has the role root. Raises UserEmpty, UserNotFound (he was deleted), PermissionDenied."""
        auth, who = self.auth, self.who
        if not auth.enabled or who.is_system:
            return
        self.check_user()
        if who.user not in auth.users:
            raise errors.UserNotFound
        if not auth.rights(who.user).is_root:
            raise errors.PermissionDenied
