"""What identifies data that a job names by path: read from the files, so that moving them changes nothing."""

import json
from collections.abc import Mapping
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.data.class_names import are_numbers
from nml_ray.storage.digest import digest_of, digest_of_file
from nml_ray.storage.link import Link
from nml_ray.storage.location import locate
from nml_ray.storage.shard_cache import size_text


def icons_digest() -> str:
    """sha256 of the shipped icons."""
    return digest_of_file(Path(str(files("nml_ray.data.icons").joinpath("icons.parquet"))))


def place(split: str, text: str, cache: str, cache_size: str) -> Path | Link:
    """Where a split lies: a directory, or a link to an object store that is read through a cache of this size.

    Raises:
        UserError: a URL that cannot be read.
    """
    location = locate(text, f"data.shards.{split}")
    return Link(str(location), cache, cache_size) if location.remote else location.local


def dataset_identity(split: str, directory: Path | Link, layout: bool) -> dict[str, Any]:
    """The digest of a directory of tars, from its dataset.json; indexes local tars first where there is none.

    With `layout` the shards' names and contents count too, for orders that depend on them.

    Raises:
        UserError: no such directory, no tars, or tars that cannot be indexed; an object store that cannot be reached.
    """
    info = any_info(split, directory)
    file = f"{directory}/dataset.json"
    try:
        identity = {"digest": info["digest"], "classes": len(info["classes"])}  # noise and heads depend on K
        shards = [[Path(shard["name"]).name, shard["digest"]] for shard in info["shards"]]
    except (KeyError, TypeError) as error:
        raise _unreadable(file, error, directory) from None
    return {**identity, "layout": digest_of(sorted(shards))} if layout else identity


def refuse_other_classes(directories: Mapping[str, Path | Link]) -> None:
    """Refuse splits whose labels do not mean the same classes; those without labels, and numbers, fit any.

    Raises:
        UserError: the class names of two splits differ.
    """
    found = {split: any_info(split, place).get("classes") for split, place in directories.items()}
    classes = {split: list(names) for split, names in found.items() if names}
    first, *others = classes or {"": []}
    for split in others:
        if classes[split] == classes[first] or (are_numbers(classes[split]) and are_numbers(classes[first])):
            continue
        pairs = zip_longest(classes[first], classes[split])
        label, (one, other) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        here, there = (f"'{name}'" if name is not None else "no class" for name in (other, one))
        raise UserError(
            f"label {label} is {here}, but {there} in {first}",
            where=f"data.shards.{split}: {directories[split]}",
            expected="the same class names in the same order: index or shard all splits with one --classes file",
        )


def refuse_full_order(directory: Path | Link) -> None:
    """Refuse to shuffle all samples of an object store's data set that the shard cache cannot hold.

    Raises:
        UserError: it would bring every tar for a few samples, over and over.
    """
    if not isinstance(directory, Link):
        return
    size, limit = sum(shard["bytes"] for shard in _info(directory)["shards"]), directory.shard_cache().limit
    if size > limit:
        raise UserError(
            f"a full shuffle of {size_text(size)} on an object store through a shard cache of {size_text(limit)}",
            where="pretrain.order",
            expected=f"`order: lanes`, or run.shard_cache_size: {-(-size // 10**9)}GB",
        )


def any_info(split: str, directory: Path | Link) -> dict[str, Any]:
    """What dataset.json holds; local tars are indexed first where there is none. Raises as `dataset_identity`."""
    return _info(directory) if isinstance(directory, Link) else _local_info(split, directory)


def _info(link: Link) -> dict[str, Any]:
    from nml_ray.data.dataset_info import read_info
    from nml_ray.storage.patience import QUICK

    return read_info(link, QUICK).model_dump(mode="json")


def _local_info(split: str, directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        where = f"data.shards.{split}"
        raise UserError(f"'{directory}' is no directory", where=where, expected="a directory of WebDataset tars")
    file = directory / "dataset.json"
    if not file.exists():
        from nml_ray.data.indexing import index_directory

        index_directory(directory)
    try:
        info: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(str(file), error, directory) from None
    return info


def _unreadable(file: str, error: Exception, directory: Path | Link) -> UserError:
    again = f"one written by `nml-ray data index {directory}`"
    return UserError(f"cannot be read ({error})", where=file, expected=again)


def file_digest(path: Path, what: str) -> str:
    """sha256 of a file that a job names.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return digest_of_file(path)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=f"{what}: {path}", expected="a file") from None


def files_digest(paths: Mapping[str, Path], what: str) -> str:
    """sha256 of one file, or of the names and digests of several.

    Raises:
        UserError: one cannot be read.
    """
    digests = {name: file_digest(path, what) for name, path in paths.items()}
    return next(iter(digests.values())) if len(digests) == 1 else digest_of(digests)


def feature_links(paths: Mapping[str, Path]) -> dict[str, Path]:
    """The files of given features under the names of their splits; labels beside .npy files follow them."""
    links = {}
    for split, path in paths.items():
        links[f"{split}{path.suffix}"] = path
        if path.suffix == ".npy":
            links[f"{split}.labels.npy"] = path.with_name(f"{path.stem}.labels.npy")
    return links
