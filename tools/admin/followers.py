"""Clusters that have followed this one, as its shards remember them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from coordinator.replication.leader import reason_of
from coordinator.replication.local import LocalCluster
from proto import errors
from proto.internal.curve import BadKeyFile

if TYPE_CHECKING:
    from config import ClusterConfig
    from coordinator.replication.followers import Forgotten


class NotForgotten(Exception):
    """It is not, or not wholly; says why, and what to do."""


async def forget(cluster: ClusterConfig, follower: str) -> list[str]:
    """The tables for which nothing is kept any more on behalf of that cluster. Raises NotForgotten."""
    try:
        with closing(LocalCluster.of_any_node(cluster)) as local:
            forgotten = await local.forget_follower(follower)
    except BadKeyFile as error:
        raise NotForgotten(str(error)) from None
    except errors.BoathouseError as error:
        raise NotForgotten(
            f"which tables there are can't be read ({reason_of(error)}); nothing was done: run it again"
        ) from None
    return all_of(forgotten, cluster.cluster, follower)


def all_of(forgotten: Forgotten, cluster: str, follower: str) -> list[str]:
    """Raises NotForgotten unless there was something, and all of it is done."""
    if forgotten.failed:
        why = "; ".join(f"{name}: {reason}" for name, reason in forgotten.failed.items())
        done = f", but is in {', '.join(forgotten.tables)}" if forgotten.tables else ""
        raise NotForgotten(
            f"cluster {follower} may not be forgotten in {', '.join(forgotten.failed)}{done} ({why}). Run it again: it "
            "goes on where it ended, and says that no table is followed any more if nothing was left to do"
        )
    if not forgotten.tables:
        raise NotForgotten(f"no table of cluster {cluster} is followed by a cluster {follower} any more")
    return forgotten.tables
