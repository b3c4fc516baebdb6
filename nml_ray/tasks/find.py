"""Task files: those that ship with the package by name, and the user's own by path."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from nml_ray.config.document import load
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.config.validate import validate
from nml_ray.storage.location import locate
from nml_ray.tasks.config import OodSet, TaskSettings

SUFFIXES = (".yaml", ".yml", ".json")


def shipped() -> dict[str, Path]:
    """The task files of the package by name."""
    return {path.stem: path for path in sorted(Path(str(files("nml_ray.tasks") / "files")).glob("*.yaml"))}


def find_task(task: str, where: str = "TASK") -> TaskSettings:
    """A task by the name of a shipped file, or by the path of a file.

    Raises:
        UserError: there is neither, or its content is wrong.
    """
    path, ready = Path(task), shipped()
    if task in ready:
        return read_task(ready[task])
    if path.suffix in SUFFIXES or len(path.parts) > 1 or path.is_file():
        return read_task(path)
    raise UserError(
        f"no task '{task}'",
        where=where,
        expected="a task file, or one of " + ", ".join(ready),
        nearest=nearest_name(task, ready),
    )


def read_task(path: Path) -> TaskSettings:
    """The task of a file.

    Raises:
        UserError: see `document.load` and `validate`.
    """
    return validate(TaskSettings, load(path))


def class_map(task: TaskSettings, name: str, data: str) -> Mapping[str, tuple[str, ...]] | None:
    """Which classes of train those of a set of another domain stand for, where the task says so.

    Raises:
        UserError: the file that says so cannot be read.
    """
    chosen = task.ood[name].classes
    if not isinstance(chosen, str):
        return chosen
    own = Path(str(files("nml_ray.tasks") / "files" / chosen))
    path = str(own) if own.is_file() else beside(chosen, data)
    where = f"task {task.name}, ood.{name}.classes"
    if not Path(path).is_file():
        raise UserError(f"there is no file '{path}'", where=where, expected="a YAML or JSON file of CLASS: [NAME, ...]")
    document = load(Path(path))
    given = {"shards": "x", "classes": document.data}
    places = {("classes", *key): place for key, place in document.places.items()}
    found = validate(OodSet, type(document)(document.name, given, places)).classes
    if not isinstance(found, Mapping):
        raise UserError("holds no classes", where=path, expected="CLASS: [NAME, ...]")
    return found


def beside(path: str, data: str) -> str:
    """A path of a task's as it is to be opened: a relative one lies below the directory (or URL) `data`."""
    place = locate(path)
    return str(place) if place.remote or place.local.is_absolute() else str(locate(data) / path)
