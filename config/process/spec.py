"""What a child process is told by its supervisor."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator

from config.models import ClusterConfig
from config.process.names import ProcessName, kind_named


class ProcessSpec(BaseModel):
    """All a child process needs to know, as one line of JSON that the supervisor writes to its stdin."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    cluster: ClusterConfig
    kind: str
    """Kind.module of the process."""
    node: str
    number: int | None = None
    """Its number within kind and node: the shard of a replica; None if it is alone."""
    sockets: dict[str, int] = {}
    """Listening sockets that it inherits, by name (listeners.py): descriptors that are open when it starts. They are
    bound and listening already, other processes may accept from them too, and they outlive it."""

    @model_validator(mode="after")
    def _check(self) -> ProcessSpec:
        if self.node not in self.cluster.nodes:
            raise ValueError(f"the cluster has no node {self.node}")
        try:
            kind = kind_named(self.kind)
        except KeyError:
            raise ValueError(f"there is no kind of process named {self.kind}") from None
        if self.number not in kind.numbers(self.cluster, self.node):
            raise ValueError(
                f"node {self.node} has no process {ProcessName(self.node, kind, self.number).local}"
            )
        return self

    @property
    def name(self) -> ProcessName:
        """What the process is called."""
        return ProcessName(self.node, kind_named(self.kind), self.number)

    @property
    def shard(self) -> int | None:
        """The shard of a replica; None for every other kind."""
        return self.name.shard
