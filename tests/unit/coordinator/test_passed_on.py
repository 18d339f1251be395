"""What another cluster passes on to this one, and means for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.api.call import ANYBODY
from coordinator.api.local_call import LocalCall
from coordinator.catalog.identities import OWN_S, Meant
from coordinator.replication.token_key import MEANT_KEY
from coordinator.services.passed_on import for_meant_cluster
from proto import errors
from proto.methods import METHODS
from tests.unit.coordinator.running import in_loop

if TYPE_CHECKING:
    from coordinator.api.call import Call

PATHS = (
    *(f"/etcdserverpb.KV/{method}" for method in ("Put", "DeleteRange", "Txn", "Compact")),
    *(
        f"/etcdserverpb.Lease/Lease{method}"
        for method in ("Grant", "Revoke", "KeepAlive", "TimeToLive", "Leases")
    ),
    *(f"/regatta.v1.KV/{method}" for method in ("Put", "DeleteRange", "Txn")),
)


class Cluster:
    """Identities of one that was made anew at some time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.identity = "abc"
        self.asked = 0

    async def own(self) -> str:
        self.asked += 1
        return self.identity


def call(**metadata: str) -> Any:
    return LocalCall((b"body",), metadata=metadata, deadline=0.0, peer="test", identity=ANYBODY)


async def answer(_call: Call) -> bytes:
    return b"done"


@in_loop
async def test_only_the_cluster_that_is_meant_takes_it() -> None:
    cluster = Cluster()
    meant = Meant(cluster, lambda: cluster.now)
    for path in PATHS:
        handler: Any = for_meant_cluster(path, answer, meant)
        assert await handler(call()) == b"done", "a client's"
        assert await handler(call(**{MEANT_KEY: "abc"})) == b"done"
        with pytest.raises(errors.OtherCluster, match="its identity is abc, and not def"):
            await handler(call(**{MEANT_KEY: "def"}))
    assert cluster.asked == 1
    cluster.identity, cluster.now = "def", OWN_S
    assert await handler(call(**{MEANT_KEY: "def"})) == b"done"


def test_reads_are_not_looked_at() -> None:
    meant: Any = None
    for path in ("/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch", "/regatta.v1.KV/Range"):
        assert path in METHODS
        assert for_meant_cluster(path, answer, meant) is answer
