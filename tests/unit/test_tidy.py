"""House rules that no linter knows, as tests: each names the file and line that breaks it.

Import directions are import-linter's (pyproject.toml, run by `make lint`) and not repeated here.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
import zmq

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("config", "coordinator", "proto", "shardworker", "tests", "tools")

FILE_LINES_MAX = 800
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}
# The one place that may sleep: everything else waits for a condition through it.
SLEEPERS = {"tests/waiting.py"}

# The one module that knows ZeroMQ's options.
SOCKETS = "proto/internal/sockets.py"
ZEROMQ_OPTIONS = {option.name.lower() for option in zmq.SocketOption}

# Of whoever wrote a file, meaningless to whoever reads it.
MACHINE_PATH = re.compile(r"(?<![\w.:/}$])/(?:home|root|Users|opt|work|mnt)/[\w.-]+")
LATER = re.compile(r"\b(?:TODO|FIXME|XXX)\b")
REGISTRY_HOST = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|crates\.io|ghcr\.io|quay\.io|gcr\.io|docker\.io)\b"
)


@functools.cache
def project_files() -> list[Path]:
    """Every file of the project that is text, without what tools leave behind, sorted."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in (*PACKAGES, ".ci", "docs"):
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(path for path in files if not {"__pycache__", ".git"} & set(path.parts) and is_text(path))


def is_text(path: Path) -> bool:
    return b"\0" not in path.read_bytes()[:4096]


def written_sources() -> list[Path]:
    """The project's Python files that a person wrote."""
    return [path for path in project_files() if path.suffix == ".py" and "_pb2" not in path.name]


def sources_that_say(words: str) -> list[Path]:
    """Those with any of them, as a pattern: to take all sources apart takes seconds."""
    return [path for path in written_sources() if re.search(words, path.read_text())]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


# ---- the rules: each takes a module's syntax tree and gives the lines that break it ---------------------------


def bare_sleeps(tree: ast.Module) -> Iterator[int]:
    """Lines that use time.sleep or asyncio.sleep, under whatever name; asyncio.sleep(0) only lets others run."""
    modules = {"time": {"time"}, "asyncio": {"asyncio"}}
    functions: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules:
                    modules[alias.name].add(alias.asname or alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            functions |= {alias.asname or alias.name for alias in node.names if alias.name == "sleep"}
    module_names = modules["time"] | modules["asyncio"]
    only_yields = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and ast.unparse(node.func) in {f"{name}.sleep" for name in modules["asyncio"]}
        and [ast.unparse(argument) for argument in node.args] == ["0"]
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr="sleep") if module in module_names:
                if id(node) not in only_yields:
                    yield node.lineno
            case ast.Name(id=function) if function in functions:
                yield node.lineno


def status_codes(tree: ast.Module) -> Iterator[int]:
    """Lines that name gRPC's StatusCode: which error has which code is the business of coordinator/api/outcomes.py."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="StatusCode") | ast.Name(id="StatusCode"):
                yield node.lineno
            case ast.ImportFrom(names=names) if any(alias.name == "StatusCode" for alias in names):
                yield node.lineno


def zeromq_options(tree: ast.Module) -> Iterator[int]:
    """Lines that make a ZeroMQ socket or give it an option."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=option, ctx=ast.Store(), value=value) if option in ZEROMQ_OPTIONS:
                if ast.unparse(value) != "self":
                    yield node.lineno
            case ast.Call(func=ast.Attribute(attr="set_hwm" | "set_string" | "setsockopt_string")):
                yield node.lineno
            case ast.Call(func=ast.Attribute(attr="socket" | "setsockopt" | "set"), args=[first, *_]):
                if ast.unparse(first).startswith("zmq."):
                    yield node.lineno


def unfinished(tree: ast.Module) -> Iterator[int]:
    """Lines that stand for work not done, or for a test that does not run."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id="NotImplementedError"):
                yield node.lineno
            case ast.Attribute(attr="skip" | "skipif" | "skipTest" | "xfail" | "importorskip"):
                if ast.unparse(node.value) in {"pytest", "pytest.mark", "unittest", "self"}:
                    yield node.lineno


def unfinished_comments(source: str) -> Iterator[int]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and LATER.search(token.string):
            yield token.start[0]


# ---- the rules kept by the whole repository -------------------------------------------------------------------


def test_tests_wait_for_conditions_instead_of_sleeping() -> None:
    tests = [p for p in sources_that_say("sleep") if name_of(p).startswith("tests/")]
    sources = [path for path in tests if name_of(path) not in SLEEPERS]
    assert [f"{name_of(path)}:{line}" for path in sources for line in bare_sleeps(tree_of(path))] == []


def test_handlers_name_no_status_code() -> None:
    sources = [path for path in written_sources() if name_of(path).startswith("coordinator/services/")]
    assert [f"{name_of(path)}:{line}" for path in sources for line in status_codes(tree_of(path))] == []


def test_one_module_holds_every_option_of_zeromqs_sockets() -> None:
    sources = [path for path in sources_that_say("zmq|sockets") if not name_of(path).startswith("tests/")]
    found = [(name_of(path), line) for path in sources for line in zeromq_options(tree_of(path))]
    assert [f"{name}:{line}" for name, line in found if name != SOCKETS] == []
    assert found, "it knows them when it sees them"


def test_nothing_is_left_for_later() -> None:
    found = [
        f"{name_of(path)}:{line}"
        for path in sources_that_say("NotImplementedError|skip|xfail")
        for line in unfinished(tree_of(path))
    ]
    for path in sources_that_say(LATER.pattern):
        found += [f"{name_of(path)}:{line}" for line in unfinished_comments(path.read_text())]
    assert found == []


def test_modules_are_named_after_an_idea() -> None:
    assert [
        name_of(path)
        for path in written_sources()
        if VAGUE_NAMES & {part.lower() for part in path.relative_to(ROOT).with_suffix("").parts}
    ] == []


def test_files_stay_readable() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in written_sources()}
    assert {name: length for name, length in lengths.items() if length > FILE_LINES_MAX} == {}


def test_every_package_says_so() -> None:
    folders = {
        parent for path in written_sources() for parent in path.relative_to(ROOT).parents if parent != Path()
    }
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()] == []


def test_proto_package_is_empty() -> None:
    """It must exist, or an installed distribution of that import name wins; and stay empty, as `proto` may not
    pull generated code into a process that only wants the error registry."""
    assert (ROOT / "proto/__init__.py").read_bytes() == b""


def test_no_machine_paths_and_no_registry_hosts() -> None:
    found = []
    for path in project_files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found += [
                f"{name_of(path)}:{number}: {hit.group()}"
                for pattern in (MACHINE_PATH, REGISTRY_HOST)
                for hit in pattern.finditer(line)
                if path != Path(__file__).resolve()
            ]
    assert found == []


def test_the_lock_is_hashed_and_holds_no_options() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if line.startswith("-")] == []
    pinned = [line for line in lines if re.match(r"[\w.-]+==", line)]
    assert pinned
    assert [line for line in pinned if not line.endswith("\\")] == [], "every pin is followed by its hashes"


@pytest.mark.parametrize(
    "path", [p for p in project_files() if p.suffix in {".yaml", ".yml", ".toml"}], ids=name_of
)
def test_data_files_parse(path: Path) -> None:
    if path.suffix == ".toml":
        tomllib.loads(path.read_text())
    else:
        list(yaml.safe_load_all(path.read_text()))


def test_make_has_its_targets() -> None:
    declared = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"up", "test", "lint", "format", "proto", "bench", "soak", "golden", "lock", "help"} <= declared


def test_raft_import_bans_agree() -> None:
    """import-linter and ruff keep the same line; only the second can say why, name by name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    forbidden = next(c["forbidden_modules"] for c in contracts if c["name"] == "the Raft core is pure")
    nested = tomllib.loads((ROOT / "shardworker/raft/ruff.toml").read_text())
    explained = nested["lint"]["flake8-tidy-imports"]["banned-api"]
    assert set(forbidden) - explained.keys() == set()


# ---- the rules notice what they are for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import time\ntime.sleep(1)", [2]),
        ("import time as clock\nclock.sleep(1)", [2]),
        ("from time import sleep as nap\nnap(1)", [2]),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(0.1)", [3]),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(0)", []),
        ("import time\nwait = time.sleep", [2]),
        ("import time\ntime.monotonic()\nsleep = 1", []),
    ],
)
def test_bare_sleeps_are_seen(source: str, lines: list[int]) -> None:
    assert list(bare_sleeps(ast.parse(source))) == lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import grpc\ncode = grpc.StatusCode.NOT_FOUND", [2]),
        ("from grpc import StatusCode as Code", [1]),
        ("import grpc\nchannel = grpc.aio.Channel", []),
    ],
)
def test_status_codes_are_seen(source: str, lines: list[int]) -> None:
    assert list(status_codes(ast.parse(source))) == lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f():\n    raise NotImplementedError", [2]),
        ("import pytest\n@pytest.mark.skipif(True)\ndef test(): ...", [2]),
        ("import pytest\npytest.importorskip('zmq')", [2]),
        ("tokens.skip(3)", []),
    ],
)
def test_unfinished_work_is_seen(source: str, lines: list[int]) -> None:
    assert list(unfinished(ast.parse(source))) == lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("socket = context.socket(zmq.PUB)", [1]),
        ("socket.linger = 0\nsocket.sndhwm = 1", [1, 2]),
        ("link.socket.setsockopt(zmq.LINGER, 0)", [1]),
        ("socket.set_hwm(5)", [1]),
        (
            "import socket\nplain = socket.socket(socket.AF_UNIX)\nplain.setsockopt(socket.SOL_SOCKET, 1, 1)",
            [],
        ),
        ("self.identity = socket.identity", []),
    ],
)
def test_options_of_zeromq_are_seen(source: str, lines: list[int]) -> None:
    assert list(zeromq_options(ast.parse(source))) == lines


def test_unfinished_comments_are_seen() -> None:
    assert list(unfinished_comments("a = 1\nb = 2  # TO" + "DO later\nc = 'TO" + "DO'\n")) == [2]


@pytest.mark.parametrize(
    ("pattern", "text", "seen"),
    [
        (MACHINE_PATH, "cd /home/ann/project", True),
        (MACHINE_PATH, "see https://example.org/work/page", False),
        (MACHINE_PATH, "./boathouse-data", False),
        (REGISTRY_HOST, "https://pypi.org/simple", True),
        (REGISTRY_HOST, "docker run boathouse", False),
    ],
)
def test_traces_of_a_machine_are_seen(pattern: re.Pattern[str], text: str, *, seen: bool) -> None:
    assert bool(pattern.search(text)) == seen


PLACEMENT = re.compile(r"\.(?:replica_nodes|shards_of|worker_tcp|worker_ipc)\(")


def test_who_is_where_is_asked_of_a_topology() -> None:
    """The cluster file is one source of it, and will not stay the only one."""
    asking = [
        path
        for path in written_sources()
        if name_of(path).startswith(("coordinator/", "shardworker/"))
        and not name_of(path).startswith("coordinator/supervisor/")
        and PLACEMENT.search(path.read_text())
    ]
    assert not asking, [name_of(path) for path in asking]
