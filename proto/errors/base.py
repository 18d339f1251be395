"""What every error says of itself that crosses a process boundary."""

from __future__ import annotations

import enum
from typing import ClassVar


class Retry(enum.Enum):
    """Who may repeat a request that failed, and where."""

    NOBODY = "nobody"
    CALLER = "caller, later"
    OTHER_REPLICA = (
        "the coordinator, at the shard's leader, or for a read that may be stale at any other replica"
    )
    SAME_REQUEST_ID = "the coordinator, with the same request id"
    OTHER_SHARD = "the coordinator, with the same request id, at the shard that the error names"
    SOON = "the coordinator, with the same request id, at the same shard, in a moment"


class BoathouseError(Exception):
    """Base of all errors that travel between processes. `detail` is for the reader and may be empty."""

    frame_code: ClassVar[int]
    definite: ClassVar[bool] = True
    retry: ClassVar[Retry] = Retry.NOBODY

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
