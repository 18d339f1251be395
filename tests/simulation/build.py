"""Which classes a simulated replica is built from: production's, or a mutant's subclasses of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator.shards.router import Router
from shardworker.machine import StateMachine
from shardworker.raft import Raft
from shardworker.replica.replica import Replica
from shardworker.store import ReplicaStore

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Build:
    """What runs in the simulated processes."""

    raft: type[Raft] = Raft
    machine: type[StateMachine] = StateMachine
    store: type[ReplicaStore] = ReplicaStore
    replica: type[Replica] = Replica
    router: type[Router] = Router
    raft_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the core that differ from production's (`check_quorum`, ...)."""


PRODUCTION = Build()
