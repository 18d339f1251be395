"""What a benchmark found: figures by system, and the ratios that are its point."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tools.output import print_table

if TYPE_CHECKING:
    from tools.bench.run import Outcome

OURS = "boathouse"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one system."""

    system: str
    metric: str
    value: float
    unit: str
    note: str = ""


@dataclass(slots=True)
class Report:
    """One scenario's findings."""

    scenario: str
    outcomes: list[Outcome] = field(default_factory=list)
    """One for each system and round, in the order they were measured."""
    figures: list[Figure] = field(default_factory=list)
    compared: str = "per_second"
    """The metric whose ratios are taken."""

    def add(self, outcome: Outcome) -> None:
        """Note a measurement and its main figure."""
        self.outcomes.append(outcome)
        self.figures.append(Figure(outcome.system, "per_second", outcome.per_second, "/s"))

    def values(self, system: str, metric: str) -> list[float]:
        """A metric's values, one a round."""
        return [f.value for f in self.figures if (f.system, f.metric) == (system, metric)]

    def ratios(self) -> dict[str, float]:
        """Ours divided by each other system's, as the median over the rounds.

        Each round's ratio is taken by itself: what disturbs the machine disturbs neighbours in time alike."""
        found = {}
        ours = self.values(OURS, self.compared)
        for system in dict.fromkeys(f.system for f in self.figures if f.system != OURS):
            theirs = self.values(system, self.compared)
            rounds = [a / b for a, b in zip(ours, theirs, strict=False) if b]
            if rounds:
                found[system] = statistics.median(rounds)
        return found

    @property
    def errors(self) -> int:
        """Failed requests of ours."""
        return sum(sum(o.errors.values()) for o in self.outcomes if o.system == OURS)

    def to_json(self) -> dict[str, Any]:
        """Plain values for -o json."""
        return {
            "scenario": self.scenario,
            "measurements": [outcome.to_json() for outcome in self.outcomes],
            "figures": [
                {"system": f.system, "metric": f.metric, "value": round(f.value, 3), "unit": f.unit}
                | ({"note": f.note} if f.note else {})
                for f in self.figures
            ],
            "ratios": {f"{OURS}/{system}": round(ratio, 3) for system, ratio in self.ratios().items()},
        }

    def show(self, say: Any) -> None:
        """Print it for people."""
        say(f"\n{self.scenario}")
        if self.outcomes:
            print_table(
                [
                    "system",
                    "per second",
                    "p50 ms",
                    "p99 ms",
                    "p99.9 ms",
                    "pause ms",
                    "server cpu us",
                    "errors",
                ],
                [_load_row(outcome) for outcome in self.outcomes],
            )
            print_table(["process", "cpu %", "rss MB"], _process_rows(self.outcomes))
            for outcome in self.outcomes:
                for error, count in sorted(outcome.errors.items()):
                    say(f"{outcome.system}: {count} x {error}")
        plain = [f for f in self.figures if f.metric != "per_second" or not self.outcomes]
        if plain:
            rows = [
                {"system": f.system, "figure": f.metric, "value": f"{f.value:,.1f} {f.unit}", "note": f.note}
                for f in plain
            ]
            print_table(["system", "figure", "value", "note"], rows)
        for system, ratio in self.ratios().items():
            say(f"{OURS} / {system}: {ratio:.2f} ({self.compared.replace('_', ' ')})")


def _load_row(outcome: Outcome) -> dict[str, str]:
    return {
        "system": outcome.system,
        "per second": f"{outcome.per_second:,.0f}",
        **{f"p{p:g} ms": f"{outcome.histogram.percentile_ms(p):.1f}" for p in (50, 99, 99.9)},
        "pause ms": f"{outcome.longest_pause_ms:.0f}",
        "server cpu us": f"{outcome.server_cpu_us:.0f}",
        "errors": str(sum(outcome.errors.values())),
    }


def _process_rows(outcomes: list[Outcome]) -> list[dict[str, str]]:
    return [
        {
            "process": f"{outcome.system}: {name}",
            "cpu %": f"{usage.cpu_percent:.0f}",
            "rss MB": f"{usage.rss_bytes / 1e6:.0f}",
        }
        for outcome in outcomes
        for name, usage in sorted(outcome.usage.items())
    ]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
    }
