"""Methods that no shard sees: who may call them is asked before they begin.

What each method needs is in METHODS. One that ends at a shard is checked there, with everything that it is about.

Some reach beyond the table that they name: a member of the cluster holds replicas of all tables, and a shard's leader
leads all of its. They are for who runs the cluster:

- whoever shows the token of maintenance, if the cluster file names one;
- else root of the table `default`, once that has users: etcd's clients name no table, and mean that one;
- else, if there is no such token, root of the table that is named;
- else everybody, as long as there is no token and no table of the cluster has users.

So a table without users is no way around the users of another. Why not root of any table once `default` has users:
who may do as he likes in a table without users could give it a root, himself.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, TypeVar

from coordinator.api.credentials import SYSTEM
from coordinator.auth.bearer import MAINTENANCE
from coordinator.services.etcd_cluster import check_added_urls
from coordinator.services.etcd_tables import DEFAULT_TABLE
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import METHODS, Access, ApiName, Permission

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coordinator.api.call import Call, Handler
    from coordinator.api.credentials import Credentials
    from coordinator.auth.authenticator import Authenticator, Need, Rights
    from coordinator.auth.bearer import Bearers
    from coordinator.catalog.cache import Catalog
    from coordinator.catalog.contents import Contents
    from coordinator.services.etcd_tables import EtcdTables
    from proto.catalog import TableEntry

T = TypeVar("T")

_NEEDS: Final[dict[Permission, Need.ValueType]] = {
    Permission.USER: frames.RightsRequest.USER,
    Permission.ROOT: frames.RightsRequest.ROOT,
}

_GUARDED: Final = frozenset({ApiName.ETCD, ApiName.ETCD_ADMIN})
"""Whose calls mean one table, by their metadata."""

_WITHOUT_QUORUM: Final = frozenset(
    {"/etcdserverpb.Maintenance/MoveLeader", "/etcdserverpb.Maintenance/Defragment"}
)
"""What must be possible while other shards have no leader, or this one: the nearest replicas say who may. One that lags
may take what was allowed a moment ago, and neither method loses anything."""

_WHOEVER_ASKS: Final[dict[str, Callable[[Call], None]]] = {
    "/etcdserverpb.Cluster/MemberAdd": check_added_urls,
}
"""What etcd refuses before it asks who somebody is."""

LEADER_S: Final = 2.0
"""A shard whose leader says nothing for so long is taken to have none."""

ASKED_AT_ONCE_MAX: Final = 64
"""Tables that are asked together whether they have users."""


class Guard:
    """Stands before handlers."""

    def __init__(
        self, tables: EtcdTables, authenticator: Authenticator, bearers: Bearers, catalog: Catalog
    ) -> None:
        self._tables = tables
        self._authenticator = authenticator
        self._bearers = bearers
        self._catalog = catalog

    def guarded(self, path: str, handler: Handler) -> Handler:
        """The handler of this path, behind the guard if it needs one."""
        method = METHODS[path]
        if method.access is not Access.COORDINATOR or method.api not in _GUARDED:
            return handler
        if method.permission is Permission.CLUSTER:
            linearizable = path not in _WITHOUT_QUORUM
            check_first = _WHOEVER_ASKS.get(path)

            async def checked(call: Call) -> bytes | None:
                if check_first is not None:
                    check_first(call)
                await self.check_runs_cluster(call, linearizable=linearizable)
                return await handler(call)

        elif method.permission in _NEEDS:
            need = _NEEDS[method.permission]

            async def checked(call: Call) -> bytes | None:
                await self.check(call, need)
                return await handler(call)

        else:
            return handler
        return checked  # type: ignore[return-value]  # it answers as the handler does

    async def check(self, call: Call, need: Need.ValueType) -> None:
        """Raises what he is told who is not what is needed."""
        table = await self._tables.find(call)
        who = self._authenticator.credentials(call, table)
        deadline = self._tables.step_deadline(call)
        await self._authenticator.rights(who, table, deadline, need=need)

    async def check_runs_cluster(self, call: Call, *, linearizable: bool) -> None:
        """Raises what he is told who does not run the cluster, and TableNotFound for a table that is not there."""
        named = await self._tables.find(call)
        if self._bearers.has_shown(call, MAINTENANCE):
            return
        default = await self._default(linearizable=linearizable)
        if default is not None and await self._is_root(call, default, named, linearizable=linearizable):
            return
        if self._bearers.is_guarded(MAINTENANCE):
            raise errors.BearerMissing
        if named != default and await self._is_root(call, named, named, linearizable=linearizable):
            return
        if await self._has_users(self._tables.step_deadline(call), linearizable=linearizable):
            raise errors.PermissionDenied

    async def _default(self, *, linearizable: bool) -> TableEntry | None:
        """None if there is none of that name."""
        known = self._catalog.tables.get(DEFAULT_TABLE)
        return known or (await self._load(linearizable=linearizable)).entries.get(DEFAULT_TABLE)

    async def _is_root(self, call: Call, table: TableEntry, named: TableEntry, *, linearizable: bool) -> bool:
        """Whether the caller is root of this table; False if it has no users, or has gone. Raises what he is told who
        is not."""
        who = self._authenticator.credentials(call, table)
        deadline = self._tables.step_deadline(call)
        try:
            rights = await self._rights(
                who, table, deadline, need=frames.RightsRequest.ROOT, linearizable=linearizable
            )
        except errors.InvalidAuthToken:
            if table == named:
                raise
            # It may be good for the table that he names, and a new one would be no better.
            raise errors.PermissionDenied from None
        except errors.TableNotFound:
            if table == named:
                raise
            return False
        return rights.asks

    async def _has_users(self, deadline: float, *, linearizable: bool) -> bool:
        """Whether any table has, of those that there are now. Raises NoLeader, ReadTimedOut if nobody can tell."""
        contents = await self._load(linearizable=linearizable)
        if contents.unread:
            return True  # a newer version has written their rows, and here nobody can tell
        tables = [entry for entry in contents.entries.values() if not entry.is_reserved]

        async def has_users(table: TableEntry) -> bool:
            try:
                return (await self._rights(SYSTEM, table, deadline, linearizable=linearizable)).asks
            except errors.TableNotFound:  # it has gone, or is not made yet
                return False

        for at in range(0, len(tables), ASKED_AT_ONCE_MAX):
            if any(await asyncio.gather(*map(has_users, tables[at : at + ASKED_AT_ONCE_MAX]))):
                return True
        return False

    async def _rights(
        self,
        who: Credentials,
        table: TableEntry,
        deadline: float,
        *,
        need: Need.ValueType = frames.RightsRequest.USER,
        linearizable: bool,
    ) -> Rights:
        def ask(*, linearizable: bool) -> Awaitable[Rights]:
            return self._authenticator.rights(who, table, deadline, need=need, linearizable=linearizable)

        return await _by_leader_or_nearest(ask, linearizable=linearizable)

    async def _load(self, *, linearizable: bool) -> Contents:
        return await _by_leader_or_nearest(self._catalog.load, linearizable=linearizable)


async def _by_leader_or_nearest(ask: Callable[..., Awaitable[T]], *, linearizable: bool) -> T:
    """What a leader says, or the nearest replica if none answers within LEADER_S: members change just because a shard
    has lost too many of them. Whoever has no leader can at most be late in hearing of a change of users."""
    if linearizable:
        with contextlib.suppress(TimeoutError, errors.NoLeader, errors.ReadTimedOut):
            async with asyncio.timeout(LEADER_S):
                return await ask(linearizable=True)
    return await ask(linearizable=False)
