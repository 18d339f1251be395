"""Which replicas a node is to run: what its folder remembers of its shards' members, and what its coordinators hear."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from config import members

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from config import ClusterConfig


class Holdings:
    """Of one node."""

    def __init__(self, cluster: ClusterConfig, node: str) -> None:
        self._file = cluster
        self._node = node
        self._members = members.newest_here(cluster)
        self.cluster = members.with_members(cluster, self._members)
        """As it is by all that is known."""

    def heard(self, event: Mapping[str, Any]) -> bool:
        """A coordinator tells who holds a shard. Whether that is news; then it is on disk. What can't be kept is told
        again when a coordinator starts."""
        try:
            shard, told = int(event["shard"]), members.from_event(event)
        except (KeyError, TypeError, ValueError):
            return False
        known = self._members.get(shard)
        if known is not None and told.is_older_than(known):
            return False
        self._members[shard] = told
        if known is not None and (known.nodes, known.keys) == (told.nodes, told.keys):
            return False
        if not self.cluster.holders and not self._has_changed():
            return False
        try:
            members.write(self._file, self._node, self._members)
        except OSError as error:
            import structlog  # here, since `up` starts sooner without it

            structlog.get_logger().error(
                "who holds which shard can't be remembered", node=self._node, reason=str(error)
            )
        self.cluster = members.with_members(self._file, self._members)
        return True

    def _has_changed(self) -> bool:
        """Whether any shard has other members than it was founded with, or they are elsewhere."""
        return any(
            dict(found.nodes) != {node.id: "" for node in self._file.founders(shard)}
            for shard, found in self._members.items()
        )


def retire(replica_folder: Path) -> None:
    """Put what a replica held aside that belongs to its shard no longer: in its place, of an earlier one, there is room
    for another. Its data is that of the others."""
    for path in (replica_folder, replica_folder.with_name(f"{replica_folder.name}.json")):
        if path.exists():
            aside = path.with_name(f"removed-{path.name}")
            _remove(aside)
            os.rename(path, aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        for inside in path.iterdir():
            _remove(inside)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
