"""What processes of a node do not load, since it would only take their memory."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("entry", ["coordinator", "shardworker", "coordinator.replication"])
def test_what_is_for_people_or_for_few_clients_is_left_out(entry: str) -> None:
    """As `python -m` begins, up to where a process reads its spec, of which there is none here."""
    program = f"""
import runpy, sys
try:
    runpy.run_module({entry!r}, run_name="__main__")
except SystemExit:
    pass
import gc  # is stopped while all this is imported
assert gc.isenabled() and gc.get_threshold()[0] > 10_000
print(*sorted({{name.partition(".")[0] for name, module in sys.modules.items() if module is not None}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True
    )
    loaded = set(done.stdout.decode().splitlines()[-1].split())
    assert {"structlog", "zmq"} <= loaded
    assert not loaded & {"rich", "textual", "typer", "cryptography", "jwt", "opentelemetry"}
    assert not loaded & {"bcrypt", "cramjam", "prometheus_client", "yaml", "zstandard"}
