"""Who may copy tables of this cluster: where its file names tokens, whoever shows one of them."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import structlog

from config.changed_files import ChangedFiles
from config.token_files import BadTokenFile, read_tokens
from coordinator.replication.token_key import TOKEN_KEY
from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from config.access import ReplicationConfig
    from coordinator.api.call import Call

log = structlog.get_logger()


class Gate:
    """Before the methods of replication.v1."""

    def __init__(self, config: ReplicationConfig, clock: Callable[[], float]) -> None:
        """config: of this node. Raises BadTokenFile."""
        self._file = config.token_file
        self._changes = ChangedFiles((config.token_file,), clock)
        self._tokens = () if self._file is None else read_tokens(self._file)

    @property
    def asks(self) -> bool:
        """Whether nobody gets by without a token."""
        return self._file is not None

    def check(self, call: Call) -> None:
        """Raises BadReplicationToken unless the call may go on."""
        if self._file is None:
            return
        if self._changes.changed():
            self._renew()
        shown = call.metadata.get(TOKEN_KEY, "").encode()
        if not any(hmac.compare_digest(shown, token.encode()) for token in self._tokens):
            why = ", and the one shown is none of this cluster's (replication.token_file)" if shown else ""
            raise errors.BadReplicationToken(TOKEN_KEY + why)

    def _renew(self) -> None:
        assert self._file is not None
        try:
            self._tokens = read_tokens(self._file)
        except BadTokenFile as error:
            log.error("new tokens of follower clusters are refused, the last ones stay", reason=str(error))
        else:
            log.info("new tokens of follower clusters are used")
