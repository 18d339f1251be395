"""What a load consists of, and its requests as bytes, built before the clock starts."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    from collections.abc import Iterator

PATHS = {
    "put": "/etcdserverpb.KV/Put",
    "get": "/etcdserverpb.KV/Range",
    "range": "/etcdserverpb.KV/Range",
    "scan": "/etcdserverpb.KV/Range",
    "keys": "/etcdserverpb.KV/Range",
    "stream": "/etcdserverpb.KV/RangeStream",
    "txn": "/etcdserverpb.KV/Txn",
}
"""gRPC method by the name of the work."""

REQUESTS_BUILT_MAX = 50_000
"""Requests built in advance; a longer run goes round again."""
BUILT_BYTES_MAX = 32 << 20
"""Of their values, about."""

FILL_OPS_MAX = 100
"""Puts in one transaction while the keys are filled in; etcd takes 128."""
FILL_BYTES_MAX = 1 << 20
"""Of such a transaction; etcd takes 1.5 MiB."""

RANGE_KEYS = 100
"""Keys that one `range` reads."""

TXN_PUTS = 4
"""Puts in one `txn`, behind a compare."""


class BadMix(ValueError):
    """The mix can't be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One closed-loop load: each client sends its next request when the last was answered."""

    mix: dict[str, int] = field(default_factory=lambda: {"put": 100})
    """Work and its share in percent; the shares add up to 100."""
    value_bytes: int = 256
    key_count: int = 10_000
    clients: int = 64
    """Requests in flight, all told."""
    tables: tuple[str, ...] = ("default",)
    seconds: float = 10.0
    """How long to measure, unless `requests` says how many."""
    requests: int | None = None
    warmup_seconds: float = 2.0
    """Load before the measurement, not counted: connections, caches, first elections."""
    seed: int = 1

    @property
    def reads(self) -> bool:
        """Whether the keys have to be there first."""
        return any(self.mix.get(work) for work in ("get", "range", "scan", "keys", "stream"))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the load generator's standard input and for -o json."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Workload:
        """The inverse of to_json."""
        return cls(**{**plain, "tables": tuple(plain["tables"])})


def parse_mix(text: str) -> dict[str, int]:
    """Shares from "put=50,get=50". Raises BadMix."""
    mix: dict[str, int] = {}
    for part in text.split(","):
        work, _, share = part.strip().partition("=")
        if work not in PATHS:
            raise BadMix(f"unknown work {work!r} in the mix: one of {', '.join(PATHS)}")
        if not share.isdigit():
            raise BadMix(f"{part.strip()!r} in the mix: write {work}=PERCENT")
        if work in mix:
            raise BadMix(f"{work} is in the mix twice")
        mix[work] = int(share)
    if sum(mix.values()) != 100:
        raise BadMix(f"the mix adds up to {sum(mix.values())} %, not 100")
    return mix


def key(number: int) -> bytes:
    """The key of this number; keys sort as their numbers do."""
    return b"bench/%012d" % number


def build(workload: Workload) -> list[tuple[str, str, bytes]]:
    """A run's requests as (work, table, bytes), in an order that depends on the seed alone."""
    rng = random.Random(workload.seed)
    fitting = max(1, BUILT_BYTES_MAX // max(workload.value_bytes, 1))
    count = min(workload.requests or REQUESTS_BUILT_MAX, REQUESTS_BUILT_MAX, fitting)
    works = rng.choices(list(workload.mix), weights=list(workload.mix.values()), k=count)
    return [(work, rng.choice(workload.tables), _request(work, rng, workload)) for work in works]


def _request(work: str, rng: random.Random, workload: Workload) -> bytes:
    number = rng.randrange(workload.key_count)
    match work:
        case "put":
            return _put(number, rng, workload).SerializeToString()
        case "get":
            return etcd.RangeRequest(key=key(number)).SerializeToString()
        case "range":
            end = key(number + RANGE_KEYS)
            return etcd.RangeRequest(key=key(number), range_end=end, limit=RANGE_KEYS).SerializeToString()
        case "scan" | "keys" | "stream":
            keys_only = work == "keys"
            scan = etcd.RangeRequest(key=b"bench/", range_end=b"bench0", keys_only=keys_only)
            return scan.SerializeToString()
        case "txn":
            # The compare always holds: the work of a transaction is wanted, not a conflict.
            compare = etcd.Compare(
                key=key(number),
                target=etcd.Compare.VERSION,
                result=etcd.Compare.GREATER,
                version=-1,
            )
            numbers = {number, *(rng.randrange(workload.key_count) for _ in range(TXN_PUTS - 1))}
            puts = [etcd.RequestOp(request_put=_put(n, rng, workload)) for n in sorted(numbers)]
            return etcd.TxnRequest(compare=[compare], success=puts).SerializeToString()
        case _:
            raise BadMix(f"unknown work {work!r}")


def _put(number: int, rng: random.Random, workload: Workload) -> etcd.PutRequest:
    return etcd.PutRequest(key=key(number), value=rng.randbytes(workload.value_bytes))


def fill_ops(workload: Workload) -> int:
    """Puts in each transaction of fill(), but the last."""
    return max(1, min(FILL_OPS_MAX, FILL_BYTES_MAX // max(workload.value_bytes, 1)))


def fill(workload: Workload) -> Iterator[bytes]:
    """Transactions that put every key once, for one table."""
    rng = random.Random(workload.seed)
    ops = fill_ops(workload)
    for first in range(0, workload.key_count, ops):
        numbers = range(first, min(first + ops, workload.key_count))
        puts = [etcd.RequestOp(request_put=_put(number, rng, workload)) for number in numbers]
        yield etcd.TxnRequest(success=puts).SerializeToString()
