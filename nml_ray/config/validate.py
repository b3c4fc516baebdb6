"""From plain data to typed settings; a mistake is told with place, find, expectation and the nearest valid name."""

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from nml_ray.config.document import Document, KeyPath
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.config.patterns import EXPECTED

Model = TypeVar("Model", bound=BaseModel)

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text (put it in quotes)",
    "list": "a list",
    "tuple": "a list",
    "dict": "a section",
    "model": "a section",
    "model_attributes": "a section",
    "dataclass": "a section",
    "path": "a path",
    "none": "nothing",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


class Misplaced(ValueError):
    """Raised in a model's validator where the mistake lies in one of its keys: `path` leads there from the model."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


def validate(model: type[Model], document: Document) -> Model:
    """The document as a typed model.

    Raises:
        UserError: the first mistake in the order of the file; how many there are besides is said at the end.
    """
    data = {} if document.data is None else document.data
    try:
        result = model.model_validate(data)
    except ValidationError as failure:
        raise _first(model, document, data, failure) from None
    _refuse_conversions(document, data, result, ())
    return result


def _first(model: type[BaseModel], document: Document, data: Any, failure: ValidationError) -> UserError:
    errors = failure.errors(include_url=False)
    specific = _most_specific(data, errors)
    order = list(document.places)
    placed = [(_document_path(data, error), error) for error in specific]
    placed.sort(key=lambda item: order.index(item[0]) if item[0] in document.places else len(order))
    path, error = placed[0]
    found, expected, nearest = _words(model, path, error)
    if more := len({path for path, _ in placed}) - 1:
        found += f" (and {more} more mistake{'s' * (more > 1)} in this file)"
    return UserError(found, where=document.where(path), expected=expected, nearest=nearest)


def _most_specific(data: Any, errors: Sequence[Any]) -> list[Any]:
    """Of the errors of a union's members only those of the member that got furthest into the data."""
    paths = [_document_path(data, error) for error in errors]
    return [
        error
        for path, error in zip(paths, errors, strict=True)
        if not any(len(other) > len(path) and other[: len(path)] == path for other in paths)
    ]


def _document_path(data: Any, error: Mapping[str, Any]) -> KeyPath:
    """The path in the data of an error of pydantic's, whose location also names the members of unions."""
    path: list[str | int] = []
    for step in error["loc"]:
        inside = step in data if isinstance(data, Mapping) else isinstance(data, list) and isinstance(step, int)
        if inside:
            data = data[step]
            path.append(step)
    placed = error.get("ctx", {}).get("error")
    if isinstance(placed, Misplaced):
        return (*path, *placed.path)
    return (*path, error["loc"][-1]) if error["type"] == "missing" else tuple(path)


def _words(model: type[BaseModel], path: KeyPath, error: Mapping[str, Any]) -> tuple[str, str, str]:
    """What was found, what was expected, and the nearest valid name."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    name = ".".join(map(str, path))
    if kind == "extra_forbidden":
        keys = valid_keys(model, error["loc"][:-1])
        return f"unknown key '{path[-1]}'", "one of " + ", ".join(keys), nearest_name(str(path[-1]), keys)
    if kind == "missing":
        return f"'{name}' is missing", "it to be given", ""
    if kind == "value_error":
        message = str(context.get("error", error["msg"]))
        subject = "" if isinstance(context.get("error"), Misplaced) else _subject(name, value)
        return f"{subject}: {message}" if subject else message, "", ""
    found = f"{name} = {show(value)}" if name else f"{show(value)}"
    if kind in ("literal_error", "enum"):
        names = literal_names(model, error["loc"])
        return found, "one of " + ", ".join(names), nearest_name(str(value), names)
    if kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        key = context["discriminator"].strip("'")
        return f"{name}.{key} = {context['tag']}", "one of " + ", ".join(tags), nearest_name(context["tag"], tags)
    if kind == "union_tag_not_found":
        return f"'{name}' without {context['discriminator']}", "it to be given", ""
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return found, f"{words} {context[key]}", ""
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length", context.get("max_length"))
        return found, f"{'at least' if kind == 'too_short' else 'at most'} {bound} of them", ""
    if kind == "string_pattern_mismatch":
        return found, EXPECTED[context["pattern"]], ""
    if kind == "int_from_float":
        return found, _TYPES["int"], ""
    return found, _TYPES.get(kind.removesuffix("_type").removesuffix("_parsing"), error["msg"]), ""


def _subject(name: str, value: Any) -> str:
    return f"{name} = {show(value)}" if name and _short(value) else name


def _refuse_conversions(document: Document, data: Any, result: Any, path: KeyPath) -> None:
    """Refuse what pydantic would turn silently: `true` into 1, "6" in quotes into 6, 1 into true."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            made = getattr(result, key, None) if isinstance(result, BaseModel) else _item(result, key)
            _refuse_conversions(document, value, made, (*path, key))
    elif isinstance(data, list) and isinstance(result, Sequence) and len(data) == len(result):
        for index, (value, made) in enumerate(zip(data, result, strict=True)):
            _refuse_conversions(document, value, made, (*path, index))
    elif isinstance(data, bool | str) and isinstance(result, int | float) and type(data) is not type(result):
        expected = _TYPES["bool" if isinstance(result, bool) else "float" if isinstance(result, float) else "int"]
        raise UserError(f"{'.'.join(map(str, path))} = {show(data)}", where=document.where(path), expected=expected)
    elif isinstance(result, bool) and not isinstance(data, bool):
        raise UserError(
            f"{'.'.join(map(str, path))} = {show(data)}", where=document.where(path), expected=_TYPES["bool"]
        )


def _item(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, Mapping) else None


def show(value: Any) -> str:
    """A value as the user would write it, cut to one short line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        text = f"[{', '.join(show(item) for item in value)}]"
    elif isinstance(value, Mapping):
        text = "a section with " + ", ".join(map(str, value)) if value else "an empty section"
    else:
        text = f"'{value}'"
    return text if len(text) <= 60 else text[:57] + "..."


def _short(value: Any) -> bool:
    return not isinstance(value, Mapping | BaseModel) and len(show(value)) < 60


def valid_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys allowed at a location of pydantic's."""
    models = [kind for kind in _kinds_at(model, location) if _is_model(kind)]
    return list(dict.fromkeys(key for kind in models for key in kind.model_fields))


def literal_names(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The values of the enumeration at a location of pydantic's."""
    kinds = _kinds_at(model, location)
    return [str(name) for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]


def _kinds_at(model: Any, location: Sequence[str | int]) -> list[Any]:
    kinds: list[Any] = [model]
    for step in location:
        following = [below for kind in kinds for below in _below(kind, step)]
        named = [kind for kind in kinds if _is_model(kind) and _is_member(kind, step)]
        kinds = list(_members(following)) or named or kinds
    return kinds


def _below(kind: Any, step: str | int) -> Iterable[Any]:
    if _is_model(kind):
        if step in kind.model_fields:
            yield kind.model_fields[step].annotation
        return
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (list, tuple, Sequence) and isinstance(step, int) and arguments:
        yield arguments[min(step, len(arguments) - 1)] if arguments[-1] is not Ellipsis else arguments[0]
    elif origin in (dict, Mapping) and arguments:
        yield arguments[1]


def _members(kinds: Iterable[Any]) -> Iterable[Any]:
    """The kinds with unions opened and annotations taken off."""
    for kind in kinds:
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            yield from _members(get_args(kind))
        elif origin is Annotated:
            yield from _members(get_args(kind)[:1])
        elif hasattr(kind, "__value__"):
            yield from _members([kind.__value__])
        else:
            yield kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _is_member(kind: type[BaseModel], step: str | int) -> bool:
    """Whether a step of a location names this member of a union: by class, or by the value of a tag."""
    tags = {value for info in kind.model_fields.values() for value in get_args(info.annotation)}
    return step == kind.__name__ or step in tags
