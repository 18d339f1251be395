"""What a child process reports to its supervisor, on its stdout and by its exit code.

One JSON object a line:

    {"event": "ready"}                      it serves
    {"event": "beat"}                       it still gets round to things; about every BEAT_INTERVAL_S
    {"event": "failed", "reason": "..."}    it can't run, and ends
    {"event": "restart", "reason": "..."}   it ends to begin anew, with exit code EXIT_RESTART
    {"event": "members", "shard": 2, "index": 7, "nodes": {"1": "", "4": "host:7401"}}
                                            it has heard who holds a shard (config/members.py)

Beats are optional. But a child that neither beats nor serves within `supervisor.start_timeout_ms` is taken to hang, as
is one that has sent a beat and then falls silent for `supervisor.hang_timeout_ms`: it is killed and started again. So
they have to come from the loop that does the work, not from a thread."""

from __future__ import annotations

from typing import Final

BEAT_INTERVAL_S: Final = 1.0

EXIT_FAILED: Final = 1
EXIT_RESTART: Final = 75
"""The process asks to be started again at once (EX_TEMPFAIL of sysexits.h). No failure, and never counted as one."""
