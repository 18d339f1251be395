"""The certificates and keys that a cluster file names: whether they are there, sound, and closed to others."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from config.problems import KeyPath, Problem
from proto.internal import curve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from config.models import ClientTlsConfig, ClusterConfig

_CLIENT: KeyPath = ("tls", "client")
_KEYS: KeyPath = ("tls", "peer", "keys")


def problems(cluster: ClusterConfig, here: Iterable[str]) -> Iterator[Problem]:
    """What is wrong with the files of the nodes that are here, and with those of others as far as they are here."""
    needed = {name for name in here if name in cluster.nodes}
    found: dict[Problem, None] = {}  # without {node} in a path all nodes have the same to say
    for name in cluster.nodes:
        client = cluster.client_tls(name)
        if client is not None and (name in needed or _all_exist(client)):
            found |= dict.fromkeys(_client_problems(client))
        if cluster.tls.peer is not None:
            found |= dict.fromkeys(_key_problems(cluster, cluster.tls.peer.keys, name, needed=name in needed))
    return iter(found)


def peer_keys(cluster: ClusterConfig, node: str) -> curve.PeerKeys | None:
    """What the processes of a node connect to other nodes with; None if they do so in the clear. Raises
    curve.BadKeyFile."""
    if cluster.tls.peer is None:
        return None
    ids = {name: config.id for name, config in cluster.nodes.items()}
    return curve.PeerKeys.load(cluster.tls.peer.keys, node, ids)


def context_of(files: ClientTlsConfig, alpn: Iterable[str]) -> ssl.SSLContext:
    """What a server needs for handshakes with these files. Raises ValueError, or OSError, ssl.SSLError among it.

    Sessions are resumed within one context only, so nobody is let in by what earlier files allowed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(alpn))
    context.load_cert_chain(files.cert, files.key, password=_no_password)
    if files.client_cert_auth:
        assert files.ca is not None
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files.ca)
    return context


def _no_password() -> str:
    """OpenSSL would ask the terminal."""
    raise ValueError("the key needs a password; store it without one, in a file for its owner alone")


def _all_exist(files: ClientTlsConfig) -> bool:
    return os.path.exists(files.cert) and os.path.exists(files.key)


def _client_problems(files: ClientTlsConfig) -> Iterator[Problem]:
    is_readable = True
    for key in ("cert", "key", "ca"):
        path: Path | None = getattr(files, key)
        if path is not None and (reason := _unreadable(path)):
            is_readable = False
            yield Problem((*_CLIENT, key), f"{path} can't be read: {reason}")
    if not is_readable:
        return
    if reason := curve.exposure_of(files.key):
        yield Problem((*_CLIENT, "key"), reason)
    if files.ca is not None and (reason := _no_authority(files.ca)):
        yield Problem((*_CLIENT, "ca"), f"{files.ca} can't be used: {reason}")
        return
    try:
        context_of(files, ())
    except (OSError, ValueError) as error:
        yield Problem((*_CLIENT, "cert"), f"{files.cert} and {files.key} can't be used: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """Why OpenSSL, or the system, does not take a file."""
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key is another certificate's"
        return error.reason or "not all of it is PEM"  # OpenSSL says no more
    return str(error.strerror if isinstance(error, OSError) else error)


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _no_authority(path: Path) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except OSError as error:
        return reason_of(error)
    return ""


def _key_problems(cluster: ClusterConfig, folder: Path, node: str, *, needed: bool) -> Iterator[Problem]:
    try:
        if needed:
            peer_keys(cluster, node)
        elif os.path.exists(curve.secret_file(folder, node)):
            curve.read_secret(folder, node, curve.read_public(folder, node))
    except curve.BadKeyFile as error:
        yield Problem(_KEYS, str(error))
