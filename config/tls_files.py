"""The certificates, keys and tokens that a cluster file names: whether they are there, sound, and closed to others."""

from __future__ import annotations

import contextlib
import os
import ssl
from functools import partial
from typing import TYPE_CHECKING

import zmq

from config.durable_files import create_durably, make_folder
from config.key_files import BadTokenKey, bearer_token, checking_key, signing_key
from config.problems import KeyPath, Problem
from config.token_files import BadTokenFile, read_tokens
from proto.internal import curve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from config.access import ClientTlsConfig, FollowsTlsConfig
    from config.models import ClusterConfig

_CLIENT: KeyPath = ("tls", "client")
_FOLLOWS: KeyPath = ("follows", "tls")
_KEYS: KeyPath = ("tls", "peer", "keys")


class TlsUnusable(Exception):
    """The files can't be used. The text says why."""


def problems(cluster: ClusterConfig, here: Iterable[str]) -> Iterator[Problem]:
    """What is wrong with the files of the nodes that are here, and with those of others as far as they are here."""
    needed = {name for name in here if name in cluster.nodes}
    found: dict[Problem, None] = {}  # without {node} in a path all nodes have the same to say
    for name in cluster.nodes:
        client = cluster.client_tls(name)
        if client is not None and (name in needed or _all_exist(client)):
            found |= dict.fromkeys(_tls_problems(_CLIENT, client, partial(context_of, client, ())))
        if name in needed:
            found |= dict.fromkeys(_between_clusters(cluster, name))
            found |= dict.fromkeys(_of_tokens(cluster, name))
        if cluster.tls.peer is not None:
            found |= dict.fromkeys(_key_problems(cluster, cluster.tls.peer.keys, name, needed=name in needed))
    return iter(found)


def peer_keys(cluster: ClusterConfig, node: str) -> curve.PeerKeys | None:
    """What the processes of a node connect to other nodes with; None if they do so in the clear. Raises
    curve.BadKeyFile."""
    if cluster.tls.peer is None:
        return None
    told = cluster.member_keys
    ids = {name: config.id for name, config in cluster.nodes.items() if config.id not in told}
    of_members = {number: key.encode() for number, key in told.items() if key}
    return curve.PeerKeys.load(cluster.tls.peer.keys, node, ids, of_members)


def write_pair(folder: Path, node: str) -> None:
    """Make a key pair for a node, the secret for this user alone. Durable on return. Raises FileExistsError rather than
    replace one."""
    public, secret = zmq.curve_keypair()
    make_folder(folder)
    create_durably(curve.secret_file(folder, node), secret + b"\n", 0o600)
    try:
        create_durably(curve.public_file(folder, node), public + b"\n", 0o644)
    except OSError:
        with contextlib.suppress(OSError):
            curve.secret_file(folder, node).unlink()
        raise


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


def check_usable(files: FollowsTlsConfig) -> None:
    """Raises TlsUnusable if no handshake towards the leader cluster can be made with these files."""
    for problem in _tls_problems(_FOLLOWS, files, partial(_following_context, files)):
        raise TlsUnusable(problem.message)


def _following_context(files: FollowsTlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    if files.cert is not None:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    return context


def _no_password() -> str:
    """OpenSSL would ask the terminal."""
    raise ValueError("the key needs a password; store it without one, in a file for its owner alone")


def _all_exist(files: ClientTlsConfig) -> bool:
    return os.path.exists(files.cert) and os.path.exists(files.key)


def _between_clusters(cluster: ClusterConfig, node: str) -> Iterator[Problem]:
    """Of what a node needs to follow another cluster, and of what it asks of those that follow this one."""
    replication = cluster.replication.of_node(node)
    if replication.token_file is not None:
        yield from _token_problems(("replication", "token_file"), replication.token_file)
    if cluster.follows is None:
        return
    follows = cluster.follows.of_node(node)
    if follows.token_file is not None:
        yield from _token_problems(("follows", "token_file"), follows.token_file)
    tls = follows.tls
    if tls is not None:
        yield from _tls_problems(_FOLLOWS, tls, partial(_following_context, tls))


def _of_tokens(cluster: ClusterConfig, node: str) -> Iterator[Problem]:
    """Of the keys that sign tokens, and of the tokens of who runs the cluster."""
    readers: list[tuple[KeyPath, Callable[[], object]]] = []
    if (jwt := cluster.auth.jwt) is not None:
        if jwt.private_key is not None:
            readers.append(
                (("auth", "jwt", "private_key"), partial(signing_key, jwt.private_key, jwt.sign_method))
            )
        if jwt.public_key is not None:
            readers.append(
                (("auth", "jwt", "public_key"), partial(checking_key, jwt.public_key, jwt.sign_method))
            )
    tokens = cluster.tokens.of_node(node)
    for key, path in (("maintenance", tokens.maintenance), ("tables", tokens.tables)):
        if path is not None:
            readers.append((("tokens", key), partial(bearer_token, path)))
    for at, read in readers:
        try:
            read()
        except BadTokenKey as error:
            yield Problem(at, str(error))


def _token_problems(at: KeyPath, path: Path) -> Iterator[Problem]:
    try:
        read_tokens(path)
    except BadTokenFile as error:
        yield Problem(at, str(error))


def _tls_problems(
    at: KeyPath, files: ClientTlsConfig | FollowsTlsConfig, make_context: Callable[[], object]
) -> Iterator[Problem]:
    is_readable = True
    for key in ("cert", "key", "ca"):
        path: Path | None = getattr(files, key)
        if path is not None and (reason := _unreadable(path)):
            is_readable = False
            yield Problem((*at, key), f"{path} can't be read: {reason}")
    if not is_readable:
        return
    if files.key is not None and (reason := curve.exposure_of(files.key)):
        yield Problem((*at, "key"), reason)
    if files.ca is not None and (reason := _no_authority(files.ca)):
        yield Problem((*at, "ca"), f"{files.ca} can't be used: {reason}")
        return
    try:
        make_context()
    except (OSError, ValueError) as error:
        yield Problem((*at, "cert"), f"{files.cert} and {files.key} can't be used: {reason_of(error)}")


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
