"""`boathouse debug`: what helps whoever looks into a problem."""

from __future__ import annotations

import functools
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.arguments import FileArgument, OutputOption  # noqa: TC001 - typer reads annotations when it runs
from tools.failure import Failed
from tools.lazy import command_group
from tools.output import Output, human_bytes, print_document
from tools.tls_options import takes_tls, tls_options

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from config import ClusterConfig
    from tools.admin.bundle import Part

app = command_group()


@app.callback()
def debug() -> None:
    """A group, though it has only one command yet."""


@app.command()
@takes_tls
def bundle(
    file: FileArgument = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="The archive. Default: boathouse-debug-CLUSTER-TIME.tar.gz, here."),
    ] = None,
    log_mib: Annotated[
        int, typer.Option("--log-mib", min=1, max=1_000, help="How much of the end of each log.")
    ] = 4,
    output: OutputOption = Output.TABLE,
) -> None:
    """Gather versions, config, status, what doctor finds, metrics and logs in one archive, without secrets.

    Keys of TLS and of nodes, tokens and passwords are taken out, by what this machine's files hold and by their form.
    Keys and values of tables are not in it, unless a log quotes one. Only this user can read the archive."""
    from tools.admin.bundle import write_bundle
    from tools.admin.redaction import Redaction, secrets_of
    from tools.cluster_file import read_cluster
    from tools.connection import TOKEN_VARIABLE
    from tools.progress import working

    cluster = read_cluster(file)
    folder = f"boathouse-debug-{cluster.cluster}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"
    path = to if to is not None else Path(f"{folder}.tar.gz")
    key = tls_options().key
    known = secrets_of(cluster) if key is None else secrets_of(cluster, key)
    redaction = Redaction([*known, os.environ.get(TOKEN_VARIABLE, "").encode()])
    try:
        with working("gathering") as say:
            parts = _parts(cluster, file, log_mib << 20)
            missing = write_bundle(path, folder, parts, redaction, lambda name: say(f"gathering {name}"))
    except FileExistsError:
        raise Failed(f"{path} exists already; name another with --to") from None
    except OSError as error:
        raise Failed(f"{path}: can't be written: {error.strerror}") from None
    if output.is_document:
        return print_document({"file": str(path), "missing": missing}, output)
    typer.echo(
        f"{path}: {human_bytes(path.stat().st_size)}, without secrets; look into it before you pass it on"
    )
    if missing:
        typer.echo(f"could not be had, and says why: {', '.join(missing)}")


def _parts(cluster: ClusterConfig, file: Path | None, log_bytes_max: int) -> Iterator[Part]:
    from tools.admin import bundle as made
    from tools.version import read_versions

    yield "versions.json", lambda: made.document(read_versions())
    yield made.system_part(cluster)
    yield made.config_part(cluster)
    look = functools.cache(lambda: _look(cluster, file))
    for name in ("status", "shards", "doctor"):
        yield f"{name}.json", lambda name=name: made.document(look()[name])  # type: ignore[misc]
    yield from made.metrics_parts(cluster, _tls_context(cluster))
    yield from made.log_parts(cluster, log_bytes_max)


def _look(cluster: ClusterConfig, file: Path | None) -> dict[str, Any]:
    from tools import doctor, shard, status
    from tools.admin.operate import shard_views

    snapshot = status.look(cluster)
    return {
        "status": {"problems": snapshot.problems, "processes": status.documents(snapshot)},
        "shards": [shard.document(each) for each in shard_views(cluster)],
        "doctor": [doctor.document(each) for each in doctor.findings(cluster, file, snapshot)],
    }


def _tls_context(cluster: ClusterConfig) -> ssl.SSLContext | None:
    """For the HTTP ports: with what the options say, else with the authority that the cluster file names."""
    if cluster.tls.client is None:
        return None
    from tools.client_tls import client_context

    options = tls_options()
    try:
        return client_context(options.cacert or cluster.tls.client.ca, options.cert, options.key)
    except OSError as error:
        raise Failed(f"the files of TLS can't be used: {error.strerror or error}") from None
