"""docs/cluster-file.md, which `make docs` writes anew from the models of the cluster file."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from config.sections import keys_of, models_in, sections
from config.values import SIZE_UNITS

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

HEAD: Final = """\
# The cluster file

Written by `make docs` from the models in `config/`. `boathouse check FILE` names every mistake with its line, unknown
keys among them. A node reads the file when `boathouse up` starts it: after a change end and start the nodes, one after
the other. What a key is called says what its number counts: bytes (`_bytes`), milliseconds (`_ms`).
"""

WORDS: Final = {int: "number", float: "number", str: "text", bool: "true or false", Path: "path"}
UNBOUNDED: Final = 1 << 31
"""A bound from here on only keeps numbers sane."""


def reference() -> str:
    """The page."""
    lines = [HEAD]
    for path, model in sections():
        if path:
            lines += ["", f"## {'.'.join(path)}", "", _text(model.__doc__), ""]
        lines += ["| key | value | default | |", "| --- | --- | --- | --- |"]
        texts = _texts(model)
        lines += [_row(name, model.model_fields[name], texts.get(name, "")) for name in keys_of(model)]
    return "\n".join(lines) + "\n"


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """What stands under the fields. Read here and not by pydantic, which would do so in every process of a node."""
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, under in itertools.pairwise(definition.body):
        match field, under:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = text
    return texts


def _row(name: str, field: FieldInfo, text: str) -> str:
    value = _value(field.annotation)
    bounds = _bounds(field.metadata)
    cells = (f"`{name}`", f"{value}{bounds}", _default(name, field, text), _text(text))
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _value(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is Annotated:
        return _value(arguments[0]) + _bounds(arguments[1:])
    if origin in (Union, UnionType):
        return " or ".join(_value(argument) for argument in arguments if argument is not NoneType)
    if origin in (list, tuple):
        return f"list of: {_value(arguments[0])}"
    if origin is dict:
        return "keys below, by name" if any(models_in(arguments[1])) else f"by name: {_value(arguments[1])}"
    return "keys below"


def _bounds(metadata: Any) -> str:
    bounds: dict[str, Any] = {}
    for each in metadata:
        for one in getattr(each, "metadata", (each,)):
            bounds |= {
                name: getattr(one, name) for name in ("ge", "le", "lt", "max_length") if hasattr(one, name)
            }
    if "max_length" in bounds:
        return f", at most {bounds['max_length']} long"
    if "ge" not in bounds:
        return ""
    most = bounds.get("le", bounds.get("lt", UNBOUNDED + 1) - 1)
    return f", {bounds['ge']} to {most}" if most < UNBOUNDED - 1 else f", {bounds['ge']} or more"


def _default(name: str, field: FieldInfo, text: str) -> str:
    if field.is_required():
        return "" if "Default:" in text else "needed"  # the loader fills some in
    default = field.get_default(call_default_factory=True)
    if default is None or default == "" or isinstance(default, BaseModel | dict):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    told = f"`{default}`"
    if name.endswith("_bytes") or "_bytes_" in name:
        for unit, size_bytes in reversed(SIZE_UNITS.items()):
            if default % size_bytes == 0:
                return f"{told} ({default // size_bytes} {unit})"
    return told


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    sys.stdout.write(reference())
