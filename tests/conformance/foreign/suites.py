"""The tests that client libraries of etcd come with: where they are had from, and how one suite is run.

Each is fetched from its registry in the version given here into a folder of its own below build/, with an environment
of its own, since what one client needs another can't live with. Nothing of theirs is kept in this repository, and
nothing of it is changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from xml.etree import ElementTree

from tests.conformance.foreign.programs import NotBuilt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[3]
FOLDER: Final = ROOT / "build" / "suites"
BUILD_S: Final = 1_800
"""Half an hour is what two busy cores may need for all that a crate is built of."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a suite's tests, by their names."""

    passed: frozenset[str]
    others: Mapping[str, str]
    """Failed or skipped, with the reason."""


class Suite(Protocol):
    """The tests of one client library."""

    @property
    def name(self) -> str:
        """The library's, and its version."""

    @property
    def root_password(self) -> str:
        """Of a user root that the tests take for given; empty: of none."""

    def prepare(self) -> None:
        """Fetch and install it if it is not there yet. Raises NotBuilt."""

    def run(self, members: int, environment: Mapping[str, str], timeout_s: float) -> Outcome:
        """Run all tests, against so many members, the first on the port that etcd's clients take if told nothing."""


@dataclass(frozen=True, slots=True)
class PythonSuite:
    """A library in Python, whose source distribution has the tests; they are run with pytest."""

    library: str
    version: str
    tests: str
    """Their folder in the distribution."""
    pins: tuple[str, ...]
    """What they need besides what the library asks for, and what it asks for in versions that it works with."""
    variables: Mapping[str, str] = field(default_factory=dict)
    if_several: tuple[str, ...] = ()
    """Arguments that say that there are several members."""
    root_password: str = ""

    @property
    def name(self) -> str:
        return f"{self.library} {self.version}"

    @property
    def _source(self) -> Path:
        return _folder(self.name) / f"{self.library}-{self.version}"

    @property
    def _python(self) -> str:
        return str(_folder(self.name) / "env" / "bin" / "python")

    def prepare(self) -> None:
        with _Preparing(self.name, *self.pins) as folder:
            if folder is None:
                return
            _do(sys.executable, "-m", "venv", str(folder / "env"))
            pip = (self._python, "-m", "pip", "--quiet", "--disable-pip-version-check")
            what = ("--no-deps", "--no-binary", self.library, f"{self.library}=={self.version}")
            _do(*pip, "download", "--dest", str(folder), *what)
            with tarfile.open(folder / f"{self.library}-{self.version}.tar.gz") as archive:
                archive.extractall(folder, filter="data")
            _do(*pip, "install", str(self._source), *self.pins)

    def run(self, members: int, environment: Mapping[str, str], timeout_s: float) -> Outcome:
        report = _folder(self.name) / "report.xml"
        report.unlink(missing_ok=True)
        pytest = (self._python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}")
        command = (*pytest, *(self.if_several if members > 1 else ()), self.tests)
        said = _run(command, self._source, {**environment, **self.variables}, timeout_s)
        if not report.exists():
            raise AssertionError(f"{self.name} did not come to an end: {said[-2_000:]}")
        return _outcome(report)


def _outcome(report: Path) -> Outcome:
    passed: set[str] = set()
    others: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it
        name = f"{case.get('classname')}.{case.get('name')}"
        wrong = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if wrong is None:
            passed.add(name)
        else:
            others[name] = f"{wrong.tag}: {wrong.get('message')}"
    return Outcome(frozenset(passed - set(others)), others)


@dataclass(frozen=True, slots=True)
class RustSuite:
    """A library in Rust, whose crate has the tests."""

    library: str
    version: str
    root_password: str

    @property
    def name(self) -> str:
        return f"{self.library} {self.version}"

    @property
    def _source(self) -> Path:
        return _folder(self.name) / "source"

    def prepare(self) -> None:
        with _Preparing(self.name) as folder:
            if folder is None:
                return
            if shutil.which("cargo") is None:
                raise NotBuilt(
                    f"{self.name} is built with cargo, and there is none on the PATH: install Rust 1.80 or newer"
                )
            self._fetch(folder)
            _write_protoc(folder / "protoc")
            _do(
                "cargo",
                "test",
                "--quiet",
                "--locked",
                "--tests",
                "--no-run",
                cwd=self._source,
                **self._variables,
            )

    def _fetch(self, folder: Path) -> None:
        """The crate's source, by way of a package that needs it: cargo itself only installs programs."""
        (folder / "src").mkdir()
        (folder / "src" / "lib.rs").touch()
        (folder / "Cargo.toml").write_text(
            '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\nexclude = ["source"]\n'
            f'[dependencies]\n{self.library} = "={self.version}"\n'
        )
        told = json.loads(_do("cargo", "metadata", "--quiet", "--format-version", "1", cwd=folder))
        manifest = next(each["manifest_path"] for each in told["packages"] if each["name"] == self.library)
        shutil.copytree(Path(manifest).parent, self._source)

    @property
    def _variables(self) -> dict[str, str]:
        return {"PROTOC": str(_folder(self.name) / "protoc"), "RUST_BACKTRACE": "0"}

    def run(self, members: int, environment: Mapping[str, str], timeout_s: float) -> Outcome:
        command = ("cargo", "test", "--locked", "--offline", "--tests", "--no-fail-fast")
        said = _run(command, self._source, {**environment, **self._variables}, timeout_s)
        ends = dict(
            line.removeprefix("test ").split(" ... ", 1)
            for line in said.splitlines()
            if line.startswith("test ") and " ... " in line
        )
        passed = frozenset(name for name, end in ends.items() if end == "ok")
        return Outcome(passed, {name: end for name, end in ends.items() if name not in passed})


def _write_protoc(path: Path) -> None:
    """The protobuf compiler that our own environment has, as a program."""
    spec = importlib.util.find_spec("grpc_tools")
    if spec is None or spec.origin is None:
        raise NotBuilt("there is no protobuf compiler: install grpcio-tools, which is part of `make venv`")
    folder = Path(spec.origin).parent
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc -I{folder}/_proto "$@"\n')
    path.chmod(0o755)


SUITES: Final[tuple[Suite, ...]] = (
    PythonSuite(
        "etcd3",
        "0.12.0",
        "tests",
        (
            "protobuf==3.20.3",
            "grpcio==1.62.3",
            "tenacity==6.1.0",
            "pytest==7.4.4",
            "hypothesis==4.56.3",
            "mock==5.2.0",
            "pifpaf==3.4.0",
            "setuptools==80.9.0",
        ),
        {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python", "TEST_ETCD_VERSION": "v3.5.1"},
    ),
    PythonSuite(
        "aetcd",
        "1.0.0",
        "tests",
        ("pytest-asyncio==1.3.0", "pytest-cov==7.1.0", "pytest-mock==3.15.1", "pytest==9.0.3"),
        if_several=("--with-cluster",),
    ),
    PythonSuite("etcd3gw", "2.7.0", "etcd3gw/tests", ("oslotest==6.0.0", "pytest==9.0.3")),
    RustSuite("etcd-client", "0.21.1", root_password="rootpwd"),
)


def environment(name: str, python: str, *what: str) -> Path:
    """The folder of the programs of a fresh environment on this Python, with these packages. Raises NotBuilt."""
    with _Preparing(name, python, *what) as folder:
        if folder is not None:
            _do(python, "-m", "venv", "--without-pip", str(folder / "env"))
            pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
            _do(*pip, "--python", str(folder / "env" / "bin" / "python"), "install", *what)
    return _folder(name) / "env" / "bin"


# ---- what all have in common ----------------------------------------------------------------------------------------


class _Preparing:
    """A fresh folder to prepare a suite in, or None if it is prepared already, just as it would be now."""

    def __init__(self, name: str, *what: str) -> None:
        self._folder = _folder(name)
        self._mark = self._folder / ".prepared"
        self._wanted = hashlib.sha256("\n".join((sys.version, *what)).encode()).hexdigest()

    def __enter__(self) -> Path | None:
        if self._mark.exists() and self._mark.read_text() == self._wanted:
            return None
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        (FOLDER / "pytest.ini").touch()  # a suite that has no settings for pytest would take ours
        return self._folder

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            self._mark.write_text(self._wanted)


def _folder(name: str) -> Path:
    return FOLDER / name.replace(" ", "-")


def _do(*command: str, cwd: Path | None = None, **variables: str) -> str:
    try:
        done = _run_to_end(command, cwd, variables, BUILD_S)
    except subprocess.TimeoutExpired:
        raise NotBuilt(f"{' '.join(command)} took more than {BUILD_S} s") from None
    if done.returncode != 0:
        raise NotBuilt(f"{' '.join(command)} failed: {(done.stdout + done.stderr).strip()[-2_000:]}")
    return done.stdout


def _run(command: Sequence[str], folder: Path, variables: Mapping[str, str], timeout_s: float) -> str:
    """What a suite prints, whether its tests pass or not."""
    done = _run_to_end(command, folder, variables, timeout_s)
    return done.stdout + done.stderr


def _run_to_end(
    command: Sequence[str], folder: Path | None, variables: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """It and all that it started is ended at the deadline."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.communicate()
