"""The manifests of config/examples are of Kubernetes' own schemas, of an old and a new version: no field is misspelt,
of another type, or in the wrong place."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.conformance.foreign.programs import CACHE
from tests.integration.cluster import ROOT

if TYPE_CHECKING:
    from pathlib import Path

VALIDATOR: Final = "kubernetes-validate==1.37.0"
"""From PyPI, with the schemas of many versions in it."""
VERSIONS: Final = ("1.30", "1.37")
MANIFESTS: Final = ROOT / "config/examples/kubernetes/boathouse.yaml"
INSTALL_S: Final = 300


@pytest.fixture(scope="module")
def validator() -> Path:
    """The program, in an environment of its own."""
    folder = CACHE / VALIDATOR.replace("==", "-")
    program = folder / "bin" / "kubernetes-validate"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=INSTALL_S)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", VALIDATOR], check=True, timeout=INSTALL_S)
    return program


def validated(validator: Path, manifests: Path, version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(validator), "--strict", "--kubernetes-version", version, str(manifests)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_of_the_schemas(validator: Path, version: str) -> None:
    done = validated(validator, MANIFESTS, version)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("passed for resource") == 6


def test_a_misspelt_field_would_be_found(validator: Path, tmp_path: Path) -> None:
    misspelt = tmp_path / "boathouse.yaml"
    misspelt.write_text(
        MANIFESTS.read_text().replace("terminationGracePeriodSeconds", "terminationGraceSeconds")
    )
    done = validated(validator, misspelt, VERSIONS[0])
    assert done.returncode == 1
    assert "'terminationGraceSeconds' was unexpected" in done.stdout + done.stderr
