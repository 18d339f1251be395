"""A network that loses, delays, doubles and reorders envelopes, and falls apart one way or both.

Envelopes travel as bytes, as they do over ZeroMQ, so what does not survive the wire does not survive here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Weather:
    """How all links behave now."""

    delay_us_min: int = 200
    delay_us_max: int = 2_000
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False
    """False: what leaves first arrives first, as on a TCP connection."""


class Network:
    """Addresses are short strings: `n1` a replica, `c1` a client."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.stream("network")
        self._receivers: dict[str, Callable[[str, bytes], None]] = {}
        self._last_arrival: dict[tuple[str, str], int] = {}
        self._lives: Counter[str] = Counter()
        self.blocked: set[tuple[str, str]] = set()
        """Pairs (from, to) that nothing passes."""
        self.weather = Weather()
        self.counts: Counter[str] = Counter()
        self.lost: Callable[[str, str], None] = lambda _sender, _to: None
        """Told of everything that does not arrive."""

    def attach(self, address: str, receive: Callable[[str, bytes], None]) -> None:
        """`receive` is called with the sender's address and the bytes."""
        self._receivers[address] = receive

    def sift(self, address: str, keep: Callable[[str, bytes], bool]) -> None:
        """From now on what arrives there is thrown away, unnoticed by its sender, unless `keep` says otherwise."""
        receive = self._receivers[address]

        def sifted(sender: str, payload: bytes) -> None:
            if keep(sender, payload):
                receive(sender, payload)

        self._receivers[address] = sifted

    def send(self, sender: str, to: str, payload: bytes) -> None:
        """The bytes arrive later, once, twice or never."""
        weather, rng = self.weather, self._rng
        self._world.note(f"send {sender}>{to} {len(payload)} {crc32(payload):08x}")
        self.counts["sent"] += 1
        # Drawn in every weather, so that the dice roll on alike whatever faults are switched off.
        lost, doubled, delay = rng.random(), rng.random(), rng.random()
        if (sender, to) in self.blocked or lost < weather.drop:
            self._lose(sender, to)
            return
        copies = 1
        if doubled < weather.duplicate:
            self.counts["doubled"] += 1
            copies = 2
        for _ in range(copies):
            delay_us = weather.delay_us_min + int(delay * (weather.delay_us_max - weather.delay_us_min))
            self._deliver_after(delay_us, sender, to, payload)
            delay = rng.random()

    def _deliver_after(self, delay_us: int, sender: str, to: str, payload: bytes) -> None:
        link = sender, to
        arrival = self._world.now_us + delay_us
        if not self.weather.reorder:
            arrival = max(arrival, self._last_arrival.get(link, 0))
        self._last_arrival[link] = max(arrival, self._last_arrival.get(link, 0))
        life = self._lives[sender]

        def deliver() -> None:
            if link in self.blocked or life != self._lives[sender]:
                self._lose(sender, to)
            else:
                self._receivers[to](sender, payload)

        self._world.at(arrival, deliver)

    def _lose(self, sender: str, to: str) -> None:
        self.counts["lost"] += 1
        self.lost(sender, to)

    def forget(self, address: str) -> None:
        """What is still under way from this address never arrives: its host was replaced."""
        self._lives[address] += 1

    def change(self, **changes: float) -> None:
        """Change the weather."""
        self.weather = replace(self.weather, **changes)  # type: ignore[arg-type]

    def split(self, side: Iterable[str], other: Iterable[str], *, both_ways: bool) -> list[tuple[str, str]]:
        """Block what goes from one side to the other; returns what was not blocked before."""
        pairs = [(a, b) for a in side for b in other if a != b]
        if both_ways:
            pairs += [(b, a) for a, b in pairs]
        new = [pair for pair in pairs if pair not in self.blocked]
        self.blocked.update(new)
        return new
