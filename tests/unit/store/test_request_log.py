"""`boathouse inspect --requests`: a replica's log, for other people's checkers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access
from shardworker.request_log import BODIES, requests
from shardworker.store.errors import StoreError
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import TABLE, Bench

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A replica that was asked for a table, a put, a put that fails, and a user."""
    bench = Bench(tmp_path, members(1))
    bench.lead()
    spec = frames.TableSpec(id=TABLE, name="users", history=-1)
    user = etcd.AuthUserAddRequest(name="u", hashedPassword="a hash")
    for method, request, request_id in (
        (frames.TABLE_CREATE, spec, b"create__________"),
        (frames.ETCD_PUT, etcd.PutRequest(key=b"k", value=b"v"), b"put_____________"),
        (frames.ETCD_PUT, etcd.PutRequest(key=b"k", lease=4), b"no such lease___"),
        (frames.AUTH_USER_ADD, user, b"user____________"),
    ):
        bench.ask(method, request.SerializeToString(), request_id=request_id)
    bench.store.close()
    return tmp_path


def test_every_request_is_a_line_with_what_came_of_it(folder: Path) -> None:
    found = [document for document in requests(folder) if document.get("request_id")]
    put, refused, user = found[-3:]
    assert put["index"] < refused["index"] < user["index"]
    assert (put["committed"], put["applied"], put["table"]) == (True, True, "users")
    assert (put["method"], put["request"]) == ("ETCD_PUT", {"key": "aw==", "value": "dg=="})
    assert (put["request_id"], put["revision"], put["error"]) == (b"put_____________".hex(), 2, "")
    assert (refused["revision"], refused["error"]) == (2, "LeaseNotFound")
    assert user["request"] is None
    assert "a hash" not in json.dumps(found)


def test_it_is_printed_by_a_command(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", "inspect", "--requests", str(folder)],
        capture_output=True,
        check=True,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == list(requests(folder))


def test_where_there_is_no_database_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no"):
        list(requests(tmp_path / "nothing"))
    command = [sys.executable, "-m", "tools.cli", "inspect", "--requests", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, b"there is no" in done.stderr) == (1, True)


def test_no_body_is_told_that_holds_a_password_or_a_token() -> None:
    commands = {n for n, command in COMMANDS.items() if command.access in (Access.WRITE, Access.INTERNAL)}
    assert BODIES.keys() <= commands
    carriers = {
        frames.AUTH_USER_ADD,
        frames.AUTH_USER_CHANGE_PASSWORD,
        frames.AUTH_LOG_IN,
        frames.AUTH_DROP_TOKENS,
    }
    assert not BODIES.keys() & (carriers | {frames.TABLE_RESTORE, frames.REPLICATE_USERS})
