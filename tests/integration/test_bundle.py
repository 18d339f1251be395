"""`boathouse debug bundle` of a cluster that has every kind of secret: none of them is in it."""

from __future__ import annotations

import base64
import json
import tarfile
from typing import TYPE_CHECKING, Any

import yaml

from tests.integration.cluster import Cluster, run_cli
from tools.admin.certificates import make_set

if TYPE_CHECKING:
    from pathlib import Path

JWT_SECRET = "a-secret-that-both-sides-of-HS256-have"
TOKEN = "AbCdEfGhIjKlMnOp.77"
IN_A_LOG = "Uvwxyz-in-a-log"


def _secrets(folder: Path, keys: Path) -> dict[str, str]:
    found = {"jwt": JWT_SECRET, "token": TOKEN, "password": IN_A_LOG}
    for path in (folder / "server-key.pem", folder / "client-key.pem", keys / "n1.secret"):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("-----")]
        found |= {f"{path.name}:{number}": line for number, line in enumerate(lines)}
    return found


def _members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        assert {member.mode for member in archive} == {0o600}
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
        }


def test_a_bundle_holds_what_helps_and_no_secret(tmp_path: Path) -> None:
    files = make_set(tmp_path / "certs", ("localhost", "127.0.0.1"), "root")
    keys = tmp_path / "keys"
    (tmp_path / "keygen.yaml").write_text("nodes: {n1: {}}\n")
    assert run_cli("keygen", str(tmp_path / "keygen.yaml"), "--dir", str(keys)).returncode == 0
    jwt = tmp_path / "jwt.secret"
    jwt.touch(0o600)
    jwt.write_text(JWT_SECRET + "\n")
    settings: dict[str, Any] = {
        "tls": {
            "client": {
                "cert": str(files.server),
                "key": str(files.server_key),
                "ca": str(files.ca),
                "client_cert_auth": True,
            },
            "peer": {"keys": str(keys)},
        },
        "auth": {"jwt": {"sign_method": "HS256", "private_key": str(jwt)}},
    }
    (tmp_path / "cluster").mkdir()
    with Cluster(tmp_path / "cluster", nodes=1, shards=1, settings=settings) as cluster:
        secrets = _secrets(tmp_path / "certs", keys)
        log = cluster.config.node_dir("n1") / "logs" / "shard-1.log"
        with log.open("a") as file:
            file.write(f"authorization: Bearer {TOKEN}\npassword={IN_A_LOG}\n")
            file.writelines(f"oops {secret}\n" for what, secret in secrets.items() if what != "password")
        path = tmp_path / "bundle.tar.gz"
        shown = ("--cert", str(files.client), "--key", str(files.client_key))
        done = cluster.cli("debug", "bundle", "--to", str(path), "-o", "json", *shown)
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout) == {"file": str(path), "missing": []}
        again = cluster.cli("debug", "bundle", "--to", str(path))
        assert (again.returncode, b"exists already" in again.stderr) == (1, True)
    assert path.stat().st_mode & 0o777 == 0o600
    members = _members(path)
    assert set(members) >= {
        *("versions.json", "system.json", "config.yaml", "status.json", "shards.json", "doctor.json"),
        *("metrics/n1.txt", "logs/n1/shard-1.log", "logs/n1/coordinator.log"),
    }
    for name, content in members.items():
        for what, secret in secrets.items():
            for form in (secret.encode(), base64.b64encode(secret.encode())):
                assert form not in content, f"{what} is in {name}"
    assert b"oops (removed)" in members["logs/n1/shard-1.log"]
    assert b"boathouse_replica_up" in members["metrics/n1.txt"]
    assert yaml.safe_load(members["config.yaml"])["auth"]["jwt"]["private_key"] == str(jwt)
    assert {row["state"] for row in json.loads(members["status.json"])["processes"]} == {"running"}


def test_a_bundle_of_a_cluster_that_is_down_says_what_could_not_be_had(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("data_dir: data\nnodes: {n1: {client_port: 1, http_port: 2, peer_port: 3}}\n")
    done = run_cli("debug", "bundle", str(file), cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    (path,) = tmp_path.glob("boathouse-debug-boathouse-*.tar.gz")
    members = _members(path)
    assert b"refused" in members["metrics/n1.txt.missing"]
    assert b"could not be had, and says why: metrics/n1.txt" in done.stdout
    assert {row["state"] for row in json.loads(members["status.json"])["processes"]} == {"down"}
