"""The cluster file as models. Frozen, and unknown keys are errors: a typo fails at start, not at night.

A field's docstring is its documentation; sizes are bytes and times milliseconds where the name says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from config import checks, paths, placement
from config.access import (
    AuthConfig,
    ClientTlsConfig,
    FollowsConfig,
    ReplicationConfig,
    TlsConfig,
    TokensConfig,
)
from config.compaction import Compaction, CompactionConfig
from config.problems import Inconsistent
from config.tuning import LimitsConfig, RaftConfig, StoreConfig, SupervisorConfig, TracingConfig, WatchConfig
from config.values import (
    AbsolutePath,
    History,
    Model,
    NumberedKey,
    Port,
    PortsByNode,
    Quota,
    SocketsByNode,
    empty_if_none,
)


class NodeConfig(Model):
    """One host's set of processes."""

    name: str
    """The key in the file; never written inside the node."""
    id: Annotated[int, Field(ge=1, lt=2**31)]
    """Number of the node in the Raft groups. Default: its position in the file, from 1. Write it if lines may
    move: data remembers it."""
    host: str = "127.0.0.1"
    """Address that all ports of the node bind to and that others reach it by. Anything but loopback needs both halves
    of `tls`, or `insecure: true`."""
    client_port: Port = 2379
    """gRPC, both APIs."""
    http_port: Port = 8079
    """HTTP: /metrics for Prometheus, /healthz."""
    peer_port: Port = 7101
    """First of the ports between nodes, one per shard: shard s listens on peer_port + s - 1."""
    client_socket: AbsolutePath | None = None
    """A unix socket beside client_port, for clients on this host: etcdctl --endpoints unix:///run/boathouse/n1"""
    client_socket_mode: Literal["0600", "0660"] = "0600"
    """Of all unix sockets of the node's clients: "0600" lets in this user alone, "0660" its group too."""
    joins: bool = False
    """The node came, or comes, to a cluster that was there: it holds what `boathouse node add` or `etcdctl member add`
    gives it, and nothing before. It needs an `id` that no other node ever had."""
    coordinators: Annotated[int, Field(ge=1, le=64)] = 1
    """Coordinator processes, which share client_port and http_port. One uses about one core; more use more."""

    @property
    def is_loopback(self) -> bool:
        """Whether `boathouse up FILE` starts this node without being told to."""
        return checks.is_loopback(self.host)

    @property
    def client_endpoint(self) -> str:
        """host:port of the gRPC server."""
        return f"{_in_url(self.host)}:{self.client_port}"

    @property
    def http_endpoint(self) -> str:
        """host:port of the HTTP pages."""
        return f"{_in_url(self.host)}:{self.http_port}"


class TableConfig(Model):
    """A table to make when it is not there and was not deleted. Its shard, history, type and owner count only then;
    quota and compaction are taken from here at every start, from the file of the node that leads the table's shard."""

    shard: Annotated[int, Field(ge=1)] | None = None
    """Shard that holds it. Default: chosen by the catalog when the table is created."""
    history: History = "all"
    """Revisions kept readable: all, none (only the newest), or a number of them."""
    type: Literal["replicated", "local"] = "replicated"
    """local: follower clusters leave it alone."""
    owner: Annotated[str, Field(max_length=255)] = ""
    """Whose it is, for people: shown in listings."""
    client_port: PortsByNode = None
    """A port for clients of this table alone, who then need not name it: on every node, or by node, {n1: 2479}."""
    client_socket: SocketsByNode = None
    """Likewise a unix socket: on every node, or by node."""
    users: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Clients that name no table, and come by no port of one, mean this one if they log in by such a name, or it is the
    common name of their certificate."""

    def port_on(self, node: str) -> int | None:
        """Its port on a node, if it has one there."""
        return self.client_port.get(node) if isinstance(self.client_port, dict) else self.client_port

    def socket_on(self, node: str) -> Path | None:
        """Its unix socket on a node, if it has one there."""
        return self.client_socket.get(node) if isinstance(self.client_socket, dict) else self.client_socket

    quota: Quota | None = None
    """What the table may hold: none, or bytes, also as 2GiB. Over it, what makes it grow is refused. Default: what it
    was created with (boathouse table create --quota), else limits.table_quota."""
    compaction: Compaction | None = None
    """What is compacted without being asked, or none. Default: limits.table_compaction."""


class ClusterConfig(Model):
    """One cluster, as every node of it sees it."""

    cluster: str = "boathouse"
    """Name of the cluster; data and messages of another name are refused."""
    data_dir: AbsolutePath = Path("boathouse-data")
    """Holds one folder per node. A relative path counts from the working directory."""
    nodes: dict[str, NodeConfig]
    """All nodes, by name."""
    shards: Annotated[int, Field(ge=1, le=256)] = 2
    """Raft groups. May grow once there is data, never shrink."""
    replicas: Annotated[int, Field(ge=1, le=7)]
    """Copies of each shard, an odd number. Default: 3 with three or more nodes, else 1."""
    tables: dict[str, Annotated[TableConfig, BeforeValidator(empty_if_none)]] = Field(
        default_factory=lambda: {"default": TableConfig()}
    )
    """Tables to make when they are not there. Default: one named default, which etcd clients use unless told
    otherwise."""
    raft: RaftConfig = RaftConfig()
    store: StoreConfig = StoreConfig()
    limits: LimitsConfig = LimitsConfig()
    watch: WatchConfig = WatchConfig()
    auth: AuthConfig = AuthConfig()
    tokens: TokensConfig = TokensConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    follows: FollowsConfig | None = None
    replication: ReplicationConfig = ReplicationConfig()
    tls: TlsConfig = TlsConfig()
    tracing: TracingConfig | None = None
    """Where traces go. Default: there are none."""
    holders: dict[NumberedKey, dict[NumberedKey, str]] = Field(default_factory=dict)
    """Not for the file: who holds which shard by now (config/members.py)."""
    member_keys: dict[NumberedKey, str] = Field(default_factory=dict)
    """Not for the file: public keys of nodes that came later, by id; empty if nobody has said it."""
    insecure: bool = False
    """Allows hosts other than loopback without `tls`: whoever reaches the ports reads and writes everything."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        return _with_derived_defaults(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _check(self) -> ClusterConfig:
        problems = list(checks.problems(self))
        if problems:
            raise Inconsistent(problems)
        return self

    def table_quota(self, table: str) -> int | None:
        """What the table may hold, 0 = as much as the disk; None if nothing is said of this table."""
        config = self.tables.get(table)
        return None if config is None else config.quota

    def table_compaction(self, table: str) -> CompactionConfig | None:
        """What is compacted of the table without being asked."""
        config = self.tables.get(table)
        own = None if config is None else config.compaction
        said = self.limits.table_compaction if own is None else own
        return None if said == "none" else said

    @property
    def compacts_tables(self) -> bool:
        """Whether any table may be compacted without being asked."""
        return self.limits.table_compaction != "none" or any(
            table.compaction not in (None, "none") for table in self.tables.values()
        )

    @property
    def cluster_id(self) -> int:
        """etcd's cluster id: the same on all nodes, never 0."""
        return _digest("cluster", self.cluster)

    def member_id(self, node: str | int) -> int:
        """etcd's member id of a node, never 0."""
        return _digest("member", self.cluster, self.node(node).name)

    def group(self, shard: int) -> int:
        """Envelope.group: tells this cluster's shard from any other on a clashing port."""
        return _digest("group", self.cluster, str(shard))

    def node(self, name_or_id: str | int) -> NodeConfig:
        """The node of that name or numeric id. Raises KeyError if the cluster has none."""
        if isinstance(name_or_id, str):
            return self.nodes[name_or_id]
        for node in self.nodes.values():
            if node.id == name_or_id:
                return node
        raise KeyError(name_or_id)

    def founders(self, shard: int) -> tuple[NodeConfig, ...]:
        """The nodes that a shard began with, in placement order."""
        by_id = sorted((node for node in self.nodes.values() if not node.joins), key=lambda node: node.id)
        return placement.rotation(by_id, shard, min(self.replicas, len(by_id)))

    def replica_ids(self, shard: int) -> tuple[int, ...]:
        """The ids of the nodes that hold a shard; of some the file may say nothing."""
        held = self.holders.get(shard)
        return tuple(node.id for node in self.founders(shard)) if held is None else tuple(sorted(held))

    def replica_nodes(self, shard: int) -> tuple[NodeConfig, ...]:
        """The nodes of the file that hold a shard, in placement order."""
        by_id = {node.id: node for node in self.nodes.values()}
        return tuple(by_id[node] for node in self.replica_ids(shard) if node in by_id)

    def shards_of(self, node: str | int) -> tuple[int, ...]:
        """The shards that have a replica on a node, ascending."""
        name = self.node(node).name
        return tuple(
            shard
            for shard in range(1, self.shards + 1)
            if any(holder.name == name for holder in self.replica_nodes(shard))
        )

    def client_tls(self, node: str | int) -> ClientTlsConfig | None:
        """TLS of a node's client_port and http_port; None = in the clear."""
        client = self.tls.client
        return None if client is None else client.of_node(self.node(node).name)

    def client_url(self, node: str | int) -> str:
        """Where clients of both APIs reach a node, as members are listed to them."""
        scheme = "http" if self.tls.client is None else "https"
        return f"{scheme}://{self.node(node).client_endpoint}"

    def worker_tcp(self, node: str | int, shard: int) -> str:
        """Where peers and coordinators of other nodes reach a replica."""
        number = self.nodes[node].id if isinstance(node, str) else node
        host, _, port = self.holders.get(shard, {}).get(number, "").rpartition(":")
        if not port:
            there = self.node(node)
            host, port = _in_url(there.host), str(there.peer_port)
        # ZeroMQ binds to addresses and interface names only, it does not look up "localhost".
        host = "127.0.0.1" if host.lower() == "localhost" else host
        return f"tcp://{host}:{int(port) + shard - 1}"

    def worker_ipc(self, node: str | int, shard: int) -> str:
        """Where the coordinator of the same node reaches a replica."""
        return f"ipc://{self.worker_socket(node, shard)}"

    def worker_socket(self, node: str | int, shard: int) -> Path:
        """The unix socket of worker_ipc."""
        return self.runtime_dir / f"{self.node(node).name}.{shard}"

    def control_socket(self, node: str | int) -> Path:
        """Where the supervisor of a node answers the CLI."""
        return self.runtime_dir / f"{self.node(node).name}.control"

    @property
    def runtime_dir(self) -> Path:
        """Folder of all sockets; the supervisor makes it, for this user alone."""
        return paths.runtime_dir(self.data_dir)

    def node_dir(self, node: str | int) -> Path:
        """Everything a node keeps on disk."""
        return self.data_dir / self.node(node).name

    def replica_dir(self, node: str | int, shard: int) -> Path:
        """Everything one replica keeps on disk."""
        return self.node_dir(node) / f"shard-{shard}"


def _with_derived_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """What can only be said once the nodes are known: their names, their ids, the number of replicas."""
    filled = dict(data)
    nodes = filled.get("nodes")
    if isinstance(nodes, Mapping):
        filled["nodes"] = {
            name: {"name": name, "id": position, **(empty_if_none(node))}  # type: ignore[dict-item]
            if isinstance(node, Mapping | None)
            else node
            for position, (name, node) in enumerate(nodes.items(), start=1)
        }
    filled.setdefault("replicas", 3 if _founding_count(nodes) >= 3 else 1)
    return filled


def _founding_count(nodes: object) -> int:
    if not isinstance(nodes, Mapping):
        return 0
    return sum(not (isinstance(node, Mapping) and node.get("joins") is True) for node in nodes.values())


def _digest(*parts: str) -> int:
    """A stable 64-bit number for these words, never 0 (0 means "none" on the wire)."""
    text = "\0".join(parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") or 1


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
