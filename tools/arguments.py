"""Arguments and options that several commands have: the same name, help and meaning everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from tools import completion
from tools.output import Output

DEFAULT_ENDPOINT: Final = "127.0.0.1:2379"
TIMEOUT_S_MAX: Final = 86_400.0


def _check_timeout(value: float) -> float:
    if not 0.001 <= value <= TIMEOUT_S_MAX:  # written so that it is true for nan
        raise typer.BadParameter(f"{value} is not in the range 0.001<=x<={TIMEOUT_S_MAX:g}")
    return value


FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE", envvar="BOATHOUSE_FILE", help="Cluster file; without one, the built-in single node."
    ),
]
TARGET_HELP: Final = "n1, n1/coordinator, n1/shard-2, or shard-2 (all replicas)."
TargetArgument = Annotated[
    str, typer.Argument(help=TARGET_HELP, autocompletion=completion.target_names, metavar="TARGET")
]
NodeOption = Annotated[
    str | None, typer.Option("--node", help="Only this node.", autocompletion=completion.node_names)
]
TableOption = Annotated[
    str | None,
    typer.Option(
        "--table",
        "-t",
        help="Table; the server's default is `default`.",
        autocompletion=completion.table_names,
    ),
]
EndpointOption = Annotated[
    str,
    typer.Option(
        "--endpoint",
        "--endpoints",  # as etcdctl has it
        "-e",
        envvar="BOATHOUSE_ENDPOINT",
        help="host:port or unix:///path; several with commas between.",
    ),
]
AttachOption = Annotated[
    str | None,
    typer.Option(
        "--endpoints",
        "--endpoint",
        help="host:port of coordinators, or of members of an etcd cluster, instead of a cluster file.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", callback=_check_timeout, help="Seconds before the command gives up."),
]
OutputOption = Annotated[
    Output,
    typer.Option("-o", "--output", help="table or wide for people, json or yaml for programs."),
]
