"""Every method that the state machine can carry out. A new one is an entry in its API's module, and in
`proto.methods.COMMANDS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shardworker.machine.etcd import commands as etcd
from shardworker.machine.internal import commands as internal
from shardworker.machine.regatta import commands as regatta

if TYPE_CHECKING:
    from shardworker.machine.handler import Handler

HANDLERS: Final[dict[int, Handler[Any]]] = {**internal.HANDLERS, **etcd.HANDLERS, **regatta.HANDLERS}
