"""`boathouse recover`: a shard goes on with one replica, because the majority of its voters is lost for good."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from config import members
from config.process.names import ProcessName
from coordinator.supervisor.folder import living_holder
from tools.failure import Failed
from tools.inspect_database import read_inspection
from tools.output import Output, print_document
from tools.progress import working

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from config import ClusterConfig

ANSWER_S = 2.0


@dataclass(frozen=True, slots=True)
class Survivor:
    """What one replica holds of a shard that has lost the others."""

    shard: int
    node: str
    last_index: int
    commit_index: int
    """What it knows to be committed; entries behind it are kept too."""
    lost_voters: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"shard {self.shard}: {self.node} goes on alone with its log up to entry {self.last_index}. Lost is what "
            f"{', '.join(self.lost_voters)} acknowledged and {self.node} never got; how much, nobody knows any more"
        )


def recover(cluster: ClusterConfig, node: str, shard: int | None, output: Output, *, dry_run: bool) -> None:
    """Make a stopped node's replicas all of their shards, those that have lost the majority of their voters. Raises
    Failed: nothing was done, or as much as was said."""
    if node not in cluster.nodes:
        raise typer.BadParameter(f"cluster {cluster.cluster} has no node {node}", param_hint="NODE")
    pid = living_holder(cluster.node_dir(node))
    if pid is not None:
        raise Failed(f"node {node} is up (process {pid}); `boathouse down --node {node}` stops it")
    held = cluster.shards_of(node) if shard is None else (shard,)
    if not held:
        raise Failed(f"{node} holds no shard")
    with working(f"looking at what {node} holds") as say:
        survivors, others = _looked_at(cluster, node, held, say)
    if not survivors:
        raise Failed("\n".join(others))
    if not output.is_document:
        for line in (*others, *map(str, survivors)):
            typer.echo(line)
    if not dry_run:
        with working("going on alone") as say:
            for survivor in survivors:
                say(f"shard {survivor.shard} goes on alone")
                _recover(cluster, survivor)
    if output.is_document:
        print_document([asdict(survivor) for survivor in survivors], output)
    elif not dry_run:
        gone = ", ".join(sorted({name for survivor in survivors for name in survivor.lost_voters}))
        typer.echo(
            f"done. Start {node}. What {gone} had is of no more use: their replicas end if they come back with it. "
            "Remove their data, start them, and add them with `boathouse node add`"
        )


class _Needless(Exception):
    """A shard can't, or need not, be recovered with this replica; the text says why. Others may."""


def _looked_at(
    cluster: ClusterConfig, node: str, held: Sequence[int], say: Callable[[str], None]
) -> tuple[list[Survivor], list[str]]:
    """What is to be recovered, and why the others are not: so the same command goes on after an interruption. Raises
    Failed for a database that is not sound."""
    survivors, others = [], []
    for shard in held:
        say(f"looking at what {node} holds of shard {shard}")
        try:
            survivors.append(_survivor(cluster, node, shard))
        except _Needless as why:
            others.append(str(why))
    return survivors, others


def _survivor(cluster: ClusterConfig, node: str, shard: int) -> Survivor:
    """Raises _Needless, and Failed for a database that is not sound."""
    found = _inspected(cluster, node, shard)
    voters = {*found["voters"], *found["voters_outgoing"]}
    own = cluster.node(node).id
    names = {config.id: name for name, config in cluster.nodes.items()}
    answering = _answering(cluster, [names[voter] for voter in voters - {own} if voter in names], shard)
    if answering and 2 * (len(answering) + 1) > len(voters):
        raise _Needless(
            f"shard {shard} is not lost: {', '.join(answering)} answer, and with {node} that is a majority of its "
            f"{len(voters)} voters. Start {node}"
        )
    if voters == {own}:
        raise _Needless(f"{node} is all of shard {shard} already: start it")
    lost = tuple(names.get(voter, f"node {voter}") for voter in sorted(voters - {own}))
    return Survivor(shard, node, found["last_index"], found["commit_index"], lost)


def _inspected(cluster: ClusterConfig, node: str, shard: int) -> dict[str, Any]:
    inspection = read_inspection(cluster.replica_dir(node, shard))
    if inspection["problems"]:
        raise Failed(f"{inspection['file']} is not sound: {inspection['problems'][0]}")
    replica: dict[str, Any] = inspection["replica"]
    return replica


def _answering(cluster: ClusterConfig, nodes: list[str], shard: int) -> list[str]:
    from tools.admin.probe import ask_replicas

    names = [ProcessName.replica(name, shard) for name in nodes]
    return sorted(name.node for name in ask_replicas(cluster, names, timeout_s=ANSWER_S)) if names else []


def _recover(cluster: ClusterConfig, survivor: Survivor) -> None:
    folder = cluster.replica_dir(survivor.node, survivor.shard)
    found = _inspected(cluster, survivor.node, survivor.shard)
    done = subprocess.run(  # noqa: S603 -- this interpreter, our own module
        [
            sys.executable, "-P", "-m", "shardworker.recovery", str(folder), found["cluster_id"], found["cluster"],
            str(found["node"]), str(found["shard"]),
        ],
        capture_output=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"shard {survivor.shard}: {done.stderr.decode(errors='replace').strip()[-1000:]}")
    kept = members.read(cluster, survivor.node)
    if survivor.shard in kept:
        # What it had learned of the others is over; the replica says the same with its next word.
        alone = {cluster.node(survivor.node).id: ""}
        kept[survivor.shard] = members.ShardMembers(0, alone, generation=kept[survivor.shard].generation + 1)
        members.write(cluster, survivor.node, kept)
