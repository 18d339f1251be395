"""systemd takes the unit of config/examples as it is, and finds it confined."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.integration.cluster import ROOT

if TYPE_CHECKING:
    from pathlib import Path

EXPOSURE_MAX = 2.0
"""Of 10, in the words of `systemd-analyze security`; up to 2 is "OK", a service without any of it has 9.6."""


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "install systemd: its systemd-analyze reads the unit"
    text = (ROOT / "config/examples/systemd/boathouse@.service").read_text()
    unit = tmp_path / "boathouse@n1.service"
    unit.write_text(text.replace("/usr/local/bin/boathouse", str(shutil.which("true"))))  # it has to exist
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert [line for line in verified.stderr.splitlines() if "boathouse" in line] == []
    assert verified.returncode == 0, verified.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = re.search(r"exposure level for \S+: (\d+\.\d)", judged.stdout)
    assert found is not None, judged.stdout + judged.stderr
    assert float(found[1]) <= EXPOSURE_MAX, judged.stdout
