"""Which keys may stand where in a cluster file, as its models say."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from config.models import ClusterConfig, NodeConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from config.problems import KeyPath

NAME: Final = "NAME"
"""Stands for the keys of a mapping that are names."""

_NOT_WRITTEN: Final = {NodeConfig: {"name"}, ClusterConfig: {"holders", "member_keys"}}
"""What the models know beside what a file says."""


class Place(NamedTuple):
    """Where a complaint belongs."""

    path: KeyPath
    section: type[BaseModel]
    """In which the last key of the path stands, or is not known."""


def sections(
    model: type[BaseModel] = ClusterConfig, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Each model with the keys that lead to it, a model before what is in it."""
    yield path, model
    for key in keys_of(model):
        for inner, between in models_in(model.model_fields[key].annotation):
            yield from sections(inner, (*path, key, *between))


def keys_of(model: type[BaseModel]) -> list[str]:
    """What may be written there, in the models' order."""
    return [name for name in model.model_fields if name not in _NOT_WRITTEN.get(model, ())]


def models_in(annotation: Any) -> Iterator[tuple[type[BaseModel], tuple[str, ...]]]:
    """Models that may stand for a value, with the keys that are still between."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ()
    elif get_origin(annotation) is dict:
        for inner, between in models_in(get_args(annotation)[1]):
            yield inner, (NAME, *between)
    elif get_origin(annotation) is not Literal:
        for argument in get_args(annotation):
            yield from models_in(argument)


def place(told: Iterable[str | int]) -> Place:
    """Of what pydantic tells, the keys of the file: it also says which of several types it took a value for."""
    left = [part for part in told if part != "[key]"]
    path: list[str | int] = []
    section: type[BaseModel] = ClusterConfig
    while left and left[0] in section.model_fields:
        key = str(left.pop(0))
        path.append(key)
        annotation = section.model_fields[key].annotation
        inner, between = next(models_in(annotation), (None, ()))
        if inner is None:
            break
        if _alternatives(annotation) > 1:
            del left[:1]
        path += left[: len(between)]
        del left[: len(between)]
        if left:
            section = inner
    return Place((*path, *left), section)


def _alternatives(annotation: Any) -> int:
    """Of how many types a value may be, beside nothing."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _alternatives(arguments[0])
    if origin in (Union, UnionType):
        return sum(_alternatives(argument) for argument in arguments)
    return annotation is not NoneType
