"""A disk that fills up: writes are refused with etcd's words, reads go on, and space that returns is enough to mend it.

The cluster's folder lies on a small tmpfs in a mount namespace of its own; the test reaches it through /proc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import grpc
import pytest

from config.process.names import ProcessName
from proto.etcd import rpc_pb2 as rpc
from tests.integration.cluster import Cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

MIB: Final = 1 << 20
DISK_BYTES: Final = 96 * MIB
NO_SPACE: Final = "etcdserver: mvcc: database space exceeded"


class SmallDisk:
    """The file system of a running cluster, as the cluster sees it."""

    def __init__(self, cluster: Cluster) -> None:
        worker = cluster.pid(ProcessName.replica("n1", 1))
        self._ballast = f"/proc/{worker}/root{cluster.config.data_dir}/ballast"

    def fill(self) -> None:
        """Take everything that is left, to the last block."""
        with open(self._ballast, "ab", buffering=0) as ballast:
            for block in (MIB, 4096):
                while True:
                    try:
                        if ballast.write(b"\0" * block) < block:
                            break
                    except OSError:
                        break

    def free(self) -> None:
        """Give it back."""
        with open(self._ballast, "wb"):
            pass


class Writer:
    """Puts numbered keys and says how the last one ended."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = cluster.client(timeout_s=1)
        self._channel = grpc.insecure_channel(cluster.endpoint("n1"))
        self._put = self._channel.unary_unary(
            "/etcdserverpb.KV/Put",
            request_serializer=rpc.PutRequest.SerializeToString,
            response_deserializer=rpc.PutResponse.FromString,
        )
        self.acknowledged: list[bytes] = []
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()
        self._channel.close()

    def put(self, value: bytes = b"x" * 20_000) -> str:
        """One put; empty if it was acknowledged, else the error's words."""
        self._number += 1
        key = b"k%06d" % self._number
        try:
            self._put(rpc.PutRequest(key=key, value=value), timeout=10)
        except grpc.RpcError as error:
            return str(error.details())
        self.acknowledged.append(key)
        return ""

    def read_all(self) -> set[bytes]:
        """Every key there is, by a linearizable read."""
        found = self._client.range(rpc.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True))
        return {pair.key for pair in found.kvs}


@pytest.mark.parametrize(
    "disk_free_bytes_min", [32 * MIB, 1], ids=["refused in time", "refused by the disk itself"]
)
def test_writes_are_refused_and_reads_go_on_until_space_returns(
    tmp_path: Path, disk_free_bytes_min: int
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    mount = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "{data}" && exec "$@"'
    cluster = Cluster(
        tmp_path,
        nodes=1,
        shards=1,
        settings={"store": {"disk_free_bytes_min": disk_free_bytes_min}},
        launcher=("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"),
    )
    with cluster, Writer(cluster) as writer:
        cluster.wait_leaders()
        disk = SmallDisk(cluster)
        for _ in range(10):
            assert writer.put() == ""

        disk.fill()
        wait_until(
            lambda: writer.put() == NO_SPACE, timeout_s=30, what="a write to be refused for lack of space"
        )
        assert cluster.ask(1)[ProcessName.replica("n1", 1)].no_space
        assert writer.read_all() >= set(writer.acknowledged)

        disk.free()
        wait_until(lambda: writer.put() == "", timeout_s=30, what="a write to be taken again")
        assert not cluster.ask(1)[ProcessName.replica("n1", 1)].no_space
        assert writer.read_all() >= set(writer.acknowledged)
