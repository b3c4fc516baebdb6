"""`--set a.b=value`: overrides of a document, value by value."""

from collections.abc import Sequence
from typing import Any

from nml_ray.config.document import Document, KeyPath, parse
from nml_ray.config.errors import UserError


def override(document: Document, assignments: Sequence[str]) -> Document:
    """A document with values replaced; later assignments win.

    The value is read as YAML (`[0, 0.1]` is a list). Sections on the way are made where they are missing; a number
    on the way is a place in a list, counted from 0, and one past the end appends. Errors about such a value are then
    placed at "--set a.b=value".

    Raises:
        UserError: no "=", an empty name, no such place in a list, or a way through a value that is not a section.
    """
    for assignment in assignments:
        document = _override(document, assignment)
    return document


def _override(document: Document, assignment: str) -> Document:
    where = f"--set {assignment}"
    dotted, equals, text = assignment.partition("=")
    names = dotted.strip().split(".")
    if not equals or not all(names):
        raise UserError("no assignment", where=where, expected="name.of.setting=value")
    value = parse(text, where)
    path, data = _replace(document.data, names, value.data, where, ())
    places = {key: place for key, place in document.places.items() if key[: len(path)] != path}
    for length in range(1, len(path) + 1):
        places.setdefault(path[:length], where)
    places |= {(*path, *key): where for key in value.places}
    return Document(document.name, data, places)


def _replace(data: Any, names: Sequence[str], value: Any, where: str, above: KeyPath) -> tuple[KeyPath, Any]:
    """The path that the names mean in this data, and a copy of the data with the value there."""
    if not names:
        return above, value
    name, rest = names[0], names[1:]
    if isinstance(data, list):
        index = _index(name, len(data), where, above)
        path, below = _replace(data[index] if index < len(data) else None, rest, value, where, (*above, index))
        return path, [*data[:index], below, *data[index + 1 :]]
    if data is not None and not isinstance(data, dict):
        raise UserError(f"'{_dotted(above)}' is {data}", where=where, expected=f"a section to set '{name}' in")
    section: dict[str, Any] = data or {}
    path, below = _replace(section.get(name), rest, value, where, (*above, name))
    return path, {**section, name: below}


def _index(name: str, length: int, where: str, above: KeyPath) -> int:
    if not name.isdecimal() or int(name) > length:
        raise UserError(f"'{name}' in the list '{_dotted(above)}'", where=where, expected=f"a place from 0 to {length}")
    return int(name)


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))
