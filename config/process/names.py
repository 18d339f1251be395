"""What kinds of processes a node has, and what each process is called.

A kind is data: whoever starts, stops, lists or addresses processes reads its fields and spells no kind out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from config.models import ClusterConfig


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of process."""

    module: str
    """What `python -m` runs, unless `package` says something else; also the kind's name in `boathouse status`."""
    stem: str
    """What its processes are called within a node: the stem alone, or with a number, shard-2."""
    stop_rank: int
    """Lower ones go down first and are restarted last: whoever serves others stays up longer."""
    numbers: Callable[[ClusterConfig, str], tuple[int | None, ...]] = field(repr=False)
    """The numbers of its processes on a node, ascending; None for one that is alone and has none."""
    is_replica: bool = False
    """Its number is a shard, and it answers questions about that shard."""
    accepts_clients: bool = False
    """The supervisor hands it the node's listening sockets (listeners.py) as `ProcessSpec.sockets`."""
    hands_over: bool = False
    """At a planned restart its successor starts before it stops: several of them can live at once."""
    package: str = ""
    """What `python -m` runs, where that is not called as the kind is."""

    @property
    def runs(self) -> str:
        """What `python -m` runs."""
        return self.package or self.module

    def __str__(self) -> str:
        return self.module


def _shards(cluster: ClusterConfig, node: str) -> tuple[int | None, ...]:
    return cluster.shards_of(node)


def _coordinators(cluster: ClusterConfig, node: str) -> tuple[int | None, ...]:
    count = cluster.node(node).coordinators
    return (None,) if count == 1 else tuple(range(1, count + 1))


def _replicators(cluster: ClusterConfig, node: str) -> tuple[int | None, ...]:
    return (None,) if cluster.follows is not None else ()


SHARDWORKER: Final = Kind("shardworker", stem="shard", stop_rank=1, numbers=_shards, is_replica=True)
# Coordinators go before workers: they drain calls that any node's worker may have to answer.
COORDINATOR: Final = Kind(
    "coordinator",
    stem="coordinator",
    stop_rank=0,
    numbers=_coordinators,
    accepts_clients=True,
    hands_over=True,
)
REPLICATOR: Final = Kind(
    "replicator", stem="replicator", stop_rank=0, numbers=_replicators, package="coordinator.replication"
)
KINDS: Final = (SHARDWORKER, COORDINATOR, REPLICATOR)
"""All kinds, in the order in which processes are listed."""
STOP_RANKS: Final = tuple(sorted({kind.stop_rank for kind in KINDS}))


def kind_named(module: str) -> Kind:
    """The kind of that name. Raises KeyError if this version has none."""
    for kind in KINDS:
        if kind.module == module:
            return kind
    raise KeyError(module)


@dataclass(frozen=True, slots=True)
class ProcessName:
    """One process of a cluster."""

    node: str
    kind: Kind
    number: int | None = None

    @classmethod
    def replica(cls, node: str, shard: int) -> ProcessName:
        """A shard's replica on a node."""
        return cls(node, SHARDWORKER, shard)

    @classmethod
    def coordinator(cls, node: str, number: int | None = None) -> ProcessName:
        """A node's coordinator; `number` where it has several."""
        return cls(node, COORDINATOR, number)

    @property
    def shard(self) -> int | None:
        """The shard of a replica; None for every other kind."""
        return self.number if self.kind.is_replica else None

    @property
    def local(self) -> str:
        """Its name within its node: coordinator, shard-2."""
        return self.kind.stem if self.number is None else f"{self.kind.stem}-{self.number}"

    def __str__(self) -> str:
        return f"{self.node}/{self.local}"


def processes_of(cluster: ClusterConfig, node: str) -> list[ProcessName]:
    """All processes of a node: kind by kind, each by its numbers."""
    return [ProcessName(node, kind, number) for kind in KINDS for number in kind.numbers(cluster, node)]
