"""What a seed decides before the first event: the cluster's shape, and which faults come how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

KINDS: Final = (
    "drop",
    "delay",
    "duplicate",
    "reorder",
    "partition",
    "one-way",
    "disconnect",
    "slow",
    "pause",
    "kill",
    "crash-point",
    "power-cut",
    "full-disk",
    "failed-sync",
    "bit-flip",
    "lost-disk",
    "clock",
    "membership",
    "transfer",
    "snapshot",
    "compaction",
)
"""All kinds of faults and disturbances; each can be taken away with --without."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulation's parameters."""

    seed: int
    voters: int
    spares: int
    """Further hosts."""
    clients: int
    safety_ms: int
    """Length of the first phase, in virtual time."""
    intensity: float
    """Faults of each kind in a second of virtual time."""
    kinds: frozenset[str] = field(default_factory=frozenset)
    append_bytes_max: int = 1 << 20
    tick_ms: int = 50
    heartbeat_ticks: int = 1
    election_ticks: int = 6
    learners: int = 0
    """So many of the spare hosts learn from the beginning; the others are no members at first."""
    lessees: int = 0
    """Further clients, which hold leases."""

    @property
    def compacts(self) -> bool:
        return "compaction" in self.kinds

    def without(self, kinds: frozenset[str]) -> Plan:
        """The same plan, milder."""
        return replace(self, kinds=self.kinds - kinds)


def draw_kinds(rng: random.Random, kinds: Iterable[str], share: float) -> frozenset[str]:
    """About such a share of them, that go together."""
    drawn = frozenset(kind for kind in kinds if rng.random() < share)
    if "lost-disk" in drawn:
        # Only one may be without data at a time.
        drawn -= rng.choice((frozenset({"lost-disk"}), frozenset({"bit-flip"})))
    return drawn


def draw(seed: int) -> Plan:
    """The plan of a seed. Most seeds leave some kinds out, so that the rest can go deep."""
    rng = random.Random(f"{seed}/plan")
    share = rng.choice((0.3, 0.5, 0.5, 0.8, 1.0))
    kinds = draw_kinds(rng, KINDS, share)
    spares = rng.choices((0, 1, 2), (4, 4, 2))[0]
    return Plan(
        seed=seed,
        voters=rng.choices((1, 2, 3, 5), (6, 4, 70, 20))[0],
        spares=spares,
        learners=rng.randint(0, spares),
        clients=rng.randint(2, 4),
        safety_ms=rng.choice((6_000, 9_000, 12_000)),
        intensity=rng.choice((0.1, 0.2, 0.4)),
        kinds=kinds,
        tick_ms=rng.choice((30, 50, 100)),
        heartbeat_ticks=rng.choice((1, 2, 4)),
        election_ticks=rng.choice((6, 10)),
        append_bytes_max=rng.choice((1, 400, 1 << 20)),
        lessees=rng.choice((0, 1, 2)),
    )
