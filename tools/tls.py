"""`boathouse tls init` and `boathouse keygen`: certificates for development, and the keys between nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tools.arguments import FileArgument  # noqa: TC001 - typer reads annotations when it runs
from tools.failure import Failed
from tools.lazy import command_group

app = command_group()


@app.callback()
def tls() -> None:
    """A group, though it has only one command yet."""


@app.command()
def init(
    file: FileArgument = None,
    folder: Annotated[Path, typer.Option("--dir", help="Folder to make them in.")] = Path("certs"),
    client_name: Annotated[
        str, typer.Option("--client-name", help="Common name of the client's certificate.")
    ] = "root",
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            help="What clients call the nodes beside the hosts in the file: the name of a service or of a load "
            "balancer, or an address; may be given several times.",
        ),
    ] = None,
) -> None:
    """Make an authority, a server's and a client's certificate, for development, and say how to use them."""
    from tools.admin.certificates import hosts_of, make_set
    from tools.cluster_file import read_cluster_draft

    cluster = read_cluster_draft(file)
    try:
        files = make_set(folder, [*hosts_of(cluster), *(hosts or ())], client_name)
    except ValueError:
        raise typer.BadParameter(
            "an address, or a name in ASCII (others as xn--...)", param_hint="--host"
        ) from None
    except FileExistsError as error:
        raise Failed(error.strerror or str(error)) from None
    typer.echo(f"made {files.ca}, {files.server} and {files.client}, each with its key, valid for a year")
    typer.echo("in the cluster file:")
    typer.echo("  tls:\n    client:")
    typer.echo(f"      cert: {files.server}\n      key: {files.server_key}")
    typer.echo(f"      ca: {files.ca}\n      client_cert_auth: true")
    typer.echo("for clients:")
    typer.echo(f"  --cacert {files.ca} --cert {files.client} --key {files.client_key}")


def keygen(file: Path | None, folder: Path | None) -> None:
    """Make a key pair for each node that has none, in the folder that the file names or this one, and say how to use
    them."""
    from config.tls_files import write_pair
    from proto.internal.curve import public_file, secret_file
    from tools.cluster_file import read_cluster_draft

    cluster = read_cluster_draft(file)
    if folder is None:
        folder = Path("keys") if cluster.tls.peer is None else cluster.tls.peer.keys
    made = []
    for name in cluster.nodes:
        there = [path.exists() for path in (public_file(folder, name), secret_file(folder, name))]
        if not any(there):
            write_pair(folder, name)
            made.append(name)
        elif not there[0]:
            raise Failed(
                f"{secret_file(folder, name)} has no {name}.public beside it; restore that, or remove both"
            )
    if not made:
        raise Failed(f"every node has its keys in {folder} already; remove those that are to be made again")
    typer.echo(f"made keys of {', '.join(made)} in {folder}")
    if cluster.tls.peer is None:
        typer.echo(f"in the cluster file:\n  tls:\n    peer:\n      keys: {folder}")
    typer.echo("each machine needs all .public files, and of the .secret files only those of its own nodes")
