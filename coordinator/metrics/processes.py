"""What the operating system knows of a node's processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.metrics.families import counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import Metric


def process_families(pids: Mapping[str, int]) -> Iterator[Metric]:
    """pids: by what the processes are called within their node. One that has gone has no samples."""
    living = [([name], process) for name, pid in pids.items() if (process := find_process(pid)) is not None]
    labels = ["process"]
    yield counter(
        "boathouse_process_cpu_seconds_total",
        "CPU time that the process has used.",
        labels,
        ((name, process["cpu_times"].user + process["cpu_times"].system) for name, process in living),
    )
    yield gauge(
        "boathouse_process_resident_memory_bytes",
        "Memory of the process that is in RAM.",
        labels,
        ((name, process["memory_info"].rss) for name, process in living),
    )
    yield gauge(
        "boathouse_process_open_fds",
        "Descriptors that the process has open.",
        labels,
        ((name, process["num_fds"]) for name, process in living),
    )
    # By etcd's names, for the alerts that people have. What is one process of an etcd is several here.
    yield gauge(
        "os_fd_used",
        "Descriptors that the process has open.",
        labels,
        ((name, process["num_fds"]) for name, process in living),
    )
    yield gauge(
        "os_fd_limit",
        "Descriptors that the process may have open.",
        labels,
        (([name], limit) for name, pid in pids.items() if (limit := _fd_limit(pid)) is not None),
    )
    yield gauge(
        "boathouse_process_start_time_seconds",
        "When the process began, in Unix time.",
        labels,
        ((name, process["create_time"]) for name, process in living),
    )


def _fd_limit(pid: int) -> int | None:
    """None of a process that has gone, that we may not look at, or on a system that does not tell."""
    import psutil

    try:
        process = psutil.Process(pid)
        soft, _hard = process.rlimit(psutil.RLIMIT_NOFILE) if psutil.LINUX else (None, None)
    except psutil.Error:
        return None
    return soft


def find_process(pid: int) -> dict[str, Any] | None:
    """What psutil tells of a living process: cpu_times, memory_info, num_fds, create_time."""
    # Here, because a coordinator of which nobody reads metrics can do without its memory.
    import psutil

    try:
        found: dict[str, Any] = psutil.Process(pid).as_dict(
            ["cpu_times", "memory_info", "num_fds", "create_time"]
        )
    except psutil.Error:
        return None
    # What we may not look at, though it lives, is there as None.
    return None if None in found.values() else found
