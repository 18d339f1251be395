"""A table's own port and unix socket: an etcd client that knows of no tables finds its table there."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING

import grpc

from proto.etcd import rpc_pb2 as etcd
from tests.stubs import stub
from tests.unit.coordinator.running import in_loop, make_config, refused, running
from tests.waiting import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig

PUT = etcd.PutRequest(key=b"k", value=b"v")
GET = etcd.RangeRequest(key=b"k")


def with_listeners(folder: Path) -> ClusterConfig:
    config = make_config(folder, nodes=1, shards=1)
    users = {"client_port": free_ports(1)[0], "client_socket": str(folder / "users.sock")}
    nodes = {"n1": config.model_dump()["nodes"]["n1"] | {"client_socket": str(folder / "n1.sock")}}
    tables = {"default": {}, "users": users, "gone": {"client_port": free_ports(1)[0]}}
    return type(config).model_validate({**config.model_dump(), "tables": tables, "nodes": nodes})


async def http_put(port: int, path: str, body: dict[str, str], header: str = "") -> tuple[str, str]:
    """The status line and the body of a POST."""
    text = json.dumps(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}"
        f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
    )
    head, _, answer = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return head.split("\r\n")[0], answer


@in_loop
async def test_each_listener_means_its_table(tmp_path: Path) -> None:
    config = with_listeners(tmp_path)
    users, gone = config.tables["users"], config.tables["gone"]
    async with running(tmp_path, config=config) as cluster:
        places = {
            f"127.0.0.1:{users.port_on('n1')}": b"users",
            f"unix://{users.socket_on('n1')}": b"users",
            f"unix://{config.node('n1').client_socket}": b"default",
        }
        for place, name in places.items():
            async with grpc.aio.insecure_channel(place) as channel:
                kv = stub(channel, etcd, "KV")
                await kv.Put(etcd.PutRequest(key=place.encode(), value=name))
                # A client that names a table gets that one.
                await kv.Put(etcd.PutRequest(key=b"named"), metadata=(("table", "default"),))
        stored = {table.name: set(table.rows) for table in cluster.stores[1].tables.values()}
        for place, name in places.items():
            assert place.encode() in stored[name.decode()]
        assert b"named" in stored["default"]
        assert b"named" not in stored["users"]
        # A table that is deleted is not replaced by another one, silently.
        [gone_id] = [id_ for id_, table in cluster.stores[1].tables.items() if table.name == "gone"]
        del cluster.stores[1].tables[1].rows[b"tables/gone"], cluster.stores[1].tables[gone_id]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gone.port_on('n1')}") as channel:
            answer = await refused(stub(channel, etcd, "KV").Put(PUT))
        assert answer == ("NOT_FOUND", "etcdserver: table not found")


@in_loop
async def test_the_gateway_on_a_tables_port_means_the_table_too(tmp_path: Path) -> None:
    config = with_listeners(tmp_path)
    port = config.tables["users"].port_on("n1")
    assert port is not None
    async with running(tmp_path, config=config) as cluster:
        for key, header in {"a": "", "b": "Grpc-Metadata-Table: default\r\n"}.items():
            body = {"key": base64.b64encode(key.encode()).decode()}
            assert (await http_put(port, "/v3/kv/put", body, header))[0] == "HTTP/1.1 200 OK"
        stored = {table.name: set(table.rows) for table in cluster.stores[1].tables.values()}
        assert (b"a" in stored["users"], b"b" in stored["users"], b"b" in stored["default"]) == (
            True, False, True,
        )  # fmt: skip


def urls_of(answer: etcd.MemberListResponse) -> dict[str, list[str]]:
    return {member.name: list(member.clientURLs) for member in answer.members}


@in_loop
async def test_members_are_listed_where_whoever_asks_finds_the_same_table(tmp_path: Path) -> None:
    """An etcd client goes on at the addresses of the members (Sync), and says no more of a table there than here."""
    config = make_config(tmp_path, nodes=3, shards=1)
    ports = free_ports(3)
    paths = {name: str(tmp_path / f"{name}.users") for name in ("n1", "n2", "n3")}
    tables = {
        "default": {},
        "users": {"client_port": dict(zip(paths, ports, strict=True)), "client_socket": paths},
        "jobs": {"client_port": {"n1": free_ports(1)[0]}},
    }
    config = type(config).model_validate({**config.model_dump(), "tables": tables})
    of_nodes = {name: [config.client_url(name)] for name in paths}
    of_users = {name: [f"http://127.0.0.1:{port}"] for name, port in zip(paths, ports, strict=True)}
    jobs = config.tables["jobs"].port_on("n1")
    expected = {
        config.node("n1").client_endpoint: of_nodes,
        f"127.0.0.1:{ports[0]}": of_users,
        f"unix://{paths['n1']}": {name: [f"unix://{path}"] for name, path in paths.items()},
        f"127.0.0.1:{jobs}": {"n1": [f"http://127.0.0.1:{jobs}"], "n2": [], "n3": []},
    }
    async with running(tmp_path, config=config):
        for place, urls in expected.items():
            async with grpc.aio.insecure_channel(place) as channel:
                members = stub(channel, etcd, "Cluster")
                assert urls_of(await members.MemberList(etcd.MemberListRequest())) == urls
                other = await members.MemberList(etcd.MemberListRequest(), metadata=(("table", "default"),))
                assert urls_of(other) == of_nodes, "whoever names a table does so anywhere"
        _, answer = await http_put(ports[0], "/v3/cluster/member/list", {})
        assert {one["name"]: one["clientURLs"] for one in json.loads(answer)["members"]} == of_users
