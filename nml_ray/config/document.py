"""YAML with positions: every value knows its file and line, numbers keep their own text, nothing is executed.

Scalars follow YAML 1.2's core schema: `no` and `on` are text, `1e-3` is a number, `012` is twelve.
"""

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from nml_ray.config.errors import UserError, nearest_name

KeyPath = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DEEPEST = 50  # sections and lists in each other
_MOST_REPEATED = 10_000  # values that come from aliases: a few lines of them can mean millions
_SAFE_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.BaseLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            problem = f"more than {_DEEPEST} sections or lists in each other"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Text:
    text: str

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> Any:
        return type(self).read, (self.text,)

    @classmethod
    def read(cls, text: str) -> Self:
        number = cls(text)  # type: ignore[call-arg]
        number.text = text
        return number


class WrittenInt(_Text, int):
    """A whole number whose `str` is what the user wrote."""


class WrittenFloat(_Text, float):
    """A number whose `str` is what the user wrote: 0.10 stays "0.10", 1e-1 stays "1e-1"."""


@dataclass(frozen=True)
class Document:
    """Plain data with the place of each value.

    `places` maps a path such as ("noise", "ratios", 2) to "jobs/demo.yaml:12" or to "--set noise.ratios.2=1".
    """

    name: str
    data: Any
    places: Mapping[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """The place of a value, or of the closest thing around it that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.name


def load(path: Path, name: str = "") -> Document:
    """Read a YAML file; messages call it `name` (by default its path).

    Raises:
        UserError: not there, not UTF-8, not YAML, a key twice, a tag, too deep, too many values by aliases.
    """
    name = name or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        nearest = nearest_name(path.name, [other.name for other in path.parent.glob("*.y*ml")])
        raise UserError("there is no such file", where=name, nearest=nearest) from None
    except IsADirectoryError:
        raise UserError("is a directory", where=name, expected="a YAML file") from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=name, expected="a YAML file") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError("is not UTF-8", where=f"{name}:{line}", expected="a YAML file in UTF-8") from None
    return parse(text, name)


def parse(text: str, name: str) -> Document:
    """Read YAML text; see `load`."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        begun = f" ({error.context}, begun in line {error.context_mark.line + 1})" if error.context_mark else ""
        raise UserError(f"not valid YAML: {error.problem}{begun}", where=where) from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}", where=name) from None
    reader = _Reader(name)
    data = reader.value(root, ()) if root else None
    return Document(name, data, reader.places)


def scalar(text: str) -> Any:
    """The value of an unquoted scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return WrittenInt.read(text)
    if _FLOAT.fullmatch(text):
        return WrittenFloat.read(text)
    return text


def plain(data: Any) -> Any:
    """Data without written texts: built-in ints and floats, lists, dicts with text keys."""
    match data:
        case Mapping():
            return {str(key): plain(value) for key, value in data.items()}
        case list() | tuple():
            return [plain(value) for value in data]
        case bool() | None | str():
            return data
        case int():
            return int(data)
        case float():
            return float(data)
    return str(data)


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[KeyPath, str] = {}
        self.inside: set[Hashable] = set()
        self.seen: set[Hashable] = set()
        self.repeated = 0

    def place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.places.setdefault(path, self.place(node))
        if id(node) in self.inside:
            raise UserError("an alias that contains itself", where=self.place(node))
        self.repeated += id(node) in self.seen
        if self.repeated > _MOST_REPEATED:
            found = f"aliases that mean more than {_MOST_REPEATED:,} values"
            raise UserError(found, where=self.place(node), expected="values that are written out")
        self.seen.add(id(node))
        self.inside.add(id(node))
        try:
            match node:
                case yaml.MappingNode():
                    self.refuse_tag(node, "map")
                    return self.mapping(node, path)
                case yaml.SequenceNode():
                    self.refuse_tag(node, "seq")
                    return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
                case yaml.ScalarNode():
                    self.refuse_tag(node, "str")
                    return self.scalar(node) if node.style is None else node.value
            raise AssertionError(node)
        finally:
            self.inside.discard(id(node))

    def scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return scalar(node.value)
        except ValueError:  # Python's limit
            raise UserError(f"a number of {len(node.value):,} digits", where=self.place(node)) from None

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError("a key that is a list or a section", where=self.place(key), expected="a name")
            below = (*path, key.value)
            if key.value in result:
                raise UserError(
                    f"key '{key.value}' twice",
                    where=self.place(key),
                    expected=f"it once (the first is at {self.places[below]})",
                )
            self.places[below] = self.place(key)
            result[key.value] = self.value(value, below)
        return result

    def refuse_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag not in (_SAFE_TAG + kind, "!"):
            tag = node.tag.replace(_SAFE_TAG, "!!")
            raise UserError(f"the tag '{tag}'", where=self.place(node), expected="plain values without tags")
