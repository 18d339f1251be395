"""`boathouse node`: nodes that come to a running cluster, leave it, or take another's place."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tools.arguments import FileArgument, OutputOption  # noqa: TC001 - typer reads annotations when it runs
from tools.completion import node_names
from tools.failure import Failed, RefusedForQuorum
from tools.lazy import command_group
from tools.output import Output, print_document

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from config import ClusterConfig
    from tools.admin.member_plan import Step
    from tools.admin.membership import MemberChange

app = command_group()

NodeArgument = Annotated[
    str,
    typer.Argument(metavar="NODE", help="Its name in the cluster file.", autocompletion=node_names),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")]


@app.command()
def add(
    node: NodeArgument,
    file: FileArgument = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a node its share of the shards.

    It is in the file with `joins: true`, and up. Its replicas learn, and vote once they are within reach. After an
    interruption the same command goes on."""
    from tools.admin.member_plan import plan_add

    cluster = _read(file, node)

    def plan(change: MemberChange) -> list[Step]:
        return plan_add(change.placement(), node, replicas=cluster.replicas, learns=change.learns(node))

    _carry_out(cluster, f"add {node}", plan, dry_run=dry_run, output=output)


@app.command()
def remove(
    node: NodeArgument,
    file: FileArgument = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a node out of all its shards; other nodes get its replicas as far as they can hold them.

    Exit code 3: refused, because a shard would lose its quorum."""
    from tools.admin.member_plan import plan_remove

    cluster = _read(file, node)
    others = [name for name in cluster.nodes if name != node]

    def plan(change: MemberChange) -> list[Step]:
        placement = change.placement()
        used = {name for nodes in placement.values() for name in nodes}
        able = [name for name in others if name in used]
        return plan_remove(placement, node, able, replicas=cluster.replicas, learns=change.learns(node))

    _carry_out(cluster, f"remove {node}", plan, dry_run=dry_run, output=output)


@app.command()
def replace(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Who leaves; it may be gone already.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Who gets all that it holds.")],
    file: FileArgument = None,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a node all that another holds, which leaves.

    Exit code 3: refused, because a shard would lose its quorum."""
    from tools.admin.member_plan import REBUILT_EMPTY, plan_replace

    if old == new:
        raise typer.BadParameter(
            f"{old} can't take its own place. {REBUILT_EMPTY.format(old)}", param_hint="NEW"
        )
    cluster = _read(file, old, new)
    _carry_out(
        cluster,
        f"replace {old} {new}",
        lambda change: plan_replace(change.placement(), old, new),
        dry_run=dry_run,
        output=output,
    )


def _read(file: Path | None, *nodes: str) -> ClusterConfig:
    """The cluster as it is, with nodes that somebody else's file brought to it."""
    from tools.admin.present import present
    from tools.cluster_file import read_cluster

    cluster = present(read_cluster(file))
    for node in nodes:
        if node not in cluster.nodes:
            raise typer.BadParameter(
                f"cluster {cluster.cluster} has no node {node}; write it into the file first",
                param_hint="NODE",
            )
    return cluster


def _carry_out(
    cluster: ClusterConfig,
    command: str,
    plan: Callable[[MemberChange], list[Step]],
    *,
    dry_run: bool,
    output: Output,
) -> None:
    from tools.admin.member_plan import NoPlan
    from tools.admin.membership import ChangeStuck, MemberChange, QuorumAtRisk, RunningCluster

    progress = _Progress(output)
    with RunningCluster(cluster) as world:
        change = MemberChange(cluster, world, progress)
        try:
            steps = _begun(cluster, command) or plan(change)
            if dry_run:
                return _show(steps, output)
            change.check(steps)
            run_steps(cluster, command, change, steps, output)
        except QuorumAtRisk as error:
            raise RefusedForQuorum(str(error)) from None
        except (ChangeStuck, NoPlan) as error:
            raise Failed(f"{error}") from None
        except OSError as error:
            raise Failed(f"the plan can't be kept in {cluster.data_dir}: {error.strerror or error}") from None


def _begun(cluster: ClusterConfig, command: str) -> list[Step]:
    """The steps of a plan that was begun and not ended. Raises ChangeStuck if it is another one."""
    from tools.admin.membership import ChangeStuck, plan_file, read_plan

    plan = read_plan(cluster)
    if plan is None:
        return []
    if plan.command != command:
        raise ChangeStuck(
            f"`boathouse node {plan.command}` was begun and not ended: run it again to go on, or remove "
            f"{plan_file(cluster)} to leave it as it is"
        )
    return list(plan.steps)


def run_steps(
    cluster: ClusterConfig, command: str, change: MemberChange, steps: Sequence[Step], output: Output
) -> None:
    from tools.admin.membership import StepRefused, StoredPlan, end_plan, write_plan

    write_plan(cluster, StoredPlan(command, tuple(steps)))
    done: list[Step] = []

    def on_done(step: Step) -> None:
        done.append(step)
        if not output.is_document:
            typer.echo(f"done: {step}")

    try:
        change.run(steps, on_done)
    except StepRefused:
        if not done:  # it never began: another plan need not wait for it
            end_plan(cluster)
        raise
    end_plan(cluster)
    if output.is_document:
        print_document({"steps": [step.to_json() for step in steps]}, output)
    elif not steps:
        typer.echo("nothing is to be done")


def _show(steps: Sequence[Step], output: Output) -> None:
    if output.is_document:
        return print_document([step.to_json() for step in steps], output)
    for number, step in enumerate(steps, start=1):
        typer.echo(f"{number}. {step}")
    if not steps:
        typer.echo("nothing is to be done")


class _Progress:
    """Says what is waited for: on a terminal as often as it changes, else once a sentence."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said = ""

    def __call__(self, text: str) -> None:
        if text != self._said and not self._output.is_document:
            self._said = text
            typer.echo(text, file=sys.stderr)
