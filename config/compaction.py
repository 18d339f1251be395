"""What a table forgets by itself, as the cluster file says: of one table, or of all that say nothing of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, model_validator
from pydantic_core import PydanticCustomError

from config.values import Model, Retention, seconds_of


class CompactionConfig(Model):
    """What a table forgets by itself, as etcd's --auto-compaction-mode and -retention."""

    mode: Literal["revision", "periodic"]
    """revision: every five minutes all but the newest `retention` revisions. periodic: what is older than `retention`,
    every hour, or as often as `retention` says if that is shorter."""
    retention: Retention
    """A number of revisions; or a time, as 90s, 30m or 1h."""

    @model_validator(mode="before")
    @classmethod
    def _fits_mode(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            is_time = isinstance(data.get("retention"), str)
            if is_time != (data.get("mode") == "periodic"):
                raise PydanticCustomError(
                    "retention",
                    "retention is a number for mode revision, and a time as 30m or 1h for periodic",
                )
        return data

    @property
    def retention_s(self) -> int:
        """Of mode periodic."""
        seconds = seconds_of(str(self.retention))
        assert seconds is not None, "the model has checked it"
        return seconds


def _kind_of_compaction(value: object) -> str | None:
    if isinstance(value, Mapping | CompactionConfig):
        return "rule"
    return "none" if value == "none" else None


Compaction = Annotated[
    Annotated[CompactionConfig, Tag("rule")] | Annotated[Literal["none"], Tag("none")],
    Discriminator(
        _kind_of_compaction,
        custom_error_type="compaction",
        custom_error_message="must be none, or a mapping of mode and retention",
    ),
]
