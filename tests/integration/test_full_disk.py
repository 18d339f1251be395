"""A disk that fills up: writes are refused with etcd's words, reads go on, and space that returns is enough to mend it.

The cluster's folder lies on a small tmpfs in a mount namespace of its own; the test reaches it through /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

import grpc
import pytest

from config.process.names import ProcessName
from proto.etcd import rpc_pb2 as rpc
from tests.integration.cluster import Cluster
from tests.waiting import wait_until
from tools.admin.client import CallFailed

MIB: Final = 1 << 20
DISK_BYTES: Final = 96 * MIB
NO_SPACE: Final = "etcdserver: mvcc: database space exceeded"
COMPACTED: Final = "required revision has been compacted"


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

    def leave(self, free_bytes: int) -> None:
        """Take all but so much."""
        disk = os.statvfs(Path(self._ballast).parent)
        with open(self._ballast, "ab", buffering=0) as ballast:
            ballast.writelines(
                b"\0" * MIB for _ in range((disk.f_bavail * disk.f_frsize - free_bytes) // MIB)
            )

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
        self._compact = self._channel.unary_unary(
            "/etcdserverpb.KV/Compact",
            request_serializer=rpc.CompactionRequest.SerializeToString,
            response_deserializer=rpc.CompactionResponse.FromString,
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

    def delete_all(self) -> None:
        """Delete every key, in a transaction, and compact the table up to there."""
        delete = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
        deleted = self._client.txn(rpc.TxnRequest(success=[rpc.RequestOp(request_delete_range=delete)]))
        self.acknowledged.clear()
        self._compact(rpc.CompactionRequest(revision=deleted.header.revision, physical=True), timeout=30)

    def tries_to_delete(self) -> str:
        """Delete and compact; empty if that was taken, perhaps by an earlier try, else the error's words."""
        try:
            self.delete_all()
        except (grpc.RpcError, CallFailed) as error:
            return "" if COMPACTED in str(error) else str(error)
        return ""

    def tries_to_defragment(self) -> str:
        """Give what is free within the database back to the disk; empty if all of it was, else the error's words."""
        call = self._channel.unary_unary("/etcdserverpb.Maintenance/Defragment", None, None)
        try:
            call(b"", timeout=30)
        except grpc.RpcError as error:
            return str(error)
        return ""

    def read_all(self) -> set[bytes]:
        """Every key there is, by a linearizable read."""
        found = self._client.range(rpc.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True))
        return {pair.key for pair in found.kvs}


def small_cluster(tmp_path: Path, **settings: object) -> Cluster:
    data = tmp_path / "data"
    data.mkdir()
    mount = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "{data}" && exec "$@"'
    return Cluster(
        tmp_path,
        nodes=1,
        shards=1,
        settings=settings,
        launcher=("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"),
    )


def test_who_deletes_and_compacts_may_write_again_though_nobody_else_gives_space_back(
    tmp_path: Path,
) -> None:
    settings = {
        "store": {"disk_free_bytes_min": 16 * MIB, "checkpoint_wal_bytes": MIB},
        "raft": {"log_tail_bytes": MIB, "log_tail_entries": 10},
    }
    with small_cluster(tmp_path, **settings) as cluster, Writer(cluster) as writer:
        cluster.wait_leaders()
        for _ in range(300):
            assert writer.put(b"x" * 100_000) == ""
        SmallDisk(cluster).leave(12 * MIB)
        wait_until(
            lambda: writer.put() == NO_SPACE, timeout_s=30, what="a write to be refused for lack of space"
        )
        writer.delete_all()
        wait_until(lambda: writer.put() == "", timeout_s=30, what="a write to be taken again")
        assert not cluster.ask(1)[ProcessName.replica("n1", 1)].no_space
        assert writer.read_all() == set(writer.acknowledged)


def test_who_deletes_is_served_though_the_disk_takes_nothing_any_more(tmp_path: Path) -> None:
    """What each replica has held back is enough to delete and to compact; what that frees can be given back."""
    settings = {
        "store": {"disk_free_bytes_min": 8 * MIB, "checkpoint_wal_bytes": MIB, "spare_bytes": 8 * MIB},
        "raft": {"log_tail_bytes": MIB, "log_tail_entries": 10},
    }
    with small_cluster(tmp_path, **settings) as cluster, Writer(cluster) as writer:
        cluster.wait_leaders()
        for _ in range(300):
            assert writer.put(b"x" * 100_000) == ""
        SmallDisk(cluster).fill()
        wait_until(
            lambda: writer.put() == NO_SPACE, timeout_s=30, what="a write to be refused for lack of space"
        )
        wait_until(
            lambda: writer.tries_to_delete() == "",
            timeout_s=30,
            what="what is deleted to be taken all the same",
        )
        wait_until(
            lambda: writer.tries_to_defragment() == "", timeout_s=30, what="free pages to be given back"
        )
        wait_until(lambda: writer.put() == "", timeout_s=30, what="a write to be taken again")
        assert writer.read_all() == set(writer.acknowledged)


@pytest.mark.parametrize(
    "disk_free_bytes_min", [32 * MIB, 1], ids=["refused in time", "refused by the disk itself"]
)
def test_writes_are_refused_and_reads_go_on_until_space_returns(
    tmp_path: Path, disk_free_bytes_min: int
) -> None:
    cluster = small_cluster(tmp_path, store={"disk_free_bytes_min": disk_free_bytes_min})
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
        assert b"n1/shard-1: its disk is nearly full: writes are refused" in cluster.cli("status").stdout
        assert writer.read_all() >= set(writer.acknowledged)

        disk.free()
        wait_until(lambda: writer.put() == "", timeout_s=30, what="a write to be taken again")
        assert not cluster.ask(1)[ProcessName.replica("n1", 1)].no_space
        assert writer.read_all() >= set(writer.acknowledged)
