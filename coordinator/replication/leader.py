"""The leader cluster, as its follower's replicator calls it."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError

from proto.regatta import regatta_pb2 as regatta
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from config import FollowsConfig
    from proto import errors
    from proto.catalog import Lead

M = TypeVar("M")

VERSION: Final = 1
"""Of the fields in replication.proto that are boathouse's own."""

METADATA_S: Final = 5.0
SHARDS_S: Final = 30.0
"""The same, if it asks the shard of each table, or tells it something."""
REPLICATE_S: Final = 30.0
"""Of one stream, which the leader cluster ends after 5 seconds or as soon as its last message is taken."""

SHARD_S: Final = 5.0
LOG_S: Final = 60.0
"""As Regatta's own follower clusters have it (log-rpc-timeout)."""
LOG_SILENCE_S: Final = 5.0
"""Between its messages. What a server of Regatta asks its shard first is lost if the shard's leader dies then: it waits
until the call's time is up, while its neighbours serve."""
PAIRS_SILENCE_S: Final = 600.0
"""The same; but ahead of the first chunk it writes all of the table into a file."""


class LeaderFailed(Exception):
    """A call to the leader cluster came to nothing."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class Unfit(LeaderFailed):
    """The cluster that answers is none to copy from."""

    def __init__(self, why: str) -> None:
        super().__init__("FAILED_PRECONDITION", why)


def check_identity(told: replication.MetadataResponse, follows: FollowsConfig, known: str) -> None:
    """known: the identity of the cluster whose tables were copied, "" if none were. What the cluster file says counts
    more. A cluster of an earlier version does not say who it is, and goes by its name. Raises Unfit."""
    if not told.cluster:
        raise Unfit(
            f"what answers at {', '.join(follows.endpoints)} speaks no replication but Regatta's, and can't give way:"
            " stop it first"
        )
    if told.cluster != follows.cluster:
        raise Unfit(
            f"cluster {told.cluster!r} answers at {', '.join(follows.endpoints)},"
            f" and the cluster file says {follows.cluster!r}"
        )
    wanted = follows.identity or known
    if wanted and told.identity not in ("", wanted):
        raise Unfit(
            f"cluster {told.cluster} is not the one whose tables were copied: it was made anew, or has lost its"
            f" catalog. Its identity is {told.identity}, and not {wanted}. Promote this cluster to keep what it holds;"
            f" or have its copies replaced, by follows.identity: {told.identity} in the cluster file"
        )


def check_no_circle(told: replication.MetadataResponse, known: Lead) -> None:
    """That cluster says that this one leads, of which the catalog here knows another lead. Raises Unfit unless it has
    heard of a promotion that is under way here: clusters that follow each other, and of which none was promoted, would
    make anew what the other one deletes."""
    if told.follows and told.lead.epoch <= known.epoch:
        raise Unfit(
            f"cluster {told.cluster} follows this one, or one that does, and this one follows it, in epoch"
            f" {told.lead.epoch}: promote one of them, or take `follows` out of its file"
        )


def reason_of(error: errors.BoathouseError | LeaderFailed) -> str:
    """In words."""
    return str(error) if isinstance(error, LeaderFailed) else f"{type(error).__name__}: {error.detail}"


def parsed(parse: Callable[[bytes], M], message: bytes) -> M:
    """Raises LeaderFailed for what nobody can read: it must not take the other tables with it."""
    try:
        return parse(message)
    except DecodeError as error:
        raise LeaderFailed("INTERNAL", f"its answer can't be read: {error}") from None


class Calls(Protocol):
    """Calls to whichever of its coordinators can be reached. Both raise LeaderFailed."""

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """The one answer."""

    def stream(
        self, path: str, request: bytes, timeout_s: float | None, silence_s: float | None = None
    ) -> AsyncGenerator[bytes]:
        """All answers; closing it ends the call. silence_s: how long the next one may take at most."""


class Leader:
    """Calls replication.v1."""

    def __init__(self, follower: str, calls: Calls) -> None:
        """follower: this cluster's name."""
        self._follower = follower
        self.identity = ""
        """Of the cluster that is meant, once that is known."""
        self.epoch = 0
        """In which it leads, once that is known."""
        self._calls = calls

    def table(self, table_id: int) -> bytes:
        """Names one of its tables, for as long as that has one past."""
        return f"{self.identity}/{self.epoch}/{table_id}".encode()

    async def metadata(
        self, lead: replication.Lead | None = None, *, positions: bool = False
    ) -> replication.MetadataResponse:
        """Its name, all its tables, and which cluster leads. lead: it is told that this one does. positions: and where
        each table stands, unless its version is too old for that. Raises LeaderFailed."""
        request = replication.MetadataRequest(lead=lead, positions=positions, follower=self._follower)
        timeout_s = SHARDS_S if positions or lead is not None else METADATA_S
        answer = await self._calls.unary(
            "/replication.v1.Metadata/Get", request.SerializeToString(), timeout_s
        )
        return parsed(replication.MetadataResponse.FromString, answer)

    def replicate(
        self, table: str, table_id: int, first: int
    ) -> AsyncGenerator[replication.ReplicateResponse]:
        """What the table changed from this revision on. Raises LeaderFailed."""
        request = replication.ReplicateRequest(
            table=table.encode(), leader_index=first, boathouse=self._boathouse(table_id)
        )
        return self._stream(
            "/replication.v1.Log/Replicate",
            request.SerializeToString(),
            replication.ReplicateResponse.FromString,
            REPLICATE_S,
        )

    def snapshot(self, table: str, table_id: int) -> AsyncGenerator[replication.SnapshotChunk]:
        """All of the table's pairs, behind chunks without any while they are being got ready. Raises LeaderFailed."""
        request = replication.SnapshotRequest(table=table.encode(), boathouse=self._boathouse(table_id))
        return self._stream(
            "/replication.v1.Snapshot/Stream",
            request.SerializeToString(),
            replication.SnapshotChunk.FromString,
            None,
        )

    def log(self, table: str, first: int) -> AsyncGenerator[replication.ReplicateResponse]:
        """As replicate(), from this index on, in Regatta's words: it ends with what there is. Raises LeaderFailed."""
        request = replication.ReplicateRequest(table=table.encode(), leader_index=first)
        return self._stream(
            "/replication.v1.Log/Replicate",
            request.SerializeToString(),
            replication.ReplicateResponse.FromString,
            LOG_S,
            LOG_SILENCE_S,
        )

    def pairs(self, table: str) -> AsyncGenerator[replication.SnapshotChunk]:
        """As snapshot(), in Regatta's words: what a backup holds. Raises LeaderFailed."""
        request = replication.SnapshotRequest(table=table.encode())
        return self._stream(
            "/replication.v1.Snapshot/Stream",
            request.SerializeToString(),
            replication.SnapshotChunk.FromString,
            None,
            PAIRS_SILENCE_S,
        )

    async def shard(self, table: str) -> int:
        """The number of the shard that is this table, in a cluster that speaks no replication but Regatta's: another
        one once the table was made anew or restored, and never again one that it was. 0 = it does not say, as those
        before 0.5, which serve no reads where they serve their log. Raises LeaderFailed."""
        request = regatta.RangeRequest(table=table.encode(), key=b"\0", count_only=True)
        try:
            answer = await self._calls.unary("/regatta.v1.KV/Range", request.SerializeToString(), SHARD_S)
        except LeaderFailed as error:
            if error.code == "UNIMPLEMENTED":
                return 0
            raise
        return parsed(regatta.RangeResponse.FromString, answer).header.shard_id

    async def _stream(
        self,
        path: str,
        request: bytes,
        parse: Callable[[bytes], Any],
        timeout_s: float | None,
        silence_s: float | None = None,
    ) -> AsyncGenerator[Any]:
        async with aclosing(self._calls.stream(path, request, timeout_s, silence_s)) as answers:
            async for answer in answers:
                yield parsed(parse, answer)

    def _boathouse(self, table_id: int) -> replication.Boathouse:
        return replication.Boathouse(
            version=VERSION,
            table_id=table_id,
            follower=self._follower,
            identity=self.identity,
            waits=True,
        )
