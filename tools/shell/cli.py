"""`boathouse shell`: its options."""

from __future__ import annotations

import sys

import typer

from tools.arguments import (
    DEFAULT_ENDPOINT,
    EndpointOption,
    OutputOption,
    TableOption,
    TimeoutOption,
)
from tools.output import Output
from tools.tls_options import takes_tls, tls_options

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@takes_tls
def shell(
    table: TableOption = None,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Type `boathouse kv` commands one after the other, on a terminal or from a pipe."""
    from tools.connection import given_connection
    from tools.shell.session import Session

    given_connection(endpoint)  # wrong usage is told before the first line
    words = ["--endpoint", endpoint, "--timeout", str(timeout)]
    for name, path in tls_options().to_json().items():
        words += [f"--{name}", path] if path is not None else []
    session = Session(words, table, output)
    if sys.stdin.isatty() and sys.stdout.isatty():
        from tools.shell.terminal import converse

        converse(session, endpoint, timeout)
    else:
        from tools.shell.script import run_script

        run_script(session, sys.stdin)
