"""A data set of torchvision's by name, from files that are there already."""

import inspect
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.data.index import IMAGE_EXTENSIONS
from nml_ray.data.sources.listing import Listing, RowBuilder, class_numbers, extension_of, key_of, readable_file
from nml_ray.data.sources.spool import Spool


def torchvision_listing(
    name: str, root: Path, split: str, spool: Spool, classes: Sequence[str] | None = None
) -> Listing:
    """The samples of `torchvision.datasets.<name>`; nothing is downloaded.

    Sets that keep image files give those files, unchanged, keyed by their path below `root`; sets that keep pixels
    (CIFAR, MNIST) give PNGs, keyed `<split>/<number>`.

    Args:
        name: of the class.
        root: what torchvision calls `root`.
        split: `train` or `test` for sets with `train=`, else what the set calls its split; "" for its default.
        spool: takes images that are no files.
        classes: class names in label order; default: the set's own.

    Raises:
        UserError: no such set; its files are not below `root`; its targets are no class numbers.
    """
    found = _open(name, root, split)
    builder, labels = RowBuilder(), []
    for number in range(len(found)):
        image, target = found[number]
        where = f"torchvision:{name}, sample {number}"
        try:
            labels.append(str(int(target)))
        except (TypeError, ValueError):
            raise UserError(
                f"target {target!r}", where=where, expected="a data set whose targets are classes"
            ) from None
        if isinstance(image, str | Path):
            _add_file(builder, Path(image), root, where)
        else:
            out = io.BytesIO()
            image.save(out, "PNG")
            spool.add(builder, f"{split or 'all'}/{number:08d}", out.getvalue(), "png", None, where)
    spool.flush()
    words = pa.chunked_array([pa.array(labels, pa.string())])
    own = getattr(found, "classes", None)
    names = classes if classes is not None else [_name(one) for one in own] if own else None
    numbers, named = class_numbers(words, names, f"torchvision:{name}")
    rows = builder.table()
    return Listing(rows.set_column(1, rows.schema.field("label"), numbers), named)


def _open(name: str, root: Path, split: str) -> Any:
    from torchvision import datasets

    where = f"torchvision:{name}"
    if name not in datasets.__all__:
        near = nearest_name(name, datasets.__all__)
        raise UserError("no such data set", where=where, expected="a name of torchvision.datasets", nearest=near)
    kind = getattr(datasets, name)
    names = inspect.signature(kind).parameters
    options: dict[str, Any] = {}
    if "loader" in names or issubclass(kind, datasets.DatasetFolder):
        options["loader"] = str  # the path itself
    if "download" in names:
        options["download"] = False
    if split:
        options |= _split_option(split, names, where)
    try:
        return kind(str(root), **options)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        reason = str(error).split(" You can use download=True")[0]
        raise UserError(
            reason, where=where, expected=f"its files below --root {root}, as torchvision lays them"
        ) from None


def _split_option(split: str, names: Any, where: str) -> dict[str, Any]:
    if "split" in names:
        return {"split": split}
    if "train" not in names:
        raise UserError(f"--split {split}: it has no splits", where=where, expected="no --split")
    if split not in ("train", "test"):
        raise UserError(f"--split {split}", where=where, expected="train or test")
    return {"train": split == "train"}


def _add_file(builder: RowBuilder, path: Path, root: Path, where: str) -> None:
    extension = extension_of(path.name)
    if extension not in IMAGE_EXTENSIONS:
        raise UserError(f"'{path}' has extension '{extension}'", where=where, expected=", ".join(IMAGE_EXTENSIONS))
    size, changed = readable_file(path, where)
    key = key_of(path.absolute().relative_to(root.absolute()).as_posix())
    builder.add(key, str(path), extension, size=size, stamp=changed, where=where)


def _name(one: Any) -> str:
    """ImageNet's classes are tuples of synonyms."""
    return one if isinstance(one, str) else ", ".join(map(str, one)) if isinstance(one, tuple) else str(one)
