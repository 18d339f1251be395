"""Reads a cluster file; every complaint names its line.

PyYAML's composer keeps a mark on each node, its constructor throws them away. So the document is composed
first, a map from key path to line is drawn from the nodes, and only then are plain values built for the
models."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from config import members, sections
from config.models import ClusterConfig
from config.problems import ConfigError, Inconsistent, KeyPath, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

DEFAULT_SOURCE = "built-in default"
FILE_BYTES_MAX = 1 << 20
_NODES_MAX = 50_000
"""Bound on composed values, so that aliases of aliases can't blow up."""


def load(path: Path | None) -> ClusterConfig:
    """The cluster that a file describes, or the built-in single node for None.

    Raises ConfigError with all problems found, one `file:line: key: what to do` per line."""
    return _as_it_is(_load(path)[0])


def load_draft(path: Path | None) -> ClusterConfig:
    """As `load`, for who makes certificates and keys: their absence from the file is no reason to refuse it."""
    return _load(path, is_draft=True)[0]


def load_with_files(path: Path | None, node: str | None) -> ClusterConfig:
    """As `load`, and the certificates and keys that the file names are sound.

    Those of node have to be there, or else those of all nodes with a loopback host: what `up` starts. Of other nodes,
    which may be on other machines, only what is there is looked at. Raises ConfigError."""
    from config import tls_files  # and OpenSSL and ZeroMQ with it; whoever starts nothing does without

    cluster, lines = _load(path)
    local = [name for name, config in cluster.nodes.items() if config.is_loopback]
    problems = list(tls_files.problems(cluster, local if node is None else [node]))
    if problems:
        raise ConfigError(str(path), [_with_line(problem, lines) for problem in problems])
    return _as_it_is(cluster)


def parse(text: str, source: str) -> ClusterConfig:
    """As `load`, from the file's text."""
    document = _Document(source, text)
    return _validate(source, document.value, document.lines)


def _as_it_is(cluster: ClusterConfig) -> ClusterConfig:
    """With what the nodes of this machine have learned since."""
    return members.with_members(cluster, members.newest_here(cluster))


def _load(path: Path | None, *, is_draft: bool = False) -> tuple[ClusterConfig, dict[KeyPath, int]]:
    if path is None:
        return _validate(DEFAULT_SOURCE, {"nodes": {"n1": {}}}, {}), {}
    document = _Document(str(path), _read(str(path), path))
    value = document.value
    if is_draft and isinstance(value, dict):
        value = {**value, "insecure": True}
    return _validate(str(path), value, document.lines), document.lines


def _read(source: str, path: Path) -> str:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(source, [Problem((), f"is over {FILE_BYTES_MAX} bytes; is it a cluster file?")])
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(source, [Problem((), f"can't be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError(source, [Problem((), "is not UTF-8 text; is it a cluster file?")]) from None


class _Document:
    """A YAML file as plain values, with the line of each key path beside them."""

    def __init__(self, source: str, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._problems: list[Problem] = []
        self._visited = 0
        try:
            loader = yaml.SafeLoader(text)
        except yaml.YAMLError as error:  # a control character
            raise ConfigError(source, [_invalid(error)]) from None
        try:
            root = loader.get_single_node()
            self._draw(loader, root, (), ()) if root is not None else None
            self.value = loader.construct_document(root) if root is not None and not self._problems else None
        except yaml.MarkedYAMLError as error:
            raise ConfigError(source, [_syntax_problem(error)]) from None
        except RecursionError:
            raise ConfigError(source, [Problem((), "is not valid YAML: it nests too deeply")]) from None
        except (yaml.YAMLError, ValueError) as error:  # 2024-13-45 as a date
            raise ConfigError(source, [_invalid(error)]) from None
        except (AttributeError, LookupError):  # what PyYAML's constructors stumble over: !!bool perhaps
            raise ConfigError(
                source, [Problem((), "is not valid YAML: a value does not fit its tag")]
            ) from None
        finally:
            loader.dispose()
        if self._problems:
            raise ConfigError(source, self._problems)
        if root is None:
            raise ConfigError(source, [Problem((), "is empty; a cluster needs at least `nodes:`")])

    def _draw(
        self, loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]
    ) -> None:
        self._visited += 1
        if node in above or self._visited > _NODES_MAX:
            raise yaml.MarkedYAMLError(problem="aliases nest too deeply", problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            seen: dict[object, int] = {}
            for key_node, value_node in self._pairs(loader, node):
                line = key_node.start_mark.line + 1
                key = loader.construct_object(key_node, deep=True)
                if not isinstance(key, str):
                    self._problems.append(
                        Problem((*path, str(key)), "a key must be text; put it in quotes", line)
                    )
                    continue
                if key in seen:
                    self._problems.append(
                        Problem(
                            (*path, key), f"is written twice, first on line {seen[key]}; remove one", line
                        )
                    )
                seen.setdefault(key, line)
                self.lines[*path, key] = line
                self._draw(loader, value_node, (*path, key), (*above, node))
        elif isinstance(node, yaml.ScalarNode):
            self._problems += _odd_scalar(loader, node, path)
        elif isinstance(node, yaml.SequenceNode):
            for position, item in enumerate(node.value):
                self.lines[*path, position] = item.start_mark.line + 1
                self._draw(loader, item, (*path, position), (*above, node))

    def _pairs(self, loader: yaml.SafeLoader, node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
        """The mapping's own pairs, then what `<<` merges in where it is not overridden."""
        own = [pair for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"]
        if len(own) == len(node.value):
            return own
        own_keys = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
        loader.flatten_mapping(node)
        merged = [
            (key, value)
            for key, value in node.value
            if (key, value) not in own and not (isinstance(key, yaml.ScalarNode) and key.value in own_keys)
        ]
        node.value = merged + own
        return own + merged


_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)")
_TRUTH = {"true", "True", "TRUE", "false", "False", "FALSE"}
_SHOWN_MAX = 40


def _odd_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode, path: KeyPath) -> list[Problem]:
    """What YAML 1.1 reads in another way than people do: 07101 in octal, 39:39 as minutes and seconds, no as false."""
    written = node.value
    shown = written if len(written) <= _SHOWN_MAX else f"{written[:_SHOWN_MAX]}..."
    if node.tag == "tag:yaml.org,2002:int" and written and not _DECIMAL.fullmatch(written):
        advice = "write whole numbers in decimal digits, or text in quotes"
    elif node.tag == "tag:yaml.org,2002:float" and (":" in written or "_" in written):
        advice = "write numbers in decimal digits, or text in quotes"
    elif node.tag == "tag:yaml.org,2002:bool" and node.style is None and written not in _TRUTH:
        advice = "put text in quotes, and write true or false for what is meant so"
    else:
        return []
    value = _describe(loader.construct_object(node))
    return [Problem(path, f"{shown} is {value} in YAML; {advice}", node.start_mark.line + 1)]


def _invalid(error: Exception) -> Problem:
    return Problem((), f"is not valid YAML: {str(error).splitlines()[0]}")


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    reason = error.problem or error.context or "can't be read"
    return Problem((), f"is not valid YAML: {reason}", mark.line + 1 if mark else 0)


# ---- from pydantic's complaints to ours ------------------------------------------------------------------


def _validate(source: str, value: object, lines: dict[KeyPath, int]) -> ClusterConfig:
    if not isinstance(value, dict):
        raise ConfigError(source, [Problem((), "must be a mapping with `nodes:` in it", 1)])
    not_written = ClusterConfig.model_fields.keys() - sections.keys_of(ClusterConfig)
    if told := [key for key in value if key in not_written]:
        problems = [Problem((key,), "unknown key; the shards themselves say who holds them") for key in told]
        raise ConfigError(source, [_with_line(problem, lines) for problem in problems])
    try:
        return ClusterConfig.model_validate(value)
    except ValidationError as error:
        found = [problem for details in error.errors() for problem in _from_pydantic(details)]
        raise ConfigError(source, [_with_line(problem, lines) for problem in found]) from None


def _with_line(problem: Problem, lines: dict[KeyPath, int]) -> Problem:
    """The line of the key itself, or of the nearest one above it that the file has."""
    for length in range(len(problem.path), 0, -1):
        line = lines.get(problem.path[:length])
        if line is not None:
            return Problem(problem.path, problem.message, line)
    return Problem(problem.path, problem.message, 1 if lines else 0)


def _from_pydantic(details: ErrorDetails) -> list[Problem]:
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, Inconsistent):
        return cause.problems
    place = sections.place(details["loc"])
    return [Problem(place.path, _message(place, details))]


_KINDS = {
    "int_type": "must be a whole number",
    "string_type": "must be text",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "list_type": "must be a list",
    "path_type": "must be a path",
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
}


def _message(place: sections.Place, details: ErrorDetails) -> str:
    kind, given, ctx = details["type"], details["input"], details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return f"unknown key; {_suggestion(place.section, str(place.path[-1]))}"
        case "missing":
            return "is missing; write it"
        case "greater_than_equal":
            return f"must be at least {ctx['ge']}, is {_describe(given)}"
        case "less_than_equal":
            return f"must be at most {ctx['le']}, is {_describe(given)}"
        case "less_than":
            return f"must be below {ctx['lt']}, is {_describe(given)}"
        case "literal_error":
            return f"must be {ctx['expected']}, is {_describe(given)}"
        case "too_short":
            return "must not be empty"
        case _ if kind in _KINDS:
            return f"{_KINDS[kind]}, is {_describe(given)}"
        case _:
            return details["msg"].removeprefix("Value error, ")


def _describe(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"  # Python refuses to write out very long ones
    return "a list" if isinstance(value, list) else str(value)


def _suggestion(section: type[BaseModel], key: str) -> str:
    """What the writer of an unknown key may have meant."""
    known = sections.keys_of(section)
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
