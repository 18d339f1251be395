"""Runs a script of commands over a cluster of cores and writes down what happened.

A script is a text file. A line that starts in column 1 is a command (or a # comment, or empty); the lines
below it, indented by four spaces, are the transcript it must produce. `make golden` rewrites the indented
lines.

    cluster 3 [learners=1] [pre_vote=off] [check_quorum=off] [eager_commit=off] [append_bytes=N] [inflight=N]
              [uncommitted_bytes=N] [election_ticks=N]   nodes 1..3, then learners
    add 4                        an empty replica that knows no membership yet
    campaign N
    tick N|all [COUNT]
    propose N TEXT
    read N CONTEXT
    change N [voter=I,..] [learner=I,..] [remove=I,..] [joint=auto|explicit]
    leave N                      propose to leave the joint membership
    transfer N [to=I]
    turn N                       carry out one Ready; its messages stay on the network
    deliver [to=I] [from=I]      hand over what is on the network, oldest first
    stabilize [I ..]             turns and deliveries until nothing happens (on these nodes)
    drop [from=I] [to=I]         lose such messages from now on
    isolate N                    both ways
    heal                         lose nothing any more
    lose                         lose what is on the network now
    compact N [keep=COUNT]       drop the applied log, but for the last COUNT entries
    crash N / restart N          turns that were not synced are lost
    disk N full|free
    unreachable N peer=I
    snapshot-failed N peer=I
    status [N]
    progress N
    log N
    quiet COMMAND ..             without transcript

The order of delivery is the order of sending, election timeouts come from a fixed seed per node: a transcript
is the same on every machine. Safety is checked after every command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardworker.raft import (
    LEAVE_JOINT,
    Accepted,
    Entry,
    LogIndex,
    Membership,
    MembershipChange,
    Message,
    NodeId,
    Raft,
    Step,
    StepKind,
    Transition,
)
from tests.simulation.scripts import transcript
from tests.unit.raft.replica import Replica, members, settings_of
from tests.unit.raft.safety import SafetyChecker, whole_log

if TYPE_CHECKING:
    from collections.abc import Callable

INDENT = "    "


class SteadyTimeouts:
    """Election timeouts that differ by node and stay clear of election_ticks: waiting that long ends a lease,
    but starts no election that the script did not ask for."""

    def __init__(self, number: int) -> None:
        self._number = number

    def randrange(self, start: int, stop: int) -> int:
        return min(start + 3 + self._number, stop - 1)


ROUNDS_MAX = 200
"""More rounds than this without settling is a livelock: a finding, not patience."""


@dataclass(frozen=True)
class Arguments:
    positional: list[str]
    named: dict[str, str]

    def node(self) -> NodeId:
        return NodeId(int(self.positional[0]))

    def number(self, name: str, default: int) -> int:
        return int(self.named.get(name, default))

    def numbers(self, name: str) -> list[int]:
        return [int(part) for part in self.named.get(name, "").split(",") if part]

    def on(self, name: str) -> bool:
        return self.named.get(name, "on") == "on"


class Runner:
    def __init__(self, raft_class: type[Raft] = Raft) -> None:
        self._raft_class = raft_class
        self.replicas: dict[NodeId, Replica] = {}
        self.network: list[Message] = []
        self.lines: list[str] = []
        self._drops: list[tuple[int, int]] = []
        self._down: set[NodeId] = set()
        self._standings: dict[NodeId, str] = {}
        self._snapshots: dict[LogIndex, tuple[Entry, ...]] = {}
        self._make: Callable[[int, Membership], Replica] | None = None
        self._checker = SafetyChecker()

    def run(self, command: str) -> list[str]:
        """The transcript of one command."""
        self.lines = []
        words = shlex.split(command)
        quiet = words[0] == "quiet"
        name, *rest = words[1:] if quiet else words
        arguments = Arguments(
            [word for word in rest if "=" not in word or " " in word],
            dict(word.split("=", 1) for word in rest if "=" in word and " " not in word),
        )
        getattr(self, "do_" + name.replace("-", "_"))(arguments)
        live = {node: self.replicas[node] for node in self._live()}
        self._checker.check(live)
        self._checker.check_reads(live)
        return [] if quiet else self.lines

    # ---- commands

    def do_cluster(self, arguments: Arguments) -> None:
        voters = int(arguments.positional[0])
        learners = range(voters + 1, voters + 1 + arguments.number("learners", 0))

        def make(number: int, membership: Membership) -> Replica:
            settings = settings_of(
                number,
                election_ticks=arguments.number("election_ticks", 10),
                append_bytes_max=arguments.number("append_bytes", 1 << 20),
                inflight_appends_max=arguments.number("inflight", 64),
                uncommitted_bytes_max=arguments.number("uncommitted_bytes", 1 << 20),
                pre_vote=arguments.on("pre_vote"),
                check_quorum=arguments.on("check_quorum"),
                eager_commit=arguments.on("eager_commit"),
            )
            rng = SteadyTimeouts(number)
            return Replica(
                settings, membership, raft_class=self._raft_class, rng=rng, snapshots=self._snapshots
            )

        self._make = make
        membership = members(*range(1, voters + 1), learners=tuple(learners))
        for node in membership.nodes():
            self._start(node, membership)

    def do_add(self, arguments: Arguments) -> None:
        self._start(arguments.node(), Membership(frozenset()))

    def _start(self, node: NodeId, membership: Membership) -> None:
        assert self._make is not None, "a script begins with `cluster`"
        self.replicas[node] = self._make(node, membership)
        self._standings[node] = transcript.standing(self.replicas[node].raft)

    def do_campaign(self, arguments: Arguments) -> None:
        self._on(arguments).raft.campaign()
        self._note(arguments.node())

    def do_tick(self, arguments: Arguments) -> None:
        count = int(arguments.positional[1]) if len(arguments.positional) > 1 else 1
        all_nodes = arguments.positional[0] == "all"
        for _ in range(count):
            for node in self._live() if all_nodes else [arguments.node()]:
                self.replicas[node].raft.tick()
                self._note(node)

    def do_propose(self, arguments: Arguments) -> None:
        answer = self._on(arguments).raft.propose(arguments.positional[1].encode())
        self.lines.append(transcript.answer(answer))

    def do_read(self, arguments: Arguments) -> None:
        context = int(arguments.positional[1])
        answer = self._on(arguments).raft.read_index(context)
        if isinstance(answer, Accepted):
            self._checker.read_asked(context)
        self.lines.append(transcript.answer(answer))

    def do_change(self, arguments: Arguments) -> None:
        steps = [Step(StepKind.ADD_VOTER, NodeId(n)) for n in arguments.numbers("voter")]
        steps += [Step(StepKind.ADD_LEARNER, NodeId(n)) for n in arguments.numbers("learner")]
        steps += [Step(StepKind.REMOVE, NodeId(n)) for n in arguments.numbers("remove")]
        transition = {
            "": Transition.AUTO,
            "auto": Transition.JOINT_AUTO_LEAVE,
            "explicit": Transition.JOINT,
        }[arguments.named.get("joint", "")]
        change = MembershipChange(tuple(steps), transition)
        self.lines.append(transcript.answer(self._on(arguments).raft.propose_membership(change)))

    def do_leave(self, arguments: Arguments) -> None:
        self.lines.append(transcript.answer(self._on(arguments).raft.propose_membership(LEAVE_JOINT)))

    def do_transfer(self, arguments: Arguments) -> None:
        to = arguments.named.get("to")
        answer = self._on(arguments).raft.transfer_leadership(None if to is None else NodeId(int(to)))
        self.lines.append(transcript.answer(answer))

    def do_turn(self, arguments: Arguments) -> None:
        self._turn(arguments.node())

    def do_deliver(self, arguments: Arguments) -> None:
        to, sender = arguments.number("to", 0), arguments.number("from", 0)
        self._deliver(lambda m: (to in (0, m.to)) and (sender in (0, m.sender)))

    def do_stabilize(self, arguments: Arguments) -> None:
        nodes = [NodeId(int(word)) for word in arguments.positional] or list(self.replicas)
        for _ in range(ROUNDS_MAX):
            for node in self._live():
                if node in nodes:
                    self._turns(node)
            if not any(message.to in nodes for message in self.network):
                return
            self._deliver(lambda m: m.to in nodes)
        raise AssertionError(f"does not settle in {ROUNDS_MAX} rounds")

    def do_drop(self, arguments: Arguments) -> None:
        self._drops.append((arguments.number("from", 0), arguments.number("to", 0)))

    def do_isolate(self, arguments: Arguments) -> None:
        self._drops += [(arguments.node(), 0), (0, arguments.node())]

    def do_heal(self, arguments: Arguments) -> None:
        self._drops = []

    def do_lose(self, arguments: Arguments) -> None:
        self.lines += [f"lost {transcript.message(message)}" for message in self.network]
        self.network = []

    def do_compact(self, arguments: Arguments) -> None:
        replica = self._on(arguments)
        meta = replica.compact(keep_entries=arguments.number("keep", 0))
        self.lines.append(f"{transcript.snapshot(meta)}, log from {replica.disk.log.first_index()}")

    def do_crash(self, arguments: Arguments) -> None:
        self._down.add(arguments.node())
        self.network = [message for message in self.network if message.to != arguments.node()]

    def do_restart(self, arguments: Arguments) -> None:
        self._down.discard(arguments.node())
        self._on(arguments).crash_and_restart()
        self._note(arguments.node())

    def do_disk(self, arguments: Arguments) -> None:
        self._on(arguments).disk_is_full = arguments.positional[1] == "full"

    def do_unreachable(self, arguments: Arguments) -> None:
        self._on(arguments).raft.report_unreachable(NodeId(arguments.number("peer", 0)))

    def do_snapshot_failed(self, arguments: Arguments) -> None:
        self._on(arguments).raft.report_snapshot(NodeId(arguments.number("peer", 0)), ok=False)

    def do_status(self, arguments: Arguments) -> None:
        for node in [arguments.node()] if arguments.positional else self.replicas:
            raft = self.replicas[node].raft
            status = raft.status()
            self.lines.append(
                f"{'DOWN ' if node in self._down else ''}{transcript.standing(raft)}, vote={status.vote}"
                f" last={raft.log.last_term}/{status.last_index} commit={status.commit}"
                f" applied={status.applied} {transcript.membership(status.membership)}"
            )

    def do_progress(self, arguments: Arguments) -> None:
        for peer, progress in self._on(arguments).raft.status().progress.items():
            active = "" if progress.recent_active else " silent"
            self.lines.append(
                f"{peer}: {progress.state} match={progress.match} next={progress.next}"
                f" inflight={progress.inflight}{active}"
            )

    def do_log(self, arguments: Arguments) -> None:
        self.lines += [transcript.entry(entry) for entry in whole_log(self._on(arguments))]

    # ---- machinery

    def _on(self, arguments: Arguments) -> Replica:
        return self.replicas[arguments.node()]

    def _live(self) -> list[NodeId]:
        return [node for node in self.replicas if node not in self._down]

    def _note(self, node: NodeId) -> None:
        standing = transcript.standing(self.replicas[node].raft)
        if standing != self._standings[node]:
            self._standings[node] = standing
            self.lines.append(standing)

    def _turns(self, node: NodeId) -> None:
        replica = self.replicas[node]
        while replica.raft.has_ready():
            self._turn(node)
            if replica.disk_is_full:
                return  # the same Ready comes again at once; a worker would wait here

    def _turn(self, node: NodeId) -> None:
        replica = self.replicas[node]
        ready, sent = replica.turn()
        if replica.disk_is_full:
            self.lines.append(f"{node} cannot save")
            self.lines += transcript.reads(node, ready)
        else:
            self.lines += transcript.ready(node, ready)
        for message in sent:
            lost = self._is_lost(message)
            early = message in ready.early_messages
            self.lines.append(transcript.message(message, early=early) + (" (lost)" if lost else ""))
            if not lost:
                self.network.append(message)
        self._note(node)

    def _is_lost(self, message: Message) -> bool:
        if message.to in self._down or message.to not in self.replicas:
            return True
        return any(sender in (0, message.sender) and to in (0, message.to) for sender, to in self._drops)

    def _deliver(self, wanted: Callable[[Message], bool]) -> None:
        arriving = [message for message in self.network if wanted(message)]
        self.network = [message for message in self.network if not wanted(message)]
        for message in arriving:
            if not self._is_lost(message):
                self.replicas[message.to].raft.step(message)
                self._note(message.to)


def rewrite(script: str, raft_class: type[Raft] = Raft) -> str:
    """The script with the transcript it produces now."""
    runner = Runner(raft_class)
    written: list[str] = []
    for line in script.splitlines():
        if line.startswith(INDENT):
            continue
        written.append(line)
        if line.strip() and not line.startswith("#"):
            written += [INDENT + output for output in runner.run(line)]
    return "\n".join(written) + "\n"
