"""The tables of a running cluster: made, deleted, listed and looked at through any of its coordinators; blocking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proto import catalog
from proto.boathouse import moves_pb2 as moves
from proto.etcd import rpc_pb2 as rpc
from proto.regatta import regatta_pb2 as regatta
from tools.admin.client import Client, KvClient

if TYPE_CHECKING:
    from proto.catalog import TableEntry, TableSettings
    from tools.admin.reach import Connection


@dataclass(frozen=True, slots=True)
class TableDescription:
    """A table, and how it is now."""

    entry: TableEntry
    keys: int
    revision: int
    leader: int | None
    """Node id of the leader of its shard; None if there is none."""
    shard_bytes: int
    """Of the database that the table shares with the others of its shard, on the nearest replica."""


class TablesClient:
    """Raises CallFailed."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    def create(self, name: str, settings: TableSettings) -> int:
        """The id of the new table."""
        request = regatta.CreateTableRequest(name=name)
        history = catalog.history_word(settings.history)
        request.config.update(
            {
                "history": history,
                "type": catalog.LOCAL if settings.is_local else catalog.REPLICATED,
                "owner": settings.owner,
            }
        )
        if settings.quota is not None:
            request.config.update({"quota": settings.quota})
        if settings.shard is not None:
            request.config.update({"shard": settings.shard})
        with self._client() as client:
            return int(client.call("/regatta.v1.Tables/Create", request, regatta.CreateTableResponse).id)

    def delete(self, name: str) -> None:
        """For good, with all that is in it."""
        request = regatta.DeleteTableRequest(name=name)
        with self._client() as client:
            client.call("/regatta.v1.Tables/Delete", request, regatta.DeleteTableResponse)

    def move(self, name: str, shard: int) -> moves.MoveProgress:
        """How the move of a table to this shard goes, which is begun if it is not under way. To be asked until it is
        done; whichever coordinator answers goes on with it."""
        request = moves.MoveRequest(table=name, shard=shard)
        with self._client() as client:
            return client.call("/boathouse.v1.Moves/Move", request, moves.MoveProgress)

    def cancel_move(self, name: str) -> None:
        """The table stays where it is."""
        request = moves.CancelMoveRequest(table=name)
        with self._client() as client:
            client.call("/boathouse.v1.Moves/Cancel", request, moves.CancelMoveResponse)

    def list(self) -> list[TableEntry]:
        """By name. The catalog is a table like any other, so it is read like one."""
        request = rpc.RangeRequest(key=catalog.TABLES_PREFIX, range_end=catalog.TABLES_END)
        reached = self._connection
        with KvClient(
            reached.addresses,
            catalog.CATALOG_NAME,
            self._timeout_s,
            credentials=reached.credentials,
            token=reached.token,
        ) as client:
            response = client.range(request)
        return [catalog.parse_row(kv.key, kv.value) for kv in response.kvs]

    def describe(self, entry: TableEntry) -> TableDescription:
        """How a listed table is now."""
        count = regatta.RangeRequest(
            table=entry.name.encode(), key=b"\0", range_end=b"\0", count_only=True, linearizable=True
        )
        with self._client() as client:
            counted = client.call("/regatta.v1.KV/Range", count, regatta.RangeResponse)
            status = client.call(
                "/regatta.v1.Cluster/Status", regatta.StatusRequest(), regatta.StatusResponse
            )
        known = status.tables[entry.name] if entry.name in status.tables else regatta.TableStatus()
        return TableDescription(
            entry,
            counted.count,
            counted.header.revision,
            int(known.leader or 0) or None,
            known.dbSize,
        )

    def _client(self) -> Client:
        reached = self._connection
        return Client(
            reached.addresses, self._timeout_s, credentials=reached.credentials, token=reached.token
        )
