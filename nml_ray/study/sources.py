"""What identifies data that a job names by path: read from the files, so that moving them changes nothing."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.storage.digest import digest_of, digest_of_file


def icons_digest() -> str:
    """sha256 of the shipped icons."""
    return digest_of_file(Path(str(files("nml_ray.data.icons").joinpath("icons.parquet"))))


def dataset_identity(split: str, directory: Path, layout: bool) -> dict[str, Any]:
    """The digest of a directory of tars, from its dataset.json; indexes the tars first where there is none.

    With `layout` the shards' names and contents count too, for orders that depend on them.

    Raises:
        UserError: no such directory, no tars, or tars that cannot be indexed.
    """
    where = f"data.shards.{split}"
    if not directory.is_dir():
        raise UserError(f"'{directory}' is no directory", where=where, expected="a directory of WebDataset tars")
    file = directory / "dataset.json"
    if not file.exists():
        from nml_ray.data.indexing import index_directory

        index_directory(directory)
    try:
        info = json.loads(file.read_bytes())
        identity = {"digest": info["digest"], "classes": len(info["classes"])}  # noise and heads depend on K
        shards = [[Path(shard["name"]).name, shard["digest"]] for shard in info["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        again = f"one written by `nml-ray data index {directory}`"
        raise UserError(f"cannot be read ({error})", where=str(file), expected=again) from None
    return {**identity, "layout": digest_of(sorted(shards))} if layout else identity


def file_digest(path: Path, what: str) -> str:
    """sha256 of a file that a job names.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return digest_of_file(path)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=f"{what}: {path}", expected="a file") from None


def feature_links(paths: Mapping[str, Path]) -> dict[str, Path]:
    """The files of given features under the names of their splits; labels beside .npy files follow them."""
    links = {}
    for split, path in paths.items():
        links[f"{split}{path.suffix}"] = path
        if path.suffix == ".npy":
            links[f"{split}.labels.npy"] = path.with_name(f"{path.stem}.labels.npy")
    return links
