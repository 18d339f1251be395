"""`boathouse kv`: reads and writes keys through the etcd API, in any table."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.arguments import DEFAULT_ENDPOINT, EndpointOption, OutputOption, TableOption, TimeoutOption
from tools.connection import given_connection
from tools.failure import Failed, answered
from tools.lazy import command_group
from tools.output import Output, print_document, print_table
from tools.printable import printable
from tools.progress import working
from tools.streams import read_stdin
from tools.tls_options import takes_tls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proto.etcd import kv_pb2
    from proto.etcd import rpc_pb2 as rpc
    from tools.admin.client import KvClient

app = command_group()

INT64_MAX = 2**63 - 1

KeyArgument = Annotated[str, typer.Argument(help="Key.")]
TxnFileArgument = Annotated[Path | None, typer.Argument(metavar="FILE", help="Without one, stdin.")]


HexOption = Annotated[bool, typer.Option("--hex", help="Keys and values are given and shown as hexadecimal.")]
PrefixOption = Annotated[bool, typer.Option("--prefix", help="All keys that begin with KEY.")]
FromKeyOption = Annotated[bool, typer.Option("--from-key", help="All keys from KEY on.")]
PrevOption = Annotated[bool, typer.Option("--prev-kv", help="Show what was there before.")]
LimitOption = Annotated[
    int, typer.Option("--limit", min=0, max=INT64_MAX, help="At most so many keys; 0 = all.")
]
RevOption = Annotated[int, typer.Option("--rev", min=0, max=INT64_MAX, help="As of this revision; 0 = now.")]
SerializableOption = Annotated[
    bool,
    typer.Option("--serializable", help="Let any replica answer, even with what is no longer the newest."),
]
KeysOnlyOption = Annotated[bool, typer.Option("--keys-only", help="Leave the values out.")]
CountOnlyOption = Annotated[bool, typer.Option("--count-only", help="Only how many keys there are.")]
ValueOnlyOption = Annotated[
    bool, typer.Option("--print-value-only", help="Write values to stdout byte for byte, and nothing else.")
]
RequestIdOption = Annotated[
    str | None, typer.Option("--request-id", help="Name of this write: under one name it is applied once.")
]


@app.command()
@takes_tls
def get(
    key: KeyArgument,
    prefix: PrefixOption = False,
    from_key: FromKeyOption = False,
    limit: LimitOption = 0,
    rev: RevOption = 0,
    serializable: SerializableOption = False,
    keys_only: KeysOnlyOption = False,
    count_only: CountOnlyOption = False,
    print_value_only: ValueOnlyOption = False,
    table: TableOption = None,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    as_hex: HexOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Get a key, or all keys with a prefix."""
    _at_most_one(prefix=prefix, from_key=from_key)
    read = _Read(limit, rev, serializable, keys_only, count_only)
    with working(f"waiting for {endpoint}"), open_client(endpoint, table, timeout) as client:
        response = read.run(client, _given(key, as_hex), None, prefix=prefix, from_key=from_key)
    _show_range(response, output, as_hex, count_only=count_only, value_only=print_value_only)


@app.command("range")
@takes_tls
def range_(
    start: Annotated[str, typer.Argument(help="First key.")],
    end: Annotated[str, typer.Argument(help="First key that no longer counts.")],
    limit: LimitOption = 0,
    rev: RevOption = 0,
    serializable: SerializableOption = False,
    keys_only: KeysOnlyOption = False,
    count_only: CountOnlyOption = False,
    table: TableOption = None,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    as_hex: HexOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Get the keys from START up to, but without, END."""
    read = _Read(limit, rev, serializable, keys_only, count_only)
    with working(f"waiting for {endpoint}"), open_client(endpoint, table, timeout) as client:
        response = read.run(client, _given(start, as_hex), _given(end, as_hex), prefix=False, from_key=False)
    _show_range(response, output, as_hex, count_only=count_only, value_only=False)


@app.command()
@takes_tls
def put(
    key: KeyArgument,
    value: Annotated[str | None, typer.Argument(help="Value; without one it is read from stdin.")] = None,
    prev_kv: PrevOption = False,
    lease: Annotated[
        int, typer.Option("--lease", min=-INT64_MAX, max=INT64_MAX, help="Lease that the key is bound to.")
    ] = 0,
    request_id: RequestIdOption = None,
    table: TableOption = None,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    as_hex: HexOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put a value at a key."""
    from proto.etcd import rpc_pb2 as rpc

    content = read_stdin() if value is None else _given(value, as_hex)
    request = rpc.PutRequest(key=_given(key, as_hex), value=content, prev_kv=prev_kv, lease=lease)
    with working(f"waiting for {endpoint}"), open_client(endpoint, table, timeout, request_id) as client:
        response = client.put(request)
    previous = [response.prev_kv] if response.HasField("prev_kv") else []
    _show_write("put", 1, response.header.revision, previous, output, as_hex)


@app.command("del")
@takes_tls
def delete(
    key: KeyArgument,
    end: Annotated[str | None, typer.Argument(help="First key that no longer counts.")] = None,
    prefix: PrefixOption = False,
    from_key: FromKeyOption = False,
    prev_kv: PrevOption = False,
    request_id: RequestIdOption = None,
    table: TableOption = None,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    as_hex: HexOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete a key, or a range of them."""
    from proto.etcd import rpc_pb2 as rpc
    from tools.key_range import selected

    _at_most_one(END=end is not None, prefix=prefix, from_key=from_key)
    first, range_end = selected(
        _given(key, as_hex),
        range_end=None if end is None else _given(end, as_hex),
        prefix=prefix,
        from_key=from_key,
    )
    request = rpc.DeleteRangeRequest(key=first, range_end=range_end, prev_kv=prev_kv)
    with working(f"waiting for {endpoint}"), open_client(endpoint, table, timeout, request_id) as client:
        response = client.delete_range(request)
    _show_write(
        "deleted", response.deleted, response.header.revision, list(response.prev_kvs), output, as_hex
    )


@app.command()
@takes_tls
def txn(
    file: TxnFileArgument = None,
    request_id: RequestIdOption = None,
    table: TableOption = None,
    endpoint: EndpointOption = DEFAULT_ENDPOINT,
    timeout: TimeoutOption = 10.0,
    as_hex: Annotated[bool, typer.Option("--hex", help="Keys and values are shown as hexadecimal.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Run a transaction: compares, an empty line, what to do if they hold, an empty line, what to do
    otherwise."""
    from tools.txn_script import TxnSyntaxError, parse_txn

    source = "stdin" if file is None else str(file)
    try:
        content = read_stdin() if file is None else file.read_bytes()
        request = parse_txn(content.decode("utf-8-sig"))  # Windows editors begin a file with a mark
    except OSError as error:
        raise Failed(f"{source}: can't be read: {error.strerror}") from None
    except TxnSyntaxError as error:
        raise Failed(f"{source}: {error}") from None
    except UnicodeDecodeError:
        raise Failed(f"{source}: is not UTF-8 text; write other bytes as \\xNN in quotes") from None
    with working(f"waiting for {endpoint}"), open_client(endpoint, table, timeout, request_id) as client:
        response = client.txn(request)
    _show_txn(response, output, as_hex)


# ---- requests ----------------------------------------------------------------------------------------------


class _Read:
    """How a range is read; the same for get and range."""

    def __init__(self, limit: int, rev: int, serializable: bool, keys_only: bool, count_only: bool) -> None:
        self._options = {
            "limit": limit,
            "revision": rev,
            "serializable": serializable,
            "keys_only": keys_only,
            "count_only": count_only,
        }

    def run(
        self, client: KvClient, key: bytes, end: bytes | None, *, prefix: bool, from_key: bool
    ) -> rpc.RangeResponse:
        from proto.etcd import rpc_pb2 as rpc
        from tools.key_range import selected

        first, range_end = selected(key, range_end=end, prefix=prefix, from_key=from_key)
        return client.range(rpc.RangeRequest(key=first, range_end=range_end, **self._options))  # type: ignore[arg-type]


@contextlib.contextmanager
def open_client(
    endpoint: str, table: str | None, timeout_s: float, request_id: str | None = None
) -> Iterator[KvClient]:
    """A client for what --endpoint, --table, --timeout and the options of TLS say. Calls that fail raise Failed."""
    from tools.admin.client import KvClient

    connection = given_connection(endpoint)
    for option, text in (("--table", table), ("--request-id", request_id)):
        if text and not (text.isascii() and text.isprintable()):
            raise typer.BadParameter(
                f"{text!r} can't travel in gRPC metadata; use printable ASCII", param_hint=option
            )
    client = KvClient(
        connection.addresses,
        table,
        timeout_s,
        request_id,
        credentials=connection.credentials,
        token=connection.token,
    )
    with answered(), client:
        yield client


def _given(text: str, as_hex: bool) -> bytes:
    """A key or value from the command line; bytes that are no UTF-8 arrive unharmed."""
    if not as_hex:
        return os.fsencode(text)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not hexadecimal", param_hint="--hex") from None


def _at_most_one(**given: bool) -> None:
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) > 1:
        names = " and ".join(name if name.isupper() else f"--{name.replace('_', '-')}" for name in chosen)
        raise typer.BadParameter(f"{names} exclude each other")


# ---- answers -----------------------------------------------------------------------------------------------


def _show_range(
    response: rpc.RangeResponse, output: Output, as_hex: bool, *, count_only: bool, value_only: bool
) -> None:
    if value_only:
        for kv in response.kvs:
            sys.stdout.buffer.write(kv.value)
        sys.stdout.buffer.flush()
    elif output.is_document:
        print_document({"revision": response.header.revision, **_range_json(response)}, output)
    elif count_only:
        typer.echo(response.count)
    else:
        _print_kvs(list(response.kvs), output, as_hex)
        if response.more:
            typer.echo(f"({len(response.kvs)} of {response.count} keys)", err=True)


def _show_write(
    verb: str, count: int, revision: int, previous: list[kv_pb2.KeyValue], output: Output, as_hex: bool
) -> None:
    if output.is_document:
        return print_document(
            {"revision": revision, verb: count, "prev_kvs": [_kv_json(kv) for kv in previous]}, output
        )
    typer.echo(f"{verb} {count} {'key' if count == 1 else 'keys'}, revision {revision}")
    if previous:
        _print_kvs(previous, output, as_hex)


def _show_txn(response: rpc.TxnResponse, output: Output, as_hex: bool) -> None:
    if output.is_document:
        return print_document(
            {
                "revision": response.header.revision,
                "succeeded": response.succeeded,
                "responses": [_response_json(operation) for operation in response.responses],
            },
            output,
        )
    typer.echo(f"{'succeeded' if response.succeeded else 'failed'}, revision {response.header.revision}")
    for operation in response.responses:
        match operation.WhichOneof("response"):
            case "response_range":
                _print_kvs(list(operation.response_range.kvs), output, as_hex)
            case "response_put":
                typer.echo("put 1 key")
            case "response_delete_range":
                typer.echo(f"deleted {operation.response_delete_range.deleted}")


def _print_kvs(kvs: list[kv_pb2.KeyValue], output: Output, as_hex: bool) -> None:
    shown = bytes.hex if as_hex else printable
    print_table(
        output.columns(["key", "value", "revision", "version"], ["created", "lease"]),
        [
            {
                "key": shown(kv.key),
                "value": shown(kv.value),
                "revision": kv.mod_revision,
                "version": kv.version,
                "created": kv.create_revision,
                "lease": f"{kv.lease:x}" if kv.lease else None,
            }
            for kv in kvs
        ],
    )


def _range_json(response: rpc.RangeResponse) -> dict[str, Any]:
    return {"count": response.count, "more": response.more, "kvs": [_kv_json(kv) for kv in response.kvs]}


def _kv_json(kv: kv_pb2.KeyValue) -> dict[str, Any]:
    return {
        "key": base64.b64encode(kv.key).decode(),
        "value": base64.b64encode(kv.value).decode(),
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "lease": kv.lease,
    }


def _response_json(operation: rpc.ResponseOp) -> dict[str, Any]:
    match operation.WhichOneof("response"):
        case "response_range":
            return {"range": _range_json(operation.response_range)}
        case "response_put":
            put_response = operation.response_put
            return {
                "put": {
                    "prev_kv": _kv_json(put_response.prev_kv) if put_response.HasField("prev_kv") else None
                }
            }
        case "response_delete_range":
            deleted = operation.response_delete_range
            return {
                "delete": {"deleted": deleted.deleted, "prev_kvs": [_kv_json(kv) for kv in deleted.prev_kvs]}
            }
        case _:
            return {}
