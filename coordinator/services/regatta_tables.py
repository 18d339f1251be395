"""regatta.v1.Tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import MessageToDict

from config.checks import table_name_problem
from config.models import TableConfig
from config.values import HISTORY_MAX, QUOTA_WORDS, quota_of
from coordinator.services.decoding import decode
from proto import errors
from proto.catalog import ELSEWHERE, LOCAL, REPLICATED, TableSettings, history_number
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2 as regatta

if TYPE_CHECKING:
    from config.topology import Topology
    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.changes import TableChanges
    from proto.catalog import TableEntry

OWNER_LENGTH_MAX: Final = 255
FILE_ONLY: Final = frozenset(TableConfig.model_fields) - {"shard", "history", "type", "owner", "quota"}
"""What is a cluster file's to say of a table, and is taken from there at each start."""


class RegattaTables:
    """Create, Delete, List."""

    def __init__(
        self, changes: TableChanges, topology: Topology, authenticator: Authenticator, *, is_guarded: bool
    ) -> None:
        """is_guarded: whoever calls has shown the token of who runs the cluster."""
        self._changes = changes
        self._topology = topology
        self._authenticator = authenticator
        self._is_guarded = is_guarded

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/regatta.v1.Tables/Create": self.create,
            "/regatta.v1.Tables/Delete": self.delete,
            "/regatta.v1.Tables/List": self.list,
        }

    async def create(self, call: Call) -> bytes:
        """The table is usable, on every node, when this is answered.

        `config` may hold shard, history, type, owner and quota, as the cluster file has them. What only that may say of
        a table is refused, and everything else in it passed over: Regatta passes over all of it."""
        request = decode(regatta.CreateTableRequest.FromString, call.body)
        if not request.name:
            raise errors.EmptyName
        problem = table_name_problem(request.name)
        if problem:
            raise errors.InvalidSettings(problem)
        config = MessageToDict(request.config)
        entry = await self._changes.create(request.name, self._settings(config))
        return regatta.CreateTableResponse(id=str(entry.id)).SerializeToString()

    async def delete(self, call: Call) -> bytes:
        """The table is gone when this is answered. Where it has users, only its root may do this. A copy of another
        cluster's table is deleted there: here it would come back at once."""
        request = decode(regatta.DeleteTableRequest.FromString, call.body)
        if not request.name:
            raise errors.EmptyName

        async def is_his(table: TableEntry) -> None:
            if table.origin not in (0, ELSEWHERE):
                raise errors.MethodNotServed(errors.COPY_NOT_DELETED)
            if not self._is_guarded:
                who = self._authenticator.credentials(call, table)
                await self._authenticator.rights(who, table, call.deadline, need=frames.RightsRequest.ROOT)

        await self._changes.delete(request.name, is_his)
        return regatta.DeleteTableResponse().SerializeToString()

    async def list(self, call: Call) -> bytes:
        """By name. `config` stays empty, as in Regatta; the catalog's own table has the settings."""
        decode(regatta.ListTablesRequest.FromString, call.body)
        response = regatta.ListTablesResponse()
        for entry in await self._changes.newest():
            if not entry.is_reserved:
                response.tables.add(name=entry.name, id=str(entry.id))
        return response.SerializeToString()

    def _settings(self, config: dict[str, Any]) -> TableSettings:
        """Raises InvalidSettings."""
        elsewhere = sorted(FILE_ONLY & config.keys())
        if elsewhere:
            raise errors.InvalidSettings(
                f"{', '.join(elsewhere)} can't be given here: the cluster file may say that, beneath `tables`"
            )
        return TableSettings(
            shard=self._shard(config.get("shard")),
            history=_history(config.get("history", "all")),
            is_local=_is_local(config.get("type", REPLICATED)),
            owner=_owner(config.get("owner", "")),
            quota=_quota(config.get("quota")),
        )

    def _shard(self, given: object) -> ShardId | None:
        if given is None:
            return None
        shards = self._topology.shards()
        number = _whole(given)
        if number is None or ShardId(number) not in shards:
            raise errors.InvalidSettings(
                f"there is no shard {_shown(given)}; this cluster has shards 1 to {shards[-1]}"
            )
        return ShardId(number)


def _history(given: object) -> int:
    if given == "all" or given == "none":
        return history_number(given)
    number = _whole(given)
    if number is None or not 1 <= number <= HISTORY_MAX:
        raise errors.InvalidSettings(
            f"history {_shown(given)} must be all, none, or a number of revisions from 1"
        )
    return number


def _is_local(given: object) -> bool:
    if given not in (LOCAL, REPLICATED):
        raise errors.InvalidSettings(f"type {_shown(given)} must be {REPLICATED} or {LOCAL}")
    return given == LOCAL


def _owner(given: object) -> str:
    if not isinstance(given, str) or len(given) > OWNER_LENGTH_MAX or not given.isprintable():
        raise errors.InvalidSettings(
            f"owner must be at most {OWNER_LENGTH_MAX} characters without control characters"
        )
    return given


def _quota(given: object) -> int | None:
    if given is None:
        return None
    number = _whole(given)
    quota = quota_of(given if number is None else number)
    if quota is None:
        raise errors.InvalidSettings(f"quota {_shown(given)} must be {QUOTA_WORDS}")
    return quota


def _whole(given: object) -> int | None:
    """A Struct knows no whole numbers, only doubles."""
    return int(given) if isinstance(given, float) and given.is_integer() else None


def _shown(given: object) -> str:
    return f"{given:g}" if isinstance(given, float) else repr(given)
