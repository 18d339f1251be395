"""etcdserverpb.Maintenance. What a member is to etcd, the replica of the table's shard on this node is here."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from coordinator.api.credentials import SYSTEM
from coordinator.api.etcd_version import CLUSTER_VERSION, MINOR_BEFORE, VERSION
from coordinator.catalog.table_calls import Asked
from coordinator.services.decoding import decode
from coordinator.shards.replica_status import table_revision
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.ids import NodeId
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config import NodeConfig
    from config.topology import Topology
    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.services.etcd_tables import EtcdTables
    from coordinator.shards.memberships import Memberships
    from coordinator.shards.replica_status import ReplicaStatuses
    from proto.catalog import TableEntry

_VERSION: Final = re.compile(r"0*(?P<major>\d{1,19})\.0*(?P<minor>\d{1,19})(\.\d+([-+].+)?)?", re.ASCII)
"""A version as etcd takes it for a downgrade; the patch may be left out. Longer numbers are none to etcd, either."""

SNAPSHOT_BLOB_BYTES: Final = 32 << 10
"""etcd's."""


class EtcdMaintenance:
    """Status, Alarm, Defragment, Hash, HashKV, Snapshot, MoveLeader, Downgrade."""

    def __init__(
        self,
        calls: TableCalls,
        tables: EtcdTables,
        authenticator: Authenticator,
        statuses: ReplicaStatuses,
        topology: Topology,
        memberships: Memberships,
        node: NodeConfig,
    ) -> None:
        self._calls = calls
        self._tables = tables
        self._authenticator = authenticator
        self._statuses = statuses
        self._topology = topology
        self._node = NodeId(node.id)
        self._memberships = memberships

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/etcdserverpb.Maintenance/Status": self.status,
            "/etcdserverpb.Maintenance/Alarm": self.alarm,
            "/etcdserverpb.Maintenance/Defragment": self.defragment,
            "/etcdserverpb.Maintenance/Hash": self.hash,
            "/etcdserverpb.Maintenance/HashKV": self.hash_kv,
            "/etcdserverpb.Maintenance/Snapshot": self.snapshot,
            "/etcdserverpb.Maintenance/MoveLeader": self.move_leader,
            "/etcdserverpb.Maintenance/Downgrade": self.downgrade,
        }

    async def status(self, call: Call) -> bytes:
        """How the replica stands. Needs no leader."""
        decode(etcd.StatusRequest.FromString, call.body)
        table = await self._tables.find(call)
        replica = await self._statuses.nearest(table.shard)
        response = etcd.StatusResponse(
            version=VERSION,
            dbSize=replica.database_bytes,
            dbSizeInUse=replica.database_in_use_bytes,
            leader=self._memberships.member_id(replica.leader) if replica.leader else 0,
            raftIndex=replica.commit_index,
            raftAppliedIndex=replica.applied_index,
            raftTerm=self._tables.term_shown(table, replica.term),
            errors=self._complaints(table, replica),
            isLearner=replica.node in replica.learners,
        )
        return self._header(table, replica) + response.SerializeToString()

    def _complaints(self, table: TableEntry, replica: frames.ReplicaStatus) -> list[str]:
        complaints = [] if replica.leader else ["etcdserver: no leader"]
        for member, alarm in self._alarms(table, replica, [replica]):
            name = etcd.AlarmType.Name(alarm)
            # The trailing space is etcd's.
            complaints.append(f"memberID:{member} alarm:{name} " if member else f"alarm:{name} ")
        if replica.fault:
            complaints.append(replica.fault)
        return complaints

    def _alarms(
        self, table: TableEntry, newest: frames.ReplicaStatus, replicas: Sequence[frames.ReplicaStatus]
    ) -> list[tuple[int, etcd.AlarmType.ValueType]]:
        """(member, alarm): those raised by hand; a NOSPACE for each member that holds a full table, since it is full on
        all of them; and one for each replica whose disk is full. The last two end with their cause."""
        found: set[tuple[int, etcd.AlarmType.ValueType]] = set()
        for status in newest.tables:
            if status.id == table.id:
                found |= {(one.member, etcd.AlarmType.ValueType(one.alarm)) for one in status.alarms}
                if status.full:
                    found |= {(member, etcd.NOSPACE) for member in self._holders(newest)}
        for replica in replicas:
            if replica.no_space:
                found.add((self._memberships.member_id(replica.node), etcd.NOSPACE))
        return sorted(found)

    def _holders(self, replica: frames.ReplicaStatus) -> list[int]:
        return [self._memberships.member_id(node) for node in (*replica.voters, *replica.learners)]

    async def alarm(self, call: Call) -> bytes:
        """The alarms of the table, and raising and clearing them by hand."""
        request = decode(etcd.AlarmRequest.FromString, call.body)
        table = await self._tables.find(call)
        if request.alarm not in etcd.AlarmType.values():
            raise errors.InvalidRequest(f"there is no alarm {request.alarm}")
        match request.action:
            case etcd.AlarmRequest.GET:
                return await self._list_alarms(table, request.alarm)
            case etcd.AlarmRequest.ACTIVATE | etcd.AlarmRequest.DEACTIVATE if request.alarm == etcd.NONE:
                # To etcd that is an alarm like any, which is never there.
                await self._check_root(call, table)
                return await self._list_alarms(table, None)
            case etcd.AlarmRequest.ACTIVATE | etcd.AlarmRequest.DEACTIVATE:
                return await self._change_alarm(table, request, call)
            case unknown:
                raise errors.InvalidRequest(f"there is no action {unknown}")

    async def _check_root(self, call: Call, table: TableEntry) -> None:
        who = self._authenticator.credentials(call, table)
        deadline = self._tables.step_deadline(call)
        await self._authenticator.rights(who, table, deadline, need=frames.RightsRequest.ROOT)

    async def _list_alarms(self, table: TableEntry, wanted: etcd.AlarmType.ValueType | None) -> bytes:
        """Those of one type, or with NONE all; none at all with None. Probes wait for this, so a replica that is silent
        holds it up for a moment only."""
        replicas = await self._statuses.nearest_first(table.shard)
        newest = max(replicas, key=lambda replica: replica.applied_index)
        response = etcd.AlarmResponse()
        for member, alarm in self._alarms(table, newest, replicas):
            if wanted in (etcd.NONE, alarm):
                response.alarms.add(memberID=member, alarm=alarm)
        return self._header(table, newest) + response.SerializeToString()

    async def _change_alarm(self, table: TableEntry, request: etcd.AlarmRequest, call: Call) -> bytes:
        holders = {self._memberships.member_id(node) for node in self._topology.replicas_of(table.shard)}
        change = frames.AlarmChange(
            alarm=frames.TableAlarm(member=request.memberID, alarm=request.alarm),
            activate=request.action == etcd.AlarmRequest.ACTIVATE,
            holds_table=request.memberID in holders,
        )
        body = change.SerializeToString()
        asked = self._authenticator.asked(call, table, frames.ETCD_ALARM, body=body)
        table, reply = await self._calls.write(asked)
        return self._tables.with_header(table, reply)

    async def defragment(self, call: Call) -> bytes:
        """Give free pages of the replica's database back to the disk, those of the shard's other tables too. Nobody
        else waits for it."""
        decode(etcd.DefragmentRequest.FromString, call.body)
        table = await self._tables.find(call)
        await self._calls.ask_replica(table, self._nearest(table), frames.DEFRAGMENT, b"", call.deadline)
        return b""  # without a header, as etcd's

    def _nearest(self, table: TableEntry) -> NodeId:
        """The node of the replica that is this member's; of another one if there is none on this node."""
        node = self._calls.nearest(table)
        if node is None:
            raise errors.NoLeader(f"no replica of shard {table.shard} is in reach")
        return node

    async def hash(self, call: Call) -> bytes:
        """Of all that can be read. The number says nothing but whether two are equal."""
        decode(etcd.HashRequest.FromString, call.body)
        table, reply = await self._hash(call, etcd.HashKVRequest())
        answer = etcd.HashResponse(hash=etcd.HashKVResponse.FromString(reply.body).hash)
        return (
            self._tables.header(table, revision=reply.revision, term=reply.term) + answer.SerializeToString()
        )

    async def hash_kv(self, call: Call) -> bytes:
        """Of what is to be read at a revision, as this replica has it."""
        table, reply = await self._hash(call, decode(etcd.HashKVRequest.FromString, call.body))
        return self._tables.with_header(table, reply)

    async def _hash(self, call: Call, request: etcd.HashKVRequest) -> tuple[TableEntry, frames.Reply]:
        table = await self._tables.find(call)
        body, deadline = request.SerializeToString(), self._calls.step_deadline(call.deadline)
        asked = self._authenticator.asked(call, table, frames.ETCD_HASH_KV, body=body, deadline=deadline)
        stream = await self._calls.start(asked, linearizable=False)
        try:
            async for reply in stream.parts():
                last = reply
            return stream.table, last
        finally:
            stream.close()  # the client may have gone, or a part failed

    async def snapshot(self, call: Call) -> None:
        """The table in a file, as this replica has it, and behind it the SHA-256 of the file."""
        decode(etcd.SnapshotRequest.FromString, call.body)
        deadline = self._calls.step_deadline(call.deadline)
        table = await self._tables.find(call)
        body = (await self._leases_left(table)).SerializeToString()
        asked = self._authenticator.asked(call, table, frames.ETCD_SNAPSHOT, body=body, deadline=deadline)
        stream = await self._calls.start(asked, linearizable=False)
        digest = hashlib.sha256()
        sent_bytes = 0
        try:
            async for reply in stream.parts():
                part = frames.SnapshotPart.FromString(reply.body)
                for at in range(0, len(part.data), SNAPSHOT_BLOB_BYTES):
                    blob = part.data[at : at + SNAPSHOT_BLOB_BYTES]
                    digest.update(blob)
                    sent_bytes += len(blob)
                    left = etcd.SnapshotResponse(remaining_bytes=part.total_bytes - sent_bytes, blob=blob)
                    await call.send(left.SerializeToString())
        finally:
            stream.close()  # the client may have gone, or a part failed
        await call.send(etcd.SnapshotResponse(blob=digest.digest()).SerializeToString())

    async def _leases_left(self, table: TableEntry) -> frames.LeasesLeft:
        """As the leader counts. While there is none nobody does, and whoever leads next gives each its whole time."""
        try:
            return await self._calls.leases_left(table)
        except (errors.NoLeader, errors.ReadTimedOut):
            return frames.LeasesLeft()

    async def move_leader(self, call: Call) -> bytes:
        """Make another member lead the table's shard; answered when it does. Only the leader itself takes this."""
        request = decode(etcd.MoveLeaderRequest.FromString, call.body)
        table = await self._tables.find(call)
        # A node that is no member of the cluster has no number, and 0 would leave the choice to the leader.
        members = self._memberships.members()
        target = next((one.node for one in members if one.member_id == request.targetID), None)
        if self._calls.leader_believed(table) != self._node:
            raise errors.MemberNotLeader
        if target is None:
            raise errors.BadTransferee(f"no member has the id {request.targetID}")
        body = frames.TransferLeader(target=target, wait=True).SerializeToString()
        try:
            await self._calls.ask_replica(table, self._node, frames.TRANSFER_LEADER, body, call.deadline)
        except errors.NotLeader:
            raise errors.MemberNotLeader from None
        return b""  # without a header, as etcd's

    async def downgrade(self, call: Call) -> bytes:
        """VALIDATE tells, as etcd's does, whether a version is the minor one before ours, and no more than that. To
        enable it is refused: no version of boathouse behaves as an etcd before 3.5, so there is none to go back to, and
        never a way back that could be cancelled."""
        request = decode(etcd.DowngradeRequest.FromString, call.body)
        table = await self._tables.find(call)
        match request.action:
            case etcd.DowngradeRequest.VALIDATE | etcd.DowngradeRequest.ENABLE:
                version = _VERSION.fullmatch(request.version)
                if version is None:
                    raise errors.WrongVersionFormat(request.version)
                table, reply = await self._read_status(table, call)
                is_before = (int(version["major"]), int(version["minor"])) == MINOR_BEFORE
                if request.action == etcd.DowngradeRequest.ENABLE or not is_before:
                    raise errors.InvalidDowngradeVersion(request.version)
                response = etcd.DowngradeResponse(version=CLUSTER_VERSION)
                header = self._tables.header(table, revision=reply.revision, term=reply.term)
                return header + response.SerializeToString()
            case etcd.DowngradeRequest.CANCEL:
                await self._read_status(table, call)  # as in etcd, no word on it without a leader
                raise errors.NoDowngrade
            case unknown:
                raise errors.UnknownAction(f"there is no action {unknown}")

    async def _read_status(self, table: TableEntry, call: Call) -> tuple[TableEntry, frames.Reply]:
        deadline = self._calls.step_deadline(call.deadline)
        asked = Asked(table, frames.TABLE_STATUS, b"", deadline, SYSTEM)
        return await self._calls.read(asked, linearizable=True)

    def _header(self, table: TableEntry, replica: frames.ReplicaStatus) -> bytes:
        return self._tables.header(table, revision=table_revision(replica, table.id), term=replica.term)
