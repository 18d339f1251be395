"""What the coordinators of a node have counted: calls by method and table, connections, watches.

Each coordinator has series of its own (`process`), since each counts from its own beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.metrics.families import counter, gauge, histogram
from proto.codes import Code
from proto.histogram import CALL_BOUNDS_S
from proto.internal import frames_pb2 as frames
from proto.methods import METHODS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client import Metric

    from proto.internal import figures_pb2 as figures

TYPES: Final = {
    Kind.UNARY: "unary",
    Kind.SERVER_STREAM: "server_stream",
    Kind.CLIENT_STREAM: "client_stream",
    Kind.BIDI_STREAM: "bidi_stream",
}
"""As grpc-ecosystem's own metrics have them."""
CODE_NAMES: Final = {code: code.name.title().replace("_", "") for code in Code} | {
    Code.OK: "OK",
    Code.CANCELLED: "Canceled",
}
"""As Go spells them."""

WATCH: Final = "/etcdserverpb.Watch/Watch"

_METHOD: Final = ("process", "grpc_type", "grpc_service", "grpc_method")


class _Method:
    """One method of one coordinator, with what follows from what was counted."""

    def __init__(self, process: str, counted: figures.MethodFigures) -> None:
        service, _, name = counted.path.lstrip("/").partition("/")
        self.kind = METHODS[counted.path].kind
        self.labels = (process, TYPES[self.kind], service, name)
        self.counted = counted
        tables = counted.tables.values()
        self.seconds = frames.Histogram(
            counts=[sum(counts) for counts in zip(*(table.counts for table in tables), strict=True)],
            sum_s=sum(table.sum_s for table in tables),
        )
        self.ended = sum(self.seconds.counts)
        self.failed = sum(counted.failures.values())

    @property
    def received(self) -> int:
        """Messages of clients. A call that takes one has had it when it is counted."""
        takes_one = self.kind in (Kind.UNARY, Kind.SERVER_STREAM)
        return self.ended + self.counted.under_way if takes_one else self.counted.received

    @property
    def sent(self) -> int:
        """Messages to clients. Of a call that has one answer, it is the one that ends it well."""
        has_one = self.kind in (Kind.UNARY, Kind.CLIENT_STREAM)
        return self.ended - self.failed if has_one else self.counted.sent

    def handled(self) -> Iterator[tuple[tuple[str, ...], float]]:
        yield (*self.labels, CODE_NAMES[Code.OK]), self.ended - self.failed
        for code, count in sorted(self.counted.failures.items()):
            yield (*self.labels, CODE_NAMES[Code(code)]), count


def call_families(coordinators: Sequence[figures.CoordinatorFigures]) -> Iterator[Metric]:
    """grpc_server_*, and the same by table."""
    methods = [_Method(each.process, counted) for each in coordinators for counted in each.methods]
    called = [method for method in methods if method.ended]
    yield counter(
        "grpc_server_started_total",
        "Calls that have begun.",
        _METHOD,
        ((method.labels, method.ended + method.counted.under_way) for method in methods),
    )
    yield counter(
        "grpc_server_handled_total",
        "Calls that have ended, by their code.",
        (*_METHOD, "grpc_code"),
        (sample for method in methods for sample in method.handled()),
    )
    yield counter(
        "grpc_server_msg_received_total",
        "Messages received.",
        _METHOD,
        ((method.labels, method.received) for method in methods),
    )
    yield counter(
        "grpc_server_msg_sent_total",
        "Messages sent.",
        _METHOD,
        ((method.labels, method.sent) for method in methods),
    )
    yield counter(
        "etcd_server_client_requests_total",
        "Calls that have begun.",
        ["process", "type"],
        sorted(_by_type(methods).items()),
    )
    yield histogram(
        "grpc_server_handling_seconds",
        "From a call's headers to its status. Methods that were called.",
        _METHOD,
        CALL_BOUNDS_S,
        ((method.labels, method.seconds) for method in called),
    )
    yield histogram(
        "boathouse_call_duration_seconds",
        "From a call's headers to its status, by table.",
        (*_METHOD, "table"),
        CALL_BOUNDS_S,
        (
            ((*method.labels, table), seconds)
            for method in called
            for table, seconds in sorted(method.counted.tables.items())
        ),
    )


def _by_type(methods: Iterable[_Method]) -> dict[tuple[str, str], float]:
    begun: dict[tuple[str, str], float] = {}
    for method in methods:
        key = method.labels[0], "unary" if method.kind is Kind.UNARY else "stream"
        begun[key] = begun.get(key, 0) + method.ended + method.counted.under_way
    return begun


def coordinator_families(coordinators: Sequence[figures.CoordinatorFigures]) -> Iterator[Metric]:
    """Connections, bytes and queues."""
    names = sorted({name for each in coordinators for name in each.gauges})
    for name in names:
        yield gauge(
            f"boathouse_coordinator_{name}",
            f"{name.replace('_', ' ').capitalize()}, as the coordinator counts them.",
            ["process"],
            (([each.process], each.gauges[name]) for each in coordinators if name in each.gauges),
        )
    yield counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes received from gRPC clients.",
        ["process"],
        (([each.process], each.received_bytes) for each in coordinators),
    )
    yield counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes sent to gRPC clients.",
        ["process"],
        (([each.process], each.sent_bytes) for each in coordinators),
    )


def watch_families(coordinators: Sequence[figures.CoordinatorFigures]) -> Iterator[Metric]:
    """Who watches, and who is behind."""
    told = [(each.process, watched) for each in coordinators for watched in each.watched]
    watchers = [([process, watched.table], float(watched.watchers)) for process, watched in told]
    behind = [([process, watched.table], float(watched.behind)) for process, watched in told]
    labels = ["process", "table"]
    late = "Watchers that still have to be told of something: they began in the past, or their clients read slowly."
    yield gauge("boathouse_watchers", "Watchers of the table.", labels, watchers)
    yield gauge("boathouse_watchers_behind", late, labels, behind)
    yield gauge(
        "boathouse_watch_lag_revisions",
        "How far the last of the table's watchers is behind.",
        labels,
        (([process, watched.table], watched.lag_revisions) for process, watched in told),
    )
    # By etcd's names, for the dashboards that people have.
    yield gauge("etcd_debugging_mvcc_watcher_total", "Watchers of the table.", labels, watchers)
    yield gauge("etcd_debugging_mvcc_slow_watcher_total", late, labels, behind)
    yield gauge(
        "etcd_debugging_mvcc_watch_stream_total",
        "Streams of watches that are open.",
        ["process"],
        (
            ([each.process], counted.under_way)
            for each in coordinators
            for counted in each.methods
            if counted.path == WATCH
        ),
    )
