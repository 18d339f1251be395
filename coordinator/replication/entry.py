"""The process around a replicator: its spec from the supervisor, its signals, its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import uvloop

from config.process.async_child import beat_until, watch_for_the_end
from config.process.child import fail, read_spec, refuse_optimized, set_up_logging
from config.process.memory import collect_rarely
from config.tls_files import TlsUnusable
from config.token_files import BadTokenFile
from coordinator.replication.replicator import Replicator
from proto.internal.curve import BadKeyFile

if TYPE_CHECKING:
    from config.process.spec import ProcessSpec


async def _replicate(spec: ProcessSpec) -> None:
    """Replicate until SIGTERM, or until the supervisor is gone."""
    stopping = watch_for_the_end()
    try:
        replicator = Replicator(spec.cluster, spec.cluster.node(spec.node))
    except (TlsUnusable, BadTokenFile, BadKeyFile) as error:
        fail(str(error))
    replicator.start()
    await beat_until(stopping, replicator.check)
    await replicator.stop()


def main() -> None:
    """Read the spec, replicate, exit 0; exit 1 with one sentence if it can't."""
    collect_rarely()
    refuse_optimized()
    set_up_logging()
    spec = read_spec("replicator")
    if spec.cluster.follows is None:
        fail(f"cluster {spec.cluster.cluster} follows no other: there is nothing to replicate")
    uvloop.run(_replicate(spec))
