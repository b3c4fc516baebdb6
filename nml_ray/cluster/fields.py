"""Plain data from files that anybody may have written: taken only with the fields and types that are expected."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal

from nml_ray.config.errors import UserError

_LARGEST = 1 << 63


class Unreadable(UserError):
    """A file is there and does not hold what it should."""


def taken(kind: type, data: Any) -> dict[str, Any]:
    """The values of a dataclass's fields; what a newer version may have said beyond them is left out.

    Args:
        kind: fields of text, numbers, None, literals, mappings and tuples.
        data: what JSON gave.

    Raises:
        ValueError: a field is missing, or of another type.
    """
    if not isinstance(data, Mapping):
        raise ValueError("it holds no fields")
    wanted = typing.get_type_hints(kind)
    found = {}
    for field in fields(kind):
        if field.name in data:
            found[field.name] = _value(field.name, wanted[field.name], data[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"'{field.name}' is missing")
    return found


def _value(name: str, kind: Any, value: Any) -> Any:
    if not _fits(kind, value):
        raise ValueError(f"'{name}' is not what it should be")
    return tuple(value) if typing.get_origin(kind) is tuple else value


def _fits(kind: Any, value: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is types.UnionType:
        return any(_fits(one, value) for one in inner)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(inner[0], one) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(inner[1], one) for one in value.values())
    if kind is Any or value is None:
        return kind in (Any, type(None))
    if kind in (int, float):
        return isinstance(value, (int, kind)) and abs(value) < _LARGEST
    return isinstance(value, kind)
