"""Random requests of both APIs over a handful of keys, so that they keep meeting each other."""

from __future__ import annotations

from hypothesis import strategies as st

from config.tuning import LimitsConfig
from proto import errors
from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from proto.regatta import mvcc_pb2, regatta_pb2
from proto.validation import etcd as validation

LEASES = [5, -6]
KEYS = [b"a", b"ab", b"b", b"b\0", b"c", b"\xff\xff", b"\0"]
keys = st.sampled_from(KEYS)
ends = st.one_of(st.just(b""), st.sampled_from([b"\0", b"a", b"b", b"c", b"d", b"\xff"]))
values = st.sampled_from([b"", b"1", b"2", b"2\0", b"\xff" * 40])
limits = st.sampled_from([0, 0, 0, 1, 2, 3, -1])
revisions = st.integers(-2, 30)
bounds = st.one_of(st.just(0), st.just(0), st.integers(-1, 20))
flags = st.booleans()
rarely = st.sampled_from([False, False, False, True])

etcd_ranges = st.builds(
    rpc_pb2.RangeRequest,
    key=keys,
    range_end=ends,
    limit=limits,
    revision=st.one_of(st.just(0), revisions),
    sort_order=st.sampled_from([0, 0, 1, 2, 7]),
    sort_target=st.integers(0, 4),
    keys_only=rarely,
    count_only=rarely,
    min_mod_revision=bounds,
    max_mod_revision=bounds,
    min_create_revision=bounds,
    max_create_revision=bounds,
)
plain_ranges = st.builds(
    rpc_pb2.RangeRequest,
    key=keys,
    range_end=ends,
    limit=limits,
    revision=revisions,
    keys_only=rarely,
    count_only=rarely,
)


def _put(
    key: bytes, value: bytes, prev_kv: bool, ignore_value: bool, ignore_lease: bool, lease: int
) -> rpc_pb2.PutRequest:
    return rpc_pb2.PutRequest(
        key=key,
        value=b"" if ignore_value else value,
        prev_kv=prev_kv,
        ignore_value=ignore_value,
        ignore_lease=ignore_lease,
        lease=0 if ignore_lease else lease,
    )


etcd_puts = st.builds(_put, keys, values, flags, rarely, rarely, st.sampled_from([0] * 12 + [*LEASES] * 2))
etcd_deletes = st.builds(rpc_pb2.DeleteRangeRequest, key=keys, range_end=ends, prev_kv=flags)
etcd_compares = st.one_of(
    *(
        st.builds(
            rpc_pb2.Compare,
            key=keys,
            range_end=ends,
            target=st.just(target),
            result=st.integers(0, 3),
            **{member: values if member == "value" else st.integers(-6, 6)},
        )
        for target, member in enumerate(["version", "create_revision", "mod_revision", "value", "lease"])
    )
)


def _op(request: object) -> rpc_pb2.RequestOp:
    match request:
        case rpc_pb2.RangeRequest():
            return rpc_pb2.RequestOp(request_range=request)
        case rpc_pb2.PutRequest():
            return rpc_pb2.RequestOp(request_put=request)
        case rpc_pb2.DeleteRangeRequest():
            return rpc_pb2.RequestOp(request_delete_range=request)
        case rpc_pb2.TxnRequest():
            return rpc_pb2.RequestOp(request_txn=request)
        case _:
            raise AssertionError(request)


def _txns(operations: st.SearchStrategy[rpc_pb2.RequestOp]) -> st.SearchStrategy[rpc_pb2.TxnRequest]:
    branch = st.lists(operations, max_size=3)
    return st.builds(
        rpc_pb2.TxnRequest, compare=st.lists(etcd_compares, max_size=2), success=branch, failure=branch
    )


_flat_ops = st.one_of(etcd_puts, etcd_puts, etcd_deletes, plain_ranges, etcd_ranges).map(_op)
_ops = st.one_of(_flat_ops, _flat_ops, _txns(_flat_ops).map(_op))


def _well_shaped(request: rpc_pb2.TxnRequest) -> bool:
    try:
        validation.check_txn(request, LimitsConfig().txn_ops_max)
    except errors.DuplicateKey:
        return False
    return True


etcd_txns = _txns(_ops).filter(_well_shaped)
compactions = st.builds(rpc_pb2.CompactionRequest, revision=revisions)

regatta_ranges = st.one_of(
    st.builds(regatta_pb2.RangeRequest, key=keys, range_end=ends, limit=st.integers(0, 3), keys_only=flags),
    st.builds(regatta_pb2.RangeRequest, key=keys, range_end=ends, limit=st.integers(0, 3), count_only=flags),
)
regatta_puts = st.builds(regatta_pb2.PutRequest, key=keys, value=values, prev_kv=flags)
regatta_deletes = st.builds(
    regatta_pb2.DeleteRangeRequest, key=keys, range_end=ends, prev_kv=flags, count=flags
)
regatta_compares = st.builds(
    mvcc_pb2.Compare,
    key=keys,
    range_end=ends,
    result=st.integers(0, 3),
    value=st.one_of(st.none(), values),
)
_inner = mvcc_pb2.RequestOp
regatta_ops = st.one_of(
    st.builds(
        _inner,
        request_range=st.builds(
            _inner.Range, key=keys, range_end=ends, limit=limits, keys_only=rarely, count_only=rarely
        ),
    ),
    st.builds(_inner, request_put=st.builds(_inner.Put, key=keys, value=values, prev_kv=flags)),
    st.builds(
        _inner,
        request_delete_range=st.builds(
            _inner.DeleteRange, key=keys, range_end=ends, prev_kv=flags, count=flags
        ),
    ),
    st.builds(_inner),
)
regatta_txns = st.builds(
    regatta_pb2.TxnRequest,
    compare=st.lists(regatta_compares, max_size=2),
    success=st.lists(regatta_ops, max_size=4),
    failure=st.lists(regatta_ops, max_size=4),
)

lease_ids = st.sampled_from(LEASES)
lease_commands = st.one_of(
    st.builds(rpc_pb2.LeaseGrantRequest, ID=lease_ids, TTL=st.sampled_from([1, 60])),
    st.builds(rpc_pb2.LeaseGrantRequest, ID=lease_ids, TTL=st.sampled_from([1, 60])),
    st.builds(rpc_pb2.LeaseRevokeRequest, ID=lease_ids),
    st.builds(
        frames.ExpiredLeases,
        leases=st.lists(
            st.builds(frames.ExpiredLease, id=lease_ids, granted_at=st.integers(2, 12)), max_size=4
        ),
    ),
)

reads = st.one_of(etcd_ranges, plain_ranges, regatta_ranges)
writes = st.one_of(
    etcd_puts, etcd_puts, etcd_deletes, etcd_txns, etcd_txns, compactions, lease_commands,
    regatta_puts, regatta_deletes, regatta_txns,
)  # fmt: skip
