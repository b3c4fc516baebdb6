"""A folder of images: the class is the sub-directory."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.data.index import IMAGE_EXTENSIONS
from nml_ray.data.sources.listing import Listing, RowBuilder, extension_of, key_of

DISTINCT = "names of files that differ in more than extension and dots: rename one of them, or take it out"


def image_folder(root: Path, classes: Sequence[str] | None = None) -> Listing:
    """The images below a folder, each labelled by the first directory of its path; without directories, unlabelled.

    Hidden files and directories are passed over; so are files of other extensions and links that lead nowhere, which
    the notes count. Classes without an image are noted.

    Args:
        root: links in it are followed.
        classes: names of the sub-directories in label order; default: all that hold images, sorted.

    Raises:
        UserError: no image; images beside the sub-directories; a sub-directory that is none of `classes`.
    """
    found: list[tuple[str, os.stat_result]] = []
    others: Counter[str] = Counter()
    broken: list[str] = []
    for path, entry in _files(root, "", set()):
        extension = extension_of(path)
        if not entry.is_file():
            broken.append(path)
        elif extension in IMAGE_EXTENSIONS:
            found.append((path, entry.stat()))
        else:
            others["." + extension if "." in entry.name else "none"] += 1
    notes = [f"files that are no images, left out: {sum(others.values())} ({_counts(others)})"] if others else []
    if broken:
        notes.append(f"links that lead nowhere, left out: {len(broken)} (the first is '{broken[0]}')")
    if not found:
        kinds = f"; it has files of extension {_counts(others)}" if others else ""
        links = f"; {len(broken)} links lead nowhere" if broken else ""
        raise UserError(f"no image{kinds}{links}", where=str(root), expected="files " + ", ".join(IMAGE_EXTENSIONS))
    numbers = _numbers(root, [path for path, _ in found], classes)
    notes += _empty(root, numbers, {path.partition("/")[0] for path, _ in found})
    builder = RowBuilder()
    for path, status in found:
        label = numbers[path.partition("/")[0]] if numbers else None
        file = os.path.join(root, path)
        builder.add(key_of(path), file, extension_of(path), size=status.st_size, stamp=status.st_mtime_ns, label=label)
    named = tuple(classes) if classes is not None else tuple(numbers)
    return Listing(builder.table(), named if numbers else (), notes=tuple(notes), distinct=DISTINCT)


def _numbers(root: Path, paths: Sequence[str], classes: Sequence[str] | None) -> dict[str, int]:
    """Label of each sub-directory, in label order; empty for a flat folder."""
    directories = sorted({path.partition("/")[0] for path in paths if "/" in path})
    if not directories:
        return {}
    if loose := next((path for path in paths if "/" not in path), None):
        raise UserError(
            f"image '{loose}' lies beside the sub-directories, which are the classes",
            where=str(root),
            expected="every image in the sub-directory of its class, or all beside one another",
        )
    numbers = {name: number for number, name in enumerate(directories if classes is None else classes)}
    for name in directories:
        if name not in numbers:
            raise UserError(
                f"sub-directory '{name}' is none of the {len(numbers)} classes",
                where=str(root),
                expected="a class of --classes",
                nearest=nearest_name(name, numbers),
            )
    return numbers


def _empty(root: Path, numbers: Mapping[str, int], seen: set[str]) -> Iterator[str]:
    """Notes of classes, and of sub-directories beside them, that hold no image."""
    with os.scandir(root) as entries:
        directories = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    if lacking := [name for name in numbers if name not in seen]:
        yield f"classes without an image: {len(lacking)} (the first is '{lacking[0]}')"
    if numbers and (empty := sorted(directories - seen - set(numbers))):
        yield f"sub-directories without an image, which are no classes: {len(empty)} (the first is '{empty[0]}')"


def _files(directory: Path, below: str, above: set[tuple[int, int]]) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Files, and links that lead nowhere, with their path below the root, by name.

    A directory that contains itself by a link is not entered.
    """
    status = os.stat(directory)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(directory) as entries:
        listed = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_dir():
            yield from _files(Path(entry.path), f"{below}{entry.name}/", above | {here})
        elif entry.is_file() or not os.path.exists(entry.path):
            yield below + entry.name, entry


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counter.most_common(5))
