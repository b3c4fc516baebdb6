"""What `nml-ray data shard` makes of sources, in small."""

import csv
from pathlib import Path

from nml_ray.data.dataset import Dataset
from nml_ray.data.reader import ShardReader
from nml_ray.data.sharding import Written, write_listing
from nml_ray.data.shards import write_tar
from nml_ray.data.sources.choose import SourceOptions, opened_source
from tests.small_images import picture


def shard(source, out, options: SourceOptions | None = None, **more) -> Written:
    """What `nml-ray data shard` does, with small shards."""
    with opened_source(str(source), out, options or SourceOptions()) as listing:
        return write_listing(listing, out, **{"samples_per_shard": 5, **more})


def contents(directory) -> dict:
    """Image bytes, class name and caption by key."""
    data = Dataset.open(directory)
    reader, captions = ShardReader(data), list(data.captions())
    names = [data.classes[label] if label >= 0 else None for label in data.label]
    return {data.key(i): (reader.read(i), names[i], captions[i]) for i in range(len(data))}


def tars(directory) -> dict:
    return {path.name: path.read_bytes() for path in directory.rglob("*.tar")}


def write_csv(path: Path, rows: list, names=("path", "label", "caption"), delimiter=",") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return path


def foreign_tars(directory, classes=4, each=10) -> None:
    """Tars sorted by class, with names for labels and members of their own."""
    directory.mkdir()
    for c in range(classes):
        members = (
            {
                "png": picture(c * each + i, "png"),
                "cls": f"class {c}\n".encode(),
                "json": b'{"by": "me"}',
                "b.txt": b"t",
            }
            for i in range(each)
        )
        write_tar(directory / f"part-{c}.tar", ((f"{c}/{i}", one) for i, one in enumerate(members)))
