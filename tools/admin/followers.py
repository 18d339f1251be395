"""Clusters that have followed this one, as its shards remember them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from coordinator.replication.local import LocalCluster
from proto import errors
from proto.internal.curve import BadKeyFile

if TYPE_CHECKING:
    from config import ClusterConfig


class NotForgotten(Exception):
    """It is not, or not wholly; says why, and what to do."""


async def forget(cluster: ClusterConfig, follower: str) -> list[str]:
    """The tables for which nothing is kept any more on behalf of that cluster. Raises NotForgotten."""
    try:
        with closing(LocalCluster.of_any_node(cluster)) as local:
            followed = await local.forget_follower(follower)
    except BadKeyFile as error:
        raise NotForgotten(str(error)) from None
    except errors.BoathouseError as error:
        raise NotForgotten(
            f"cluster {follower} is not forgotten in all tables ({type(error).__name__}: {error.detail}); run it again"
        ) from None
    if not followed:
        raise NotForgotten(f"no table of cluster {cluster.cluster} is followed by a cluster {follower}")
    return followed
