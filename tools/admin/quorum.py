"""What an operation on a process does to the quorums of its shards, in words. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.process.names import ProcessName
    from tools.admin.snapshot import Shard, Snapshot


class Verb(enum.StrEnum):
    """What an operator does to one process."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    MOVE_LEADER = "move leader"


@dataclass(frozen=True, slots=True)
class Effect:
    """Of an operation."""

    text: str
    is_harmful: bool = False
    """Clients would notice more than a short pause."""


def effect(snapshot: Snapshot, verb: Verb, name: ProcessName) -> Effect:
    """What clients would notice of it."""
    if name.shard is None:
        return _of_coordinator(snapshot, verb, name)
    shard = snapshot.shard(name.shard)
    if shard is None:
        return Effect(f"nothing is known of shard {name.shard}", is_harmful=True)
    if verb is Verb.MOVE_LEADER:
        return _of_move(shard, name)
    if verb is Verb.START:
        return _of_start(shard, name)
    return _of_leaving(shard, name, returns=verb is Verb.RESTART)


def _of_leaving(shard: Shard, name: ProcessName, *, returns: bool) -> Effect:
    label, voters = f"shard {shard.number}", len(shard.voters)
    if name.node not in shard.voters:
        return Effect(f"{name.node} has no vote in {label}: its quorum stays as it is")
    left = [replica for replica in shard.serving if replica.node != name.node]
    until = "until it is back" if returns else "until it is started again"
    if len(left) < shard.majority:
        had = len(shard.serving)
        lost = "loses its quorum" if had >= shard.majority else "has no quorum and stays without one"
        return Effect(f"{label} {lost}: {len(left)} of {voters} voters serve {until}", is_harmful=True)
    moves = "; its leadership moves first" if shard.leader == name.node else ""
    spare = len(left) - shard.majority
    warning = "" if spare else f", and can lose none {until}"
    return Effect(f"{label} keeps {len(left)} of {voters} voters{warning}{moves}")


def _of_start(shard: Shard, name: ProcessName) -> Effect:
    serving = {replica.node for replica in shard.serving}
    if name.node in serving:
        return Effect(
            f"shard {shard.number} has {len(serving)} of {len(shard.voters)} voters, this one among them"
        )
    after = len(serving | ({name.node} & set(shard.voters)))
    gains = " and has a quorum again" if len(serving) < shard.majority <= after else ""
    return Effect(f"shard {shard.number} gets {after} of {len(shard.voters)} voters{gains}")


def _of_move(shard: Shard, name: ProcessName) -> Effect:
    if shard.leader is None:
        return Effect(f"shard {shard.number} has no leader to move", is_harmful=True)
    if shard.leader == name.node:
        return Effect(f"{name.node} hands shard {shard.number} over to the voter that is furthest")
    behind = next((shard.trails(replica) for replica in shard.replicas if replica.node == name.node), None)
    first = f", once it has the {behind} entries that it lacks" if behind else ""
    return Effect(f"{shard.leader} hands shard {shard.number} over to {name.node}{first}")


def _of_coordinator(snapshot: Snapshot, verb: Verb, name: ProcessName) -> Effect:
    others = [
        process.name
        for process in snapshot.processes
        if process.name.kind is name.kind and process.name != name and process.state == "running"
    ]
    here = [other for other in others if other.node == name.node]
    if verb is Verb.START:
        return Effect(f"{name.node} takes clients again")
    if verb is Verb.RESTART:
        return Effect("its successor takes clients before it goes; no quorum changes")
    if here:
        return Effect(
            f"no quorum changes; {len(here)} other coordinator of {name.node} goes on taking clients"
        )
    nodes = len({other.node for other in others})
    if nodes:
        return Effect(f"no quorum changes; clients of {name.node} have to go to one of {nodes} other nodes")
    return Effect("no quorum changes, but no coordinator is left to take clients", is_harmful=True)
