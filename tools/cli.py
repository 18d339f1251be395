"""The `boathouse` command: what each command takes. What it does is imported when it runs, so that `--help`
and the start of a cluster wait for nothing they don't need.

Exit codes: tools/failure.py."""

from __future__ import annotations

import enum
import sys
from datetime import datetime  # noqa: TC003 (typer reads annotations when it runs)
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from tools import completion as completion_of_shells
from tools import streams
from tools.arguments import (
    TARGET_HELP,
    AttachOption,
    FileArgument,
    NodeOption,
    OutputOption,
    TargetArgument,
)
from tools.completion import node_names, target_names
from tools.failure import INTERRUPTED, Failed
from tools.lazy import LazyGroup
from tools.output import Output
from tools.tls_options import takes_tls


class Boathouse(LazyGroup):
    """The root: the commands below, and those of other modules."""

    modules: ClassVar = {
        "kv": ("tools.kv", "Read and write keys through the etcd API."),
        "shell": ("tools.shell.cli", "Type kv commands one after the other, on a terminal or from a pipe."),
        "table": ("tools.table", "Tables of a running cluster."),
        "shard": ("tools.shard", "Shards of a running cluster."),
        "node": ("tools.node", "Nodes that come to a running cluster, or leave it."),
        "tls": ("tools.tls", "Certificates for clients and servers."),
        "backup": ("tools.backup", "Save tables into a folder, each as it was at one moment."),
        "restore": ("tools.restore", "Put saved tables in the place of what the cluster holds."),
        "snapshot": ("tools.snapshot", "Files of tables, as `etcdctl snapshot save` makes them."),
        "debug": ("tools.debug", "What helps whoever looks into a problem."),
        "bench": ("tools.bench.cli", "Measure a cluster against its ceiling and against etcd."),
    }


class Shell(enum.StrEnum):
    """Those that complete our words."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


app = typer.Typer(
    cls=Boathouse,
    name="boathouse",
    help="A sharded, replicated key-value cluster that speaks etcd v3 and Regatta.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and errors: half the time to the first line, and nothing is wrapped into boxes
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def up(
    file: FileArgument = None,
    node: Annotated[
        str | None,
        typer.Option("--node", help="Start this node alone, whatever its host.", autocompletion=node_names),
    ] = None,
) -> None:
    """Start a cluster in the foreground; Ctrl-C stops it in order."""
    from tools.up import up as run_up

    run_up(file, node)


@app.command()
def down(file: FileArgument = None, node: NodeOption = None) -> None:
    """Stop a cluster that is up on this machine."""
    from tools.cluster_file import read_cluster
    from tools.down import down as run_down

    run_down(read_cluster(file), node)


@app.command()
@takes_tls
def status(file: FileArgument = None, output: OutputOption = Output.TABLE) -> None:
    """List every process: state, restarts, load, and each replica's role."""
    from tools.cluster_file import read_cluster
    from tools.status import status as run_status

    run_status(read_cluster(file), output)


@app.command()
def promote(
    file: FileArgument = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also if the leader cluster can't be asked to give way, or has what is not here."
        ),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a follower cluster lead, after showing what would be lost."""
    from tools.cluster_file import read_cluster
    from tools.promote import promote as run_promote

    run_promote(read_cluster(file), output, yes=yes, force=force)


@app.command()
def fence(
    leader: Annotated[str, typer.Option("--leader", help="The cluster that leads instead.")],
    epoch: Annotated[int, typer.Option("--epoch", min=2, help="In which it does; its `promote` says so.")],
    file: FileArgument = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: this cluster stops taking writes.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Have a cluster that led give way to one that was promoted and can't reach it."""
    from tools.cluster_file import read_cluster
    from tools.promote import fence as run_fence

    run_fence(read_cluster(file), leader, epoch, output, yes=yes)


@app.command()
def forget(
    follower: Annotated[str, typer.Argument(help="The name of a cluster that followed this one.")],
    file: FileArgument = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Forget a follower cluster that is gone. One that still follows is known again once it comes further."""
    from tools.cluster_file import read_cluster
    from tools.forget import forget as run_forget

    run_forget(read_cluster(file), follower, output)


@app.command()
@takes_tls
def doctor(
    context: typer.Context,
    file: FileArgument = None,
    endpoints: AttachOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look for what is wrong, and say what it means and what mends it.

    With --endpoints it looks at what coordinators tell; to try disks, folders, ports and certificates takes a file."""
    from tools.doctor import doctor as run_doctor

    run_doctor(_file_unless(endpoints, file, context), endpoints, output)


def _file_unless(endpoints: str | None, file: Path | None, context: typer.Context) -> Path | None:
    """The file, where there are no endpoints: those go before one that the environment names."""
    if endpoints is None:
        return file
    source = context.get_parameter_source("file")
    if source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("a cluster file or endpoints, not both", param_hint="--endpoints")
    return None


@app.command()
@takes_tls
def top(
    context: typer.Context,
    file: FileArgument = None,
    endpoints: AttachOption = None,
    refresh: Annotated[
        float, typer.Option("--refresh", min=0.2, max=3600.0, help="Seconds between two looks.")
    ] = 1.0,
    read_only: Annotated[bool, typer.Option("--read-only", help="Change nothing, only show.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Print one frame and exit; needs no terminal.")
    ] = False,
) -> None:
    """Watch a cluster in the terminal, look into it, and act on what is selected."""
    from tools.top import top as run_top

    run_top(
        _file_unless(endpoints, file, context), endpoints, refresh_s=refresh, read_only=read_only, once=once
    )


@app.command()
def start(target: TargetArgument, file: FileArgument = None, output: OutputOption = Output.TABLE) -> None:
    """Start processes that were stopped or have failed."""
    from tools.cluster_file import read_cluster
    from tools.operate import start as run_start

    run_start(read_cluster(file), target, output)


@app.command()
def stop(target: TargetArgument, file: FileArgument = None, output: OutputOption = Output.TABLE) -> None:
    """Stop processes in order; they stay stopped until started."""
    from tools.cluster_file import read_cluster
    from tools.operate import stop as run_stop

    run_stop(read_cluster(file), target, output)


@app.command()
@takes_tls
def restart(
    context: typer.Context,
    target: Annotated[
        str | None, typer.Argument(help=TARGET_HELP, autocompletion=target_names, metavar="TARGET")
    ] = None,
    file: FileArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="Every process of the cluster.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also what a shard can't do without: it loses its quorum meanwhile."),
    ] = False,
    older_than: Annotated[
        datetime | None,
        typer.Option(
            "--older-than",
            formats=["%Y-%m-%dT%H:%M:%S"],
            help="Only what was started before this moment (UTC): goes on where a restart ended early.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Restart processes one at a time, and say what clients saw of it.

    A replica that leads hands over first, and has to be back in its shard before the next process goes down. Exit code
    3: refused, because a shard would lose its quorum."""
    from tools.cluster_file import read_cluster
    from tools.operate import restart as run_restart

    if everything:  # then the only argument is the file
        source = context.get_parameter_source("file")
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(
                f"--all takes a FILE alone, and {target} comes before it", param_hint="--all"
            )
        target, file = None, file if target is None else Path(target)
    elif target is None:
        raise typer.BadParameter("name what to restart, or --all", param_hint="TARGET")
    cluster = read_cluster(file)
    run_restart(cluster, target, output, force=force, older_than=older_than, dry_run=dry_run)


@app.command()
def logs(
    target: TargetArgument,
    file: FileArgument = None,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, max=10_000_000, help="How many lines of each log.")
    ] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines are written.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Lines as they are in the file: a JSON object each, for programs.")
    ] = False,
) -> None:
    """Show what processes wrote to their logs."""
    from tools.cluster_file import read_cluster
    from tools.logs import logs as run_logs

    run_logs(read_cluster(file), target, lines, follow, as_json=as_json)


@app.command()
def recover(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="Whose replicas go on.", autocompletion=node_names)
    ],
    file: FileArgument = None,
    shard: Annotated[
        int | None, typer.Option("--shard", help="Only this shard; without it, all that the node holds.")
    ] = None,
    lost: Annotated[
        list[str] | None,
        typer.Option(
            "--lost",
            metavar="NODE",
            help="A voter that can't be asked, and is lost for good. May be repeated.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be kept and lost.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Have shards go on with one replica, when the majority of their voters is lost for good.

    The node has to be stopped. What only the lost ones had is lost; they must not come back with their old data.
    Refused while a voter is known of which nobody says where to ask it."""
    from tools.cluster_file import read_cluster
    from tools.recover import recover as run_recover

    run_recover(read_cluster(file), node, shard, output, lost=lost or (), dry_run=dry_run)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Cluster file.")],
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            help="Look at the certificates and keys of this node; those of nodes with a loopback host by default.",
            autocompletion=node_names,
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check a cluster file with what it names, and show where its shards would be."""
    from tools.check import check as run_check

    run_check(file, node, output)


@app.command()
def version(output: OutputOption = Output.TABLE) -> None:
    """Show the versions of boathouse and of what it stands on."""
    from tools.version import version as run_version

    run_version(output)


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(help="Which shell it is for.", metavar="bash|zsh|fish")],
) -> None:
    """Print what makes a shell complete commands, options, and names of tables, shards, nodes and processes.

    bash: source <(boathouse completion bash), in ~/.bashrc. zsh: source <(boathouse completion zsh), in ~/.zshrc after
    compinit. fish: boathouse completion fish > ~/.config/fish/completions/boathouse.fish."""
    from tools.completion import script

    typer.echo(script(shell))


@app.command()
def keygen(
    file: FileArgument = None,
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="Folder for the keys; default: the file's tls.peer.keys, or keys."),
    ] = None,
) -> None:
    """Make the keys by which nodes know each other."""
    from tools.tls import keygen as run_keygen

    run_keygen(file, folder)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A replica's folder or its database file.")],
    output: OutputOption = Output.TABLE,
    requests: Annotated[
        bool,
        typer.Option("--requests", help="Print the requests in its log instead, a line of JSON for each."),
    ] = False,
) -> None:
    """Verify a replica's database offline and say what is in it."""
    from tools.inspect_database import inspect as run_inspect
    from tools.inspect_database import print_requests

    if requests:
        print_requests(path)
    else:
        run_inspect(path, output)


def main() -> None:
    """Entry point of the console script."""
    streams.repair()
    completion_of_shells.prepare()
    if not __debug__:
        sys.exit("boathouse: python -O strips the assertions that guard the data; start without it")
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            streams.end_now(INTERRUPTED)
        raise
    except Failed as failure:
        typer.echo(f"boathouse: {failure}", err=True)
        sys.exit(failure.exit_code)
    except OSError as error:
        # What fails without a name is the output: whoever opens or connects says what.
        what = "the output can't be written" if error.filename is None else error.filename
        streams.give_up_stdout()
        typer.echo(f"boathouse: {what}: {error.strerror}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
