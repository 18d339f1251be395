"""Until when certificates are valid, by their files and by what a server shows."""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
import threading
from typing import TYPE_CHECKING

from config import ClusterConfig
from tests.waiting import free_ports, wait_until
from tools.admin.certificate_dates import CertificateDates, shown
from tools.admin.certificates import CertificateFiles, make_set

if TYPE_CHECKING:
    from pathlib import Path


def made(folder: Path, days: int) -> CertificateFiles:
    """A set that is valid for so many days."""
    return make_set(folder, ["127.0.0.1"], "ann", valid=datetime.timedelta(days=days))


def days_left(ends_at: float) -> int:
    return round((ends_at - datetime.datetime.now(datetime.UTC).timestamp()) / 86_400)


def cluster(folder: Path) -> ClusterConfig:
    """Of two nodes, with a certificate each and authorities in common."""
    ports = free_ports(6)
    nodes = {
        name: {"client_port": ports[first], "http_port": ports[first + 1], "peer_port": ports[first + 2]}
        for name, first in (("n1", 0), ("n2", 3))
    }
    client = {
        "cert": f"{folder}/{{node}}.pem",
        "key": f"{folder}/{{node}}-key.pem",
        "ca": f"{folder}/ca.pem",
        "client_cert_auth": True,
    }
    return ClusterConfig.model_validate(
        {"data_dir": str(folder / "data"), "nodes": nodes, "shards": 1, "tls": {"client": client}}
    )


def test_a_chain_ends_with_the_first_of_it_and_authorities_with_the_last(
    tmp_path: Path,
) -> None:
    old, new = made(tmp_path / "old", 5), made(tmp_path / "new", 90)
    shutil.copy(new.server, tmp_path / "n1.pem")
    both = old.ca.read_text() + new.ca.read_text()
    (tmp_path / "ca.pem").write_text(both)
    (tmp_path / "n1.pem").write_text(new.server.read_text() + old.ca.read_text())
    found = {each.file: each for each in CertificateDates(cluster(tmp_path)).look()}
    assert set(found) == {f"{tmp_path}/n1.pem", f"{tmp_path}/ca.pem"}, "n2's is on another machine"
    chain, authorities = found[f"{tmp_path}/n1.pem"], found[f"{tmp_path}/ca.pem"]
    assert (chain.nodes, days_left(chain.ends_at)) == (("n1",), 5)
    assert (authorities.nodes, days_left(authorities.ends_at)) == (("n1", "n2"), 90)


def test_a_file_that_is_replaced_is_read_again(tmp_path: Path) -> None:
    old, new = made(tmp_path / "old", 5), made(tmp_path / "new", 90)
    shutil.copy(old.server, tmp_path / "n1.pem")
    dates = CertificateDates(cluster(tmp_path))
    assert [days_left(each.ends_at) for each in dates.look()] == [5]
    shutil.copy(new.server, tmp_path / "n1.pem")
    wait_until(
        lambda: [days_left(each.ends_at) for each in dates.look()] == [90], timeout_s=10, what="the new one"
    )


def test_what_is_no_certificate_has_no_dates(tmp_path: Path) -> None:
    (tmp_path / "n1.pem").write_text("nothing of the kind")
    assert list(CertificateDates(cluster(tmp_path)).look()) == []


def test_what_a_server_shows_is_told_without_being_trusted(
    tmp_path: Path,
) -> None:
    files = made(tmp_path / "certs", 7)
    config = cluster(tmp_path)
    node = config.node("n2")
    assert shown(config, node) is None, "nobody listens"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    with socket.create_server((node.host, node.client_port)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        found = shown(config, node)
        thread.join(10)
    assert found is not None
    assert (found.file, found.nodes, days_left(found.ends_at)) == (f"{tmp_path}/n2.pem", ("n2",), 7)
