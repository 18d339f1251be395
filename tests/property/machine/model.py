"""A table as a list of changes, and both APIs' rules on top, written to be obviously right and slow.

Every question is answered by replaying the list. The model shares no code with the state machine: it takes parsed
requests and gives parsed answers (without the outer header) or an error class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proto import errors
from proto.etcd import kv_pb2, rpc_pb2
from proto.internal import frames_pb2 as frames
from proto.regatta import mvcc_pb2, regatta_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

State = dict[bytes, kv_pb2.KeyValue]


@dataclass
class Change:
    revision: int
    key: bytes
    value: bytes | None
    lease: int = 0


def inside(key: bytes, first: bytes, end: bytes) -> bool:
    if not end:
        return key == first
    return key >= first and (end == b"\0" or key < end)


class Model:
    def __init__(self, history: int) -> None:
        self.history = history
        self.revision = 1
        self.compacted = -1
        self.changes: list[Change] = []
        self.leases: dict[int, int] = {}
        """The entry in which each was granted."""
        self.index = 0
        """Of the entry whose commands are answered."""

    # ---- state ----------------------------------------------------------------------------------------------------

    @property
    def floor(self) -> int:
        if self.history < 0:
            return self.compacted
        oldest = self.revision - max(1, self.history) + 1
        return max(self.compacted, oldest) if oldest > 0 else self.compacted

    def state(self, revision: int | None = None) -> State:
        found: State = {}
        for change in self.changes:
            if revision is not None and change.revision > revision:
                break
            if change.value is None:
                del found[change.key]
                continue
            before = found.get(change.key)
            found[change.key] = kv_pb2.KeyValue(
                key=change.key,
                value=change.value,
                create_revision=before.create_revision if before else change.revision,
                mod_revision=change.revision,
                version=before.version + 1 if before else 1,
                lease=change.lease,
            )
        return dict(sorted(found.items()))

    def pairs(self, first: bytes, end: bytes, revision: int | None = None) -> list[kv_pb2.KeyValue]:
        return [kv for key, kv in self.state(revision).items() if inside(key, first, end)]

    @property
    def seen(self) -> int:
        """The revision that an operation reports at this point of a transaction."""
        return (
            self.changes[-1].revision
            if self.changes and self.changes[-1].revision > self.revision
            else self.revision
        )

    def atomically(self, work: Callable[[], Message]) -> Message:
        before = len(self.changes)
        try:
            answer = work()
        except errors.BoathouseError:
            del self.changes[before:]
            raise
        self.revision = self.seen
        return answer

    def answer(self, request: Message) -> Message:
        """The answer to a request as a command of its own. Raises errors of the state."""
        match request:
            case rpc_pb2.RangeRequest():
                if request.revision > 0:
                    self.check_revision(request.revision)
                return self.range(request)
            case rpc_pb2.PutRequest():
                return self.atomically(lambda: self.put(request))
            case rpc_pb2.DeleteRangeRequest():
                return self.atomically(lambda: self.delete(request))
            case rpc_pb2.TxnRequest():
                return self.atomically(lambda: self.txn(request))
            case rpc_pb2.CompactionRequest():
                return self.compact(request)
            case rpc_pb2.LeaseGrantRequest():
                return self.grant(request)
            case rpc_pb2.LeaseRevokeRequest():
                return self.atomically(lambda: self.revoke(request))
            case frames.ExpiredLeases():
                return self.expire(request)
            case regatta_pb2.RangeRequest():
                page = self.page(request)
                return regatta_pb2.RangeResponse(kvs=page.kvs, more=page.more, count=page.count)
            case regatta_pb2.PutRequest():
                done = self.atomically(lambda: self.regatta_put(request))
                return regatta_pb2.PutResponse.FromString(_renumber(done))
            case regatta_pb2.DeleteRangeRequest():
                return self.atomically(lambda: self.regatta_delete(request))
            case regatta_pb2.TxnRequest():
                return self.atomically(lambda: self.regatta_txn(request))
            case _:
                raise AssertionError(request)

    def compact(self, request: rpc_pb2.CompactionRequest) -> Message:
        if request.revision <= self.floor:
            raise errors.Compacted
        if request.revision > self.revision:
            raise errors.FutureRevision
        self.compacted = request.revision
        return rpc_pb2.CompactionResponse()

    def check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise errors.FutureRevision
        if revision < self.floor:
            raise errors.Compacted

    # ---- etcd -----------------------------------------------------------------------------------------------------

    def range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        found = self.pairs(request.key, request.range_end, request.revision if request.revision > 0 else None)
        count = len(found)
        if request.count_only:
            return rpc_pb2.RangeResponse(count=count)
        filters = (
            request.min_mod_revision, request.max_mod_revision,
            request.min_create_revision, request.max_create_revision,
        )  # fmt: skip
        limit = request.limit if request.limit > 0 else None
        if limit and not request.sort_order and not any(filters):
            found = found[: limit + 1]
        low_mod, high_mod, low_create, high_create = filters
        found = [
            kv
            for kv in found
            if not (low_mod and kv.mod_revision < low_mod)
            and not (high_mod and kv.mod_revision > high_mod)
            and not (low_create and kv.create_revision < low_create)
            and not (high_create and kv.create_revision > high_create)
        ]
        order = request.sort_order or (1 if request.sort_target else 0)
        if order in (1, 2):
            by = ("key", "version", "create_revision", "mod_revision", "value")[request.sort_target]
            found.sort(key=lambda kv: getattr(kv, by), reverse=order == 2)
        more = limit is not None and len(found) > limit
        found = found[:limit]
        if request.keys_only:
            for kv in found:
                kv.value = b""
        return rpc_pb2.RangeResponse(kvs=found, more=more, count=count)

    def grant(self, request: rpc_pb2.LeaseGrantRequest) -> rpc_pb2.LeaseGrantResponse:
        if request.ID in self.leases:
            raise errors.LeaseExists
        self.leases[request.ID] = self.index
        return rpc_pb2.LeaseGrantResponse(ID=request.ID, TTL=request.TTL)

    def revoke(self, request: rpc_pb2.LeaseRevokeRequest) -> rpc_pb2.LeaseRevokeResponse:
        if request.ID not in self.leases:
            raise errors.LeaseNotFound
        self.end(request.ID)
        return rpc_pb2.LeaseRevokeResponse()

    def expire(self, request: frames.ExpiredLeases) -> rpc_pb2.LeaseRevokeResponse:
        for expired in request.leases:
            if self.leases.get(expired.id) == expired.granted_at:
                self.end(expired.id)
                self.revision = self.seen
        return rpc_pb2.LeaseRevokeResponse()

    def end(self, lease_id: int) -> None:
        del self.leases[lease_id]
        attached = [key for key, kv in self.state().items() if kv.lease == lease_id]
        self.changes.extend(Change(self.revision + 1, key, None) for key in attached)

    def put(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        if request.lease and request.lease not in self.leases:
            raise errors.LeaseNotFound
        return self.put_now(request)

    def put_now(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        held = self.state().get(request.key)
        if held is None and (request.ignore_value or request.ignore_lease):
            raise errors.KeyNotFound
        value = held.value if held is not None and request.ignore_value else request.value
        lease = held.lease if held is not None and request.ignore_lease else request.lease
        self.changes.append(Change(self.revision + 1, request.key, value, lease))
        return rpc_pb2.PutResponse(prev_kv=held if request.prev_kv else None)

    def delete(self, request: rpc_pb2.DeleteRangeRequest) -> rpc_pb2.DeleteRangeResponse:
        found = self.delete_now(request.key, request.range_end)
        return rpc_pb2.DeleteRangeResponse(deleted=len(found), prev_kvs=found if request.prev_kv else [])

    def delete_now(self, key: bytes, end: bytes) -> list[kv_pb2.KeyValue]:
        found = self.pairs(key, end)
        self.changes.extend(Change(self.revision + 1, kv.key, None) for kv in found)
        return found

    def txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        path = self.path(request)
        self.check_puts(path)
        self.check_ranges(path)
        return self.execute(path)

    def path(self, request: rpc_pb2.TxnRequest) -> tuple[bool, list[Any]]:
        """Which branch is taken, with nested transactions replaced by their own paths."""
        succeeded = all(self.holds(compare) for compare in request.compare)
        operations = request.success if succeeded else request.failure
        return succeeded, [
            self.path(op.request_txn)
            if op.HasField("request_txn")
            else getattr(op, op.WhichOneof("request") or "")
            for op in operations
        ]

    def check_puts(self, path: tuple[bool, list[Any]]) -> None:
        for op in path[1]:
            if isinstance(op, tuple):
                self.check_puts(op)
            elif isinstance(op, rpc_pb2.PutRequest):
                if (op.ignore_value or op.ignore_lease) and op.key not in self.state():
                    raise errors.KeyNotFound
                if op.lease and op.lease not in self.leases:
                    raise errors.LeaseNotFound

    def check_ranges(self, path: tuple[bool, list[Any]]) -> None:
        for op in path[1]:
            if isinstance(op, tuple):
                self.check_ranges(op)
            elif isinstance(op, rpc_pb2.RangeRequest) and op.revision:
                self.check_revision(op.revision)

    def execute(self, path: tuple[bool, list[Any]]) -> rpc_pb2.TxnResponse:
        response = rpc_pb2.TxnResponse(succeeded=path[0])
        for op in path[1]:
            part = response.responses.add()
            match op:
                case rpc_pb2.RangeRequest():
                    part.response_range.CopyFrom(self.range(op))
                    part.response_range.header.revision = self.seen
                case rpc_pb2.PutRequest():
                    part.response_put.CopyFrom(self.put_now(op))
                    part.response_put.header.revision = self.seen
                case rpc_pb2.DeleteRangeRequest():
                    part.response_delete_range.CopyFrom(self.delete(op))
                    part.response_delete_range.header.revision = self.seen
                case _:
                    part.response_txn.CopyFrom(self.execute(op))
                    part.response_txn.header.SetInParent()
        return response

    def holds(self, compare: rpc_pb2.Compare) -> bool:
        name = ("version", "create_revision", "mod_revision", "value", "lease")[compare.target]
        found = self.pairs(compare.key, compare.range_end)
        if not found:
            if name == "value":
                return False
            found = [kv_pb2.KeyValue()]
        return all(_related(getattr(kv, name), compare.result, getattr(compare, name)) for kv in found)

    # ---- Regatta --------------------------------------------------------------------------------------------------

    def page(self, request: regatta_pb2.RangeRequest | mvcc_pb2.RequestOp.Range) -> mvcc_pb2.ResponseOp.Range:
        found = self.pairs(request.key, request.range_end)
        limit = request.limit if request.limit > 0 and request.range_end else len(found)
        taken = found[:limit]
        shown = [] if request.count_only and not (request.keys_only and request.range_end) else taken
        return mvcc_pb2.ResponseOp.Range(
            kvs=[mvcc_pb2.KeyValue(key=kv.key, value=b"" if request.keys_only else kv.value) for kv in shown],
            more=len(found) > limit,
            count=len(taken),
        )

    def regatta_put(
        self, request: regatta_pb2.PutRequest | mvcc_pb2.RequestOp.Put
    ) -> mvcc_pb2.ResponseOp.Put:
        done = self.put_now(rpc_pb2.PutRequest(key=request.key, value=request.value, prev_kv=request.prev_kv))
        if not done.HasField("prev_kv"):
            return mvcc_pb2.ResponseOp.Put()
        return mvcc_pb2.ResponseOp.Put(prev_kv=_pair(done.prev_kv))

    def regatta_delete(self, request: regatta_pb2.DeleteRangeRequest) -> regatta_pb2.DeleteRangeResponse:
        done = self.regatta_delete_op(request)
        return regatta_pb2.DeleteRangeResponse(deleted=done.deleted, prev_kvs=done.prev_kvs)

    def regatta_delete_op(
        self, request: regatta_pb2.DeleteRangeRequest | mvcc_pb2.RequestOp.DeleteRange
    ) -> mvcc_pb2.ResponseOp.DeleteRange:
        found = self.delete_now(request.key, request.range_end)
        return mvcc_pb2.ResponseOp.DeleteRange(
            deleted=len(found) if request.count or request.prev_kv else 0,
            prev_kvs=[_pair(kv) for kv in found] if request.prev_kv else [],
        )

    def regatta_txn(self, request: regatta_pb2.TxnRequest) -> regatta_pb2.TxnResponse:
        succeeded = all(self.regatta_holds(compare) for compare in request.compare)
        response = regatta_pb2.TxnResponse(succeeded=succeeded)
        for op in request.success if succeeded else request.failure:
            match op.WhichOneof("request"):
                case "request_range":
                    response.responses.add().response_range.CopyFrom(self.page(op.request_range))
                case "request_put":
                    response.responses.add().response_put.CopyFrom(self.regatta_put(op.request_put))
                case "request_delete_range":
                    done = self.regatta_delete_op(op.request_delete_range)
                    response.responses.add().response_delete_range.CopyFrom(done)
                case _:
                    pass
        return response

    def regatta_holds(self, compare: mvcc_pb2.Compare) -> bool:
        found = self.pairs(compare.key, compare.range_end)
        if not found:
            return False
        if not compare.HasField("value"):
            return True
        return all(_related(kv.value, compare.result, compare.value) for kv in found)


def _related(stored: Any, result: int, given: Any) -> bool:
    return bool((stored == given, stored > given, stored < given, stored != given)[result])


def _pair(kv: kv_pb2.KeyValue) -> mvcc_pb2.KeyValue:
    return mvcc_pb2.KeyValue(key=kv.key, value=kv.value)


def _renumber(done: Message) -> bytes:
    assert isinstance(done, mvcc_pb2.ResponseOp.Put)
    return regatta_pb2.PutResponse(
        prev_kv=done.prev_kv if done.HasField("prev_kv") else None
    ).SerializeToString()
