"""Having shards go on with one replica, because the majority of their voters is lost for good: who votes, who answers,
and what that replica has.

Who votes, and where, the replica's own log says, and whoever answers and knows better: never the file, which need not
name everybody. A voter that can't be asked may well be alive, and this would part the shard in two: so it has to be
said of each such one that it is lost."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from config import members
from config.process.names import ProcessName
from config.tls_files import peer_keys
from proto.internal import frames_pb2 as frames
from proto.internal.curve import BadKeyFile
from tools.admin.inspection import NotInspected, read_inspection
from tools.admin.present import PresentCluster
from tools.admin.probe import ReplicaProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from config import ClusterConfig

ANSWER_S: Final = 2.0


class NotRecovered(Exception):
    """Nothing was done for a shard, or not all of it; says why, and what to do."""


class Needless(Exception):
    """A shard can't, or need not, be recovered with this replica; the text says why. Others may."""


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


@dataclass(frozen=True, slots=True)
class Group:
    """The voters of a shard by the newest word of any of its replicas, and how they are. By id."""

    membership: frames.Membership
    names: Mapping[int, str]
    answering: frozenset[int]
    out_of_reach: frozenset[int]
    """Of whom it is not known where, or by which key, to ask."""


def look_at(
    cluster: ClusterConfig, node: str, held: Sequence[int], lost: frozenset[str], say: Callable[[str], None]
) -> tuple[list[Survivor], list[str]]:
    """What is to be recovered of the shards that this stopped node holds, and why the others are not: so the same goes
    on after an interruption. lost: voters that can't be asked, and are known to be lost.

    Raises NotRecovered for a database that is not sound, and if a voter may be alive."""
    stored = {}
    for shard in held:
        say(f"looking at what {node} holds of shard {shard}")
        stored[shard] = _inspected(cluster, node, shard)
    say("asking the other voters")
    survivors, others = [], []
    for shard, group in _groups(cluster, node, stored, lost).items():
        try:
            survivors.append(survivor_of(group, node, stored[shard]["replica"], lost))
        except Needless as why:
            others.append(str(why))
    return survivors, others


def survivor_of(group: Group, node: str, replica: Mapping[str, Any], lost: Collection[str]) -> Survivor:
    """What there is to recover with this replica, as its inspection tells of it. Raises Needless, and NotRecovered if a
    voter that nobody can ask is not among the lost ones. Pure."""
    own, shard = replica["node"], replica["shard"]
    membership = group.membership
    halves = [set(half) for half in (membership.voters, membership.voters_outgoing) if half]
    voters = set().union(*halves)
    if voters == {own}:
        raise Needless(f"{node} is all of shard {shard} already: start it")
    if own not in voters | {*membership.learners}:
        words = _listed(group, voters) or "nobody that is known"
        raise Needless(f"{node} does not belong to shard {shard}: its voters are {words}")
    answering = group.answering & voters
    up = answering | {own}
    if answering and all(2 * len(half & up) > len(half) for half in halves):
        raise Needless(
            f"shard {shard} is not lost: {_listed(group, answering)} answer, and with {node} that is a majority of its "
            f"{len(voters)} voters. Start {node}"
        )
    unknown = sorted(group.names[voter] for voter in group.out_of_reach & voters - up)
    if unknown := [name for name in unknown if name not in lost]:
        raise NotRecovered(
            f"shard {shard}: {', '.join(unknown)} can't be asked from here, since neither the cluster file nor any "
            f"record says where to (or, with tls.peer, by which key). Write it into the file, or say that it is lost "
            f"for good: {' '.join(f'--lost {name}' for name in unknown)}"
        )
    gone = tuple(group.names[voter] for voter in sorted(voters - {own}))
    return Survivor(shard, node, replica["last_index"], replica["commit_index"], gone)


def _listed(group: Group, nodes: Collection[int]) -> str:
    return ", ".join(group.names[node] for node in sorted(nodes))


def _groups(
    cluster: ClusterConfig, node: str, stored: Mapping[int, Mapping[str, Any]], lost: frozenset[str]
) -> dict[int, Group]:
    """Of each shard of which this stopped node has a replica. Raises NotRecovered."""
    try:
        peer_keys(cluster, node)  # without them no other host answers, however well it is
    except BadKeyFile as error:
        raise NotRecovered(str(error)) from None
    with ReplicaProbe(cluster) as probe:
        present = PresentCluster(cluster, probe)
        present.learn(_last_word(found) for found in stored.values())
        answers = present.ask(timeout_s=ANSWER_S, is_up=lambda name: name.node != node)
        answering = {*answers, *probe.newer}
        if wrong := sorted(lost & {name.node for name in answering}):
            raise NotRecovered(f"{', '.join(wrong)} answers, and is not lost")
        if wrong := sorted(lost - present.cluster.nodes.keys()):
            raise NotRecovered(
                f"no node {', '.join(wrong)} is known; there are {', '.join(present.cluster.nodes)}"
            )
        ids = {name: config.id for name, config in present.cluster.nodes.items()}
        groups = {}
        for shard in stored:
            told = present.told(shard)
            groups[shard] = Group(
                frames.Membership() if told is None else told.membership,
                {number: name for name, number in ids.items()},
                frozenset(ids[name.node] for name in answering if name.shard == shard),
                frozenset(ids[name] for name in ids if not probe.can_ask(ProcessName.replica(name, shard))),
            )
    return groups


def _last_word(found: Mapping[str, Any]) -> frames.ReplicaStatus:
    """What a stopped replica would say of who belongs to its shard, by its inspection."""
    replica = found["replica"]
    status = frames.ReplicaStatus(
        shard=replica["shard"],
        node=replica["node"],
        term=replica["term"],
        applied_index=replica["applied_index"],
    )
    membership = status.membership
    membership.voters.extend(replica["voters"])
    membership.voters_outgoing.extend(replica["voters_outgoing"])
    membership.learners.extend(replica["learners"])
    membership.generation = replica["generation"]
    for member in found["members"]:
        record = frames.NodeRecord(
            name=member["name"],
            peer_urls=member["peer_urls"],
            client_urls=member["client_urls"],
            peer_key=member["peer_key"].encode(),
        )
        membership.directory.add(node=member["node"], record=record.SerializeToString())
    return status


def _inspected(cluster: ClusterConfig, node: str, shard: int) -> dict[str, Any]:
    try:
        inspection = read_inspection(cluster.replica_dir(node, shard))
    except NotInspected as error:
        raise NotRecovered(str(error)) from None
    if inspection["problems"]:
        raise NotRecovered(f"{inspection['file']} is not sound: {inspection['problems'][0]}")
    return inspection


def go_on_alone(cluster: ClusterConfig, survivor: Survivor) -> None:
    """Make the replica all of its shard. Raises NotRecovered."""
    folder = cluster.replica_dir(survivor.node, survivor.shard)
    found = _inspected(cluster, survivor.node, survivor.shard)["replica"]
    done = subprocess.run(  # noqa: S603 -- this interpreter, our own module
        [
            sys.executable, "-P", "-m", "shardworker.recovery", str(folder), found["cluster_id"], found["cluster"],
            str(found["node"]), str(found["shard"]),
        ],
        capture_output=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise NotRecovered(f"shard {survivor.shard}: {done.stderr.decode(errors='replace').strip()[-1000:]}")
    kept = members.read(cluster, survivor.node)
    if survivor.shard in kept:
        # What it had learned of the others is over; the replica says the same with its next word.
        alone = {cluster.node(survivor.node).id: ""}
        kept[survivor.shard] = members.ShardMembers(0, alone, generation=kept[survivor.shard].generation + 1)
        members.write(cluster, survivor.node, kept)
