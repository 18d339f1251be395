"""`boathouse up`: the supervisor in the foreground, and the few lines it says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from config.process.report import State
from coordinator.supervisor.refusal import StartRefused
from coordinator.supervisor.run import nodes_to_start, run
from tools.cluster_file import read_cluster_to_start
from tools.failure import Failed
from tools.printer import Printer

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig
    from config.process.report import ProcessReport


def up(file: Path | None, node: str | None) -> None:
    """Run the nodes until Ctrl-C. Raises Failed if they can't be started."""
    cluster = read_cluster_to_start(file, node)
    try:
        nodes = nodes_to_start(cluster, node)
        with Printer() as printer:
            run(cluster, nodes, _Terminal(cluster, nodes, printer))
    except StartRefused as refusal:
        raise Failed(str(refusal)) from None


class _Terminal:
    """Says what a person in front of `up` wants to know: that it is up, how to talk to it, and what goes
    wrong."""

    def __init__(self, cluster: ClusterConfig, nodes: list[str], printer: Printer) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._say = printer.say
        self._started_s = time.monotonic()
        self._quiet = False
        self._crashed: set[str] = set()

    def starting(self) -> None:
        cluster, nodes = self._cluster, self._nodes
        self._say(
            f"cluster {cluster.cluster}: {_count(len(nodes), 'node')}, {_count(cluster.shards, 'shard')} "
            f"with {_count(cluster.replicas, 'replica')} each, data in {cluster.data_dir}"
        )

    def changed(self, report: ProcessReport) -> None:
        name = str(report.name)
        if report.state is State.STOPPED and report.reason:
            self._say(f"{name} {report.reason}", "yellow")
        if self._quiet:
            return
        if report.state in (State.BACKOFF, State.FAILED):
            self._crashed.add(name)
            style = "red" if report.state is State.FAILED else "yellow"
            self._say(f"{name} {'failed: ' if report.state is State.FAILED else ''}{report.reason}", style)
            if report.state is State.FAILED:
                self._say(f"{name} stays down; its log is {report.log}", style)
        elif report.state is State.RUNNING and name in self._crashed:
            self._crashed.discard(name)
            self._say(f"{name} is running again, process {report.pid}", "green")
        elif report.state is State.STARTING and report.reason and report.pid is None:
            if name not in self._crashed:
                self._say(f"{name} starts again: {report.reason}", "yellow")

    def all_running(self) -> None:
        seconds = time.monotonic() - self._started_s
        endpoints = [self._cluster.node(node).client_endpoint for node in self._nodes]
        self._say(f"ready after {seconds:.1f} s; both APIs on {', '.join(endpoints)}", "green")
        options = self._tls_options()
        self._say(f"  etcdctl --endpoints {','.join(endpoints)}{options} put greeting hello")
        self._say(f"  boathouse kv get greeting --endpoint {endpoints[0]}{options}")
        self._say("Ctrl-C stops it")

    def _tls_options(self) -> str:
        client = self._cluster.tls.client
        if client is None:
            return ""
        return " --cacert CA" + (" --cert CERT --key KEY" if client.client_cert_auth else "")

    def stopping(self, reason: str) -> None:
        self._quiet = True
        self._say(reason)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
