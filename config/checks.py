"""What no single field can know: values of a cluster file that contradict each other."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.paths import SOCKET_PATH_BYTES_MAX
from config.problems import KeyPath, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from config.models import ClusterConfig, NodeConfig

_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,253})")
_ENDPOINT = re.compile(r"[^\s/]+:[0-9]{1,5}")
TABLE_NAME_BYTES_MAX = 255


def problems(cluster: ClusterConfig) -> Iterator[Problem]:
    """Everything that is wrong with a cluster whose fields are fine one by one."""
    yield from _names(cluster)
    yield from _placement(cluster)
    yield from _hosts(cluster)
    yield from _node_ids(cluster)
    yield from _ports(cluster)
    yield from _tables(cluster)
    yield from _table_nodes(cluster)
    yield from _unix_sockets(cluster)
    yield from _timing(cluster)
    yield from _follows(cluster)
    yield from _client_tls(cluster)
    yield from _exposure(cluster)


def table_name_problem(name: str) -> str:
    """Why a table can't have this name, or "" if it can. The rule of the file and of the Tables API."""
    if not name:
        return "a table needs a name"
    if name.startswith("_"):
        return "names that begin with _ are reserved for boathouse itself; choose another name"
    if len(name.encode("utf-8", "surrogatepass")) > TABLE_NAME_BYTES_MAX:
        return f"a table name has at most {TABLE_NAME_BYTES_MAX} bytes"
    if "/" in name or not name.isprintable():
        return "a table name has no / and no control characters; choose another name"
    return ""


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only. A host name other than localhost counts as remote."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def addresses(host: str) -> frozenset[str]:
    """What a host may mean, each in one spelling; a name is its own meaning."""
    if host.lower() == "localhost":
        return frozenset({"127.0.0.1", "::1"})
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return frozenset({host.lower()})
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return frozenset({str(mapped or address)})


def _names(cluster: ClusterConfig) -> Iterator[Problem]:
    if not _CLUSTER_NAME.fullmatch(cluster.cluster):
        yield Problem(
            ("cluster",),
            "a cluster name is 1 to 64 letters, digits, - _ and ., and begins with a letter or digit",
        )
    for key, node in cluster.nodes.items():
        if not _NODE_NAME.fullmatch(key):
            message = "a node name is 1 to 32 letters, digits, - _ and ., and begins with a letter or digit"
            yield Problem(("nodes", key), message)
        elif re.fullmatch(r"shard-[0-9]+", key):
            yield Problem(
                ("nodes", key), "the command line takes shard-N for a shard; choose another node name"
            )
        if node.name != key:
            yield Problem(("nodes", key, "name"), f"a node's name is its key; remove name: {node.name}")


def _placement(cluster: ClusterConfig) -> Iterator[Problem]:
    nodes, replicas = sum(not node.joins for node in cluster.nodes.values()), cluster.replicas
    joins = len(cluster.nodes) - nodes
    if not nodes:
        only = " that does not join it later" if joins else ""
        yield Problem(("nodes",), f"a cluster needs at least one node{only}")
        return
    # Of a cluster that has changed since, nodes that founded it may be gone.
    if replicas > nodes and not joins:
        yield Problem(
            ("replicas",),
            f"{replicas} replicas of a shard need {replicas} nodes, and there {_are(nodes, 'node')}; "
            f"add nodes or lower replicas",
        )
    if replicas % 2 == 0:
        yield Problem(
            ("replicas",),
            f"{replicas} replicas survive no more failures than {replicas - 1} and need a larger majority; "
            f"use an odd number",
        )


def _hosts(cluster: ClusterConfig) -> Iterator[Problem]:
    for name, node in cluster.nodes.items():
        path = ("nodes", name, "host")
        if _is_wildcard(node.host):
            if len(cluster.nodes) > 1:
                yield Problem(
                    path,
                    f"{node.host} is no address that other nodes can reach; write the node's own address",
                )
        elif not _is_address(node.host) and not _HOST_NAME.fullmatch(node.host):
            yield Problem(path, f"{node.host!r} is neither an IP address nor a host name")


def _node_ids(cluster: ClusterConfig) -> Iterator[Problem]:
    owners: dict[int, str] = {}
    for name, node in cluster.nodes.items():
        owner = owners.setdefault(node.id, name)
        if owner != name:
            yield Problem(
                ("nodes", name, "id"),
                f"{node.id} is already the id of nodes.{owner}; give every node its own",
            )


@dataclass(frozen=True, slots=True)
class _Claim:
    """Ports [lo, hi] on a host, and the key that asks for them."""

    host: str
    lo: int
    hi: int
    path: KeyPath

    def overlaps(self, other: _Claim) -> bool:
        meet = not addresses(self.host).isdisjoint(addresses(other.host))
        same_host = meet or _is_wildcard(self.host) or _is_wildcard(other.host)
        return same_host and self.lo <= other.hi and other.lo <= self.hi

    def __str__(self) -> str:
        return str(self.lo) if self.lo == self.hi else f"{self.lo}..{self.hi}"


def _claims(cluster: ClusterConfig, name: str, node: NodeConfig) -> Iterator[_Claim]:
    host, shards = node.host, cluster.shards
    yield _Claim(host, node.client_port, node.client_port, ("nodes", name, "client_port"))
    yield _Claim(host, node.http_port, node.http_port, ("nodes", name, "http_port"))
    yield _Claim(host, node.peer_port, node.peer_port + shards - 1, ("nodes", name, "peer_port"))
    for table, config in cluster.tables.items():
        port = config.port_on(name)
        if port is not None:
            yield _Claim(host, port, port, ("tables", table, "client_port"))


def _ports(cluster: ClusterConfig) -> Iterator[Problem]:
    earlier: list[_Claim] = []
    for name, node in cluster.nodes.items():
        for claim in _claims(cluster, name, node):
            if claim.hi > 65535:
                yield Problem(claim.path, f"{claim} goes past 65535, one port per shard; choose a lower port")
            clash = next((other for other in earlier if claim.overlaps(other)), None)
            if clash is not None:
                yield Problem(claim.path, _clash_message(claim, clash))
            earlier.append(claim)


def _clash_message(claim: _Claim, clash: _Claim) -> str:
    if clash.path == claim.path:
        return (
            f"several nodes of one host would use {claim}; give each its own, by node: {{n1: ..., n2: ...}}"
        )
    owner = ".".join(str(part) for part in clash.path)
    if clash.lo == clash.hi and claim.lo == claim.hi:
        return f"{claim} is already used by {owner}; choose another port"
    mine = f"{claim}, one port per shard," if claim.lo != claim.hi else f"{claim}"
    theirs = f"{clash}, one port per shard, of {owner}" if clash.lo != clash.hi else f"{clash} of {owner}"
    return f"{mine} overlaps {theirs}; choose another port"


def _unix_sockets(cluster: ClusterConfig) -> Iterator[Problem]:
    earlier: list[tuple[str, Path, KeyPath]] = []
    for name, node in cluster.nodes.items():
        asked: list[tuple[Path | None, KeyPath]] = [(node.client_socket, ("nodes", name, "client_socket"))]
        for table, config in cluster.tables.items():
            asked.append((config.socket_on(name), ("tables", table, "client_socket")))
        for path, key in asked:
            if path is None:
                continue
            if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
                yield Problem(
                    key, f"{path} is longer than the {SOCKET_PATH_BYTES_MAX} bytes of a unix socket's path"
                )
            for host, other, owner in earlier:
                if other == path and not addresses(host).isdisjoint(addresses(node.host)):
                    yield Problem(
                        key,
                        f"several nodes of one host would use {path}; give each its own, by node"
                        if owner == key
                        else f"{path} is already used by {'.'.join(map(str, owner))}; choose another path",
                    )
            earlier.append((node.host, path, key))


def _table_nodes(cluster: ClusterConfig) -> Iterator[Problem]:
    for table, config in cluster.tables.items():
        for field, by_node in (("client_port", config.client_port), ("client_socket", config.client_socket)):
            for node in by_node if isinstance(by_node, dict) else ():
                if node not in cluster.nodes:
                    yield Problem(
                        ("tables", table, field),
                        f"there is no node {node}; this cluster has {', '.join(cluster.nodes)}",
                    )


def _tables(cluster: ClusterConfig) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, table in cluster.tables.items():
        for user in table.users:
            owner = owners.setdefault(user, name)
            if owner != name:
                yield Problem(
                    ("tables", name, "users"),
                    f"{user} means tables.{owner} already; name a user in one table",
                )
        reason = table_name_problem(name)
        if reason:
            yield Problem(("tables", name), reason)
        if table.shard is not None and table.shard > cluster.shards:
            yield Problem(
                ("tables", name, "shard"),
                f"there is no shard {table.shard}; this cluster has shards 1 to {cluster.shards}",
            )


def _timing(cluster: ClusterConfig) -> Iterator[Problem]:
    raft, supervisor = cluster.raft, cluster.supervisor
    if raft.election_ticks <= raft.heartbeat_ticks:
        yield Problem(
            ("raft", "election_ticks"),
            f"{raft.election_ticks} is not above heartbeat_ticks ({raft.heartbeat_ticks}): followers would "
            f"campaign against a living leader; raise it",
        )
    if supervisor.backoff_max_ms < supervisor.backoff_min_ms:
        yield Problem(
            ("supervisor", "backoff_max_ms"),
            f"{supervisor.backoff_max_ms} is below backoff_min_ms ({supervisor.backoff_min_ms}); raise it",
        )


def _follows(cluster: ClusterConfig) -> Iterator[Problem]:
    follows = cluster.follows
    if follows is None:
        return
    if follows.cluster == cluster.cluster:
        yield Problem(("follows", "cluster"), "a cluster can't follow itself; name the leader cluster")
    for position, endpoint in enumerate(follows.endpoints):
        port = endpoint.rpartition(":")[2]
        if not _ENDPOINT.fullmatch(endpoint) or not 1 <= int(port) <= 65_535:
            yield Problem(("follows", "endpoints", position), f"{endpoint!r} is not host:port")
        elif follows.tls is None and not cluster.insecure and not is_loopback(host_of(endpoint)):
            yield Problem(
                ("follows", "endpoints", position),
                f"{endpoint} is reached over a network, and there is no follows.tls; write it, or insecure: true to do"
                " without",
            )
    if follows.tls is not None and (follows.tls.cert is None) != (follows.tls.key is None):
        yield Problem(("follows", "tls"), "cert and key come together; write both, or neither")


def host_of(endpoint: str) -> str:
    """Of host:port."""
    return endpoint.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _client_tls(cluster: ClusterConfig) -> Iterator[Problem]:
    client = cluster.tls.client
    if client is None:
        return
    path = ("tls", "client")
    if client.client_cert_auth and client.ca is None:
        yield Problem(
            (*path, "client_cert_auth"),
            "there is nothing to check certificates against; name the authority as ca",
        )
    if client.ca is not None and not client.client_cert_auth:
        yield Problem(
            (*path, "ca"), "no certificate is asked for; write client_cert_auth: true, or remove ca"
        )
    for key in ("allowed_cn", "allowed_hostname"):
        if getattr(client, key) is not None and not client.client_cert_auth:
            yield Problem((*path, key), "no certificate is asked for; write client_cert_auth: true and ca")
    if client.allowed_cn is not None and client.allowed_hostname is not None:
        yield Problem((*path, "allowed_hostname"), "allowed_cn is there, too; choose one")


def _exposure(cluster: ClusterConfig) -> Iterator[Problem]:
    if cluster.insecure:
        return
    missing = [f"tls.{half}" for half in ("client", "peer") if getattr(cluster.tls, half) is None]
    for name, node in cluster.nodes.items():
        if missing and not node.is_loopback:
            yield Problem(
                ("nodes", name, "host"),
                f"{node.host} can be reached by others, and there is no {' and no '.join(missing)}; `boathouse tls "
                f"init` and `boathouse keygen` make what they need, or write insecure: true to do without",
            )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_wildcard(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def _are(count: int, noun: str) -> str:
    return f"is 1 {noun}" if count == 1 else f"are {count} {noun}s"
