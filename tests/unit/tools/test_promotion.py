"""A promotion of a cluster in memory: what it asks before, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from config import ClusterConfig
from coordinator.replication.clock import LOOP_CLOCK
from coordinator.replication.report import Rows
from proto import errors
from proto.catalog import Lead, TableEntry
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import replication_pb2 as replication
from tests.unit.coordinator.running import in_loop
from tools.admin.promotion import NotPromoted, Promotion

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from pathlib import Path

    from coordinator.replication.clock import Started

T = TypeVar("T")

ISLAND = ClusterConfig.model_validate(
    {
        "cluster": "island",
        "nodes": {"n1": {}},
        "follows": {"cluster": "harbour", "endpoints": ["127.0.0.1:1"]},
    }
)
COPY = TableEntry("t", 20_001, ShardId(1), origin=10_001)


@dataclass
class Clusters:
    """Both, and the time between them. Each look of the promotion at its copies is a moment in which they go on."""

    there: dict[int, tuple[str, int]] = field(default_factory=lambda: {10_001: ("t", 9)})
    """The leader cluster's tables: name and revision by id."""
    here: dict[TableEntry, int] = field(default_factory=lambda: {COPY: 9})
    goes_on: Callable[[Clusters], object] = lambda _clusters: None
    fenced: Callable[[Clusters], object] = lambda _clusters: None
    """What comes with the fence."""
    lead: Lead = field(default_factory=lambda: Lead(1, "harbour"))
    heard: Lead = field(default_factory=lambda: Lead(1, "harbour"))
    """By the leader cluster."""
    follows: bool = False
    """The file of the leader cluster names this one to follow."""
    known: str = ""
    """The identity of the cluster that was followed."""
    now: float = 0.0
    said: list[str] = field(default_factory=list)

    # ---- the leader cluster, as leader.Leader -----------------------------------------------------------------------

    async def metadata(
        self, lead: replication.Lead | None = None, *, positions: bool = False
    ) -> replication.MetadataResponse:
        if lead is not None:
            self.heard = Lead(lead.epoch, lead.cluster)
            self.fenced(self)
        told = replication.MetadataResponse(
            cluster="harbour",
            identity="a" * 32,
            lead=replication.Lead(epoch=self.heard.epoch, cluster=self.heard.cluster),
            follows=self.follows and self.heard.cluster != "harbour",
        )
        for id_, (name, revision) in self.there.items():
            position = replication.Position(revision=revision) if positions else None
            told.tables.add(name=name, id=id_, position=position)
        return told

    # ---- the cluster that is promoted, as promotion.Local -----------------------------------------------------------

    @property
    def leading(self) -> Any:
        return SimpleNamespace(
            now=self._lead, is_ours=self._is_ours, take_over=self._take_over, announcement=self._announcement
        )

    @property
    def copies(self) -> Any:
        return SimpleNamespace(status=self._status)

    @property
    def identities(self) -> Any:
        return SimpleNamespace(followed=self._followed)

    async def _followed(self, _cluster: str) -> str:
        return self.known

    async def contents(self) -> Any:
        self.goes_on(self)
        return SimpleNamespace(entries={entry.name: entry for entry in self.here})

    async def read_lease(self) -> Any:
        return SimpleNamespace(value=Rows(b""))

    async def _lead(self) -> Lead:
        return self.lead

    def _is_ours(self, lead: Lead) -> bool:
        return lead.cluster == "island"

    async def _take_over(self, epoch: int) -> list[TableEntry]:
        self.lead = Lead(epoch, "island")
        return list(self.here)

    def _announcement(self, lead: Lead, _entries: Iterable[TableEntry]) -> replication.Lead:
        return replication.Lead(epoch=lead.epoch, cluster=lead.cluster)

    async def _status(self, entry: TableEntry) -> frames.TableStatus:
        if self.here[entry] == 0:
            raise errors.TableNotFound
        return frames.TableStatus(revision=self.here[entry])

    # ---- time -------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def start(self, work: Coroutine[Any, Any, T]) -> Started[T]:
        return LOOP_CLOCK.start(work)

    def close(self) -> None:
        """LocalCluster's."""

    async def promote(self, *, wait: bool = True) -> None:
        """Raises NotPromoted."""
        promotion = Promotion(self, self, ISLAND, self)  # type: ignore[arg-type]
        await promotion.promote(await promotion.prospect(), wait=wait, say=self.said.append)


def come_nearer(clusters: Clusters) -> None:
    clusters.here[COPY] = min(9, clusters.here[COPY] + 1)


@in_loop
async def test_it_waits_for_what_is_missing_and_then_leads() -> None:
    clusters = Clusters(here={COPY: 2}, goes_on=come_nearer)
    await clusters.promote()
    assert clusters.here == {COPY: 9}
    assert clusters.lead == clusters.heard == Lead(2, "island")


@in_loop
async def test_nobody_gives_way_to_a_copy_that_is_far_behind() -> None:
    clusters = Clusters(here={COPY: 2})
    with pytest.raises(NotPromoted, match=r"7 revisions.*Nothing was changed"):
        await clusters.promote()
    assert clusters.lead == clusters.heard == Lead(1, "harbour")


@in_loop
async def test_nobody_gives_way_as_long_as_a_table_has_no_copy() -> None:
    clusters = Clusters()
    clusters.there[10_002] = ("secret", 5)
    with pytest.raises(NotPromoted, match=r"secret.*not copied"):
        await clusters.promote()
    assert clusters.heard == Lead(1, "harbour")
    await clusters.promote(wait=False)
    assert clusters.lead == Lead(2, "island")


@in_loop
async def test_one_by_force_is_not_held_up_by_a_copy_that_was_never_made() -> None:
    clusters = Clusters(here={COPY: 0})
    await clusters.promote(wait=False)
    assert clusters.lead == Lead(2, "island")


@in_loop
async def test_what_was_written_until_the_leader_gave_way_is_waited_for() -> None:
    """The last write comes with the fence: level before is not level after."""

    def last_write(clusters: Clusters) -> None:
        clusters.there[10_001] = ("t", 10)

    clusters = Clusters(fenced=last_write)
    with pytest.raises(NotPromoted, match=r"1 revision\).*No cluster takes writes.*promote --force"):
        await clusters.promote()
    assert clusters.lead == Lead(1, "harbour")


@in_loop
async def test_one_that_is_half_done_is_finished_without_another_look() -> None:
    clusters = Clusters(here={COPY: 2}, lead=Lead(2, "island"), heard=Lead(2, "island"))
    await clusters.promote()
    assert clusters.lead == Lead(2, "island")


@in_loop
async def test_one_that_was_interrupted_goes_on_though_the_other_cluster_follows_since_it_gave_way() -> None:
    """Both files name the other cluster, so that none has to be changed to go back."""
    clusters = Clusters(
        here={COPY: 7}, goes_on=come_nearer, lead=Lead(4, "harbour"), heard=Lead(5, "island"), follows=True
    )
    promotion = Promotion(clusters, clusters, ISLAND, clusters)  # type: ignore[arg-type]
    assert not (await promotion.prospect()).unreachable
    await clusters.promote()
    assert clusters.here == {COPY: 9}
    assert clusters.lead == clusters.heard == Lead(5, "island")


@in_loop
async def test_one_of_two_that_follow_each_other_can_not_be_asked_to_give_way() -> None:
    clusters = Clusters(lead=Lead(1, "harbour"), heard=Lead(1, "island"), follows=True)
    promotion = Promotion(clusters, clusters, ISLAND, clusters)  # type: ignore[arg-type]
    assert "follows another one itself" in (await promotion.prospect()).unreachable


@in_loop
async def test_a_cluster_that_was_made_anew_is_not_the_one_that_gives_way() -> None:
    clusters = Clusters(there={}, known="b" * 32)
    promotion = Promotion(clusters, clusters, ISLAND, clusters)  # type: ignore[arg-type]
    prospect = await promotion.prospect()
    assert "not the one whose tables were copied" in prospect.unreachable
    assert [standing.name for standing in prospect.standings] == ["t"]


@in_loop
async def test_one_by_force_needs_no_file_that_leads_to_the_leader_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = Clusters(here={COPY: 2})
    monkeypatch.setattr("tools.admin.promotion._local", lambda _cluster: clusters)
    assert ISLAND.follows is not None
    token_file = {"token_file": tmp_path / "token", "endpoints": ["127.0.0.1:1"]}
    island = ISLAND.model_copy(update={"follows": ISLAND.follows.model_copy(update=token_file)})
    async with Promotion.opened(island) as promotion:
        prospect = await promotion.prospect()
        assert str(tmp_path / "token") in prospect.unreachable
        await promotion.promote(prospect, wait=False, say=clusters.said.append)
    assert clusters.lead == Lead(2, "island")
