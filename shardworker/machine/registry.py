"""Every method that the state machine can carry out. A new one is an entry in its API's module, and in
`proto.methods.COMMANDS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from proto.methods import LEVEL
from shardworker.machine.backup import commands as backup
from shardworker.machine.etcd import auth_commands as auth
from shardworker.machine.etcd import commands as etcd
from shardworker.machine.internal import commands as internal
from shardworker.machine.moves import commands as moves
from shardworker.machine.regatta import commands as regatta
from shardworker.machine.replication import commands as replication

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.machine.handler import Handler


@dataclass(frozen=True, slots=True)
class Registry:
    """What a build can carry out. There is one a build; simulations run replicas of several builds at once."""

    level: int
    """The newest machine level that it can apply."""
    handlers: Mapping[int, Handler[Any]]


REGISTRY: Final = Registry(
    LEVEL,
    {
        **internal.HANDLERS,
        **etcd.HANDLERS,
        **auth.HANDLERS,
        **regatta.HANDLERS,
        **replication.HANDLERS,
        **backup.HANDLERS,
        **moves.HANDLERS,
    },
)
"""This build's."""
