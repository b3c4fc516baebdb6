"""Tables and lists of images and texts become shards with the same bytes."""

import json

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from nml_ray.data.dataset import Dataset
from nml_ray.data.indexing import index_directory
from nml_ray.data.sources.choose import SPOOL, SourceOptions, opened_source
from nml_ray.data.sources.listing import key_of
from nml_ray.data.sources.table import Columns
from tests.data.sharded import contents, shard, write_csv
from tests.small_images import image_tree, picture


def test_csv_of_paths(tmp_path):
    image_tree(tmp_path / "images", ("cat", "dog"), 4)
    paths = sorted(path.relative_to(tmp_path) for path in (tmp_path / "images").rglob("*.*") if path.is_file())
    rows = [(str(path), path.parts[1], f'a "{i}",\nof two lines' if i else "") for i, path in enumerate(paths)]
    rows[1] = (str(tmp_path / rows[1][0]), *rows[1][1:])  # an absolute path
    shard(write_csv(tmp_path / "list.csv", rows), tmp_path / "out")
    found = contents(tmp_path / "out")
    assert found == {
        key_of(str(path)): ((tmp_path / path).read_bytes(), path.parts[1], row[2] or None)
        for path, row in zip(paths, rows, strict=True)
    }
    renamed = write_csv(tmp_path / "list.tsv", [(f"p.{i}", *row) for i, row in enumerate(rows)], "nifc", "\t")
    columns = Columns(image="i", label="f", key="n")
    shard(renamed, tmp_path / "out2", SourceOptions(columns=columns, classes=["dog", "cat"]))
    assert Dataset.open(tmp_path / "out2").classes == ("dog", "cat")
    assert {key: value[:2] for key, value in contents(tmp_path / "out2").items()} == {
        f"p_{i}": found[key_of(str(path))][:2] for i, path in enumerate(paths)
    }


def test_parquet_of_bytes(tmp_path):
    images = [picture(i, ("jpg", "png", "webp")[i % 3]) for i in range(12)]
    table = pa.table({"image": images, "label": [i % 3 for i in range(12)], "text": [f"text {i}" for i in range(12)]})
    parquet.write_table(table, tmp_path / "a.b.parquet", row_group_size=5)
    shard(tmp_path / "a.b.parquet", tmp_path / "out")
    expected = {f"a_b/{i + 1:09d}": (images[i], str(i % 3), f"text {i}") for i in range(12)}
    assert contents(tmp_path / "out") == expected
    assert not (tmp_path / "out" / SPOOL).exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert shard(tmp_path / "a.b.parquet", tmp_path / "out").kept == 3
    assert {p: p.stat().st_mtime_ns for p in before if p.suffix != ".json"} == {
        p: t for p, t in before.items() if p.suffix != ".json"
    }


def test_parquet_as_hugging_face_writes_it(tmp_path):
    images = [{"bytes": picture(i), "path": None} for i in range(4)]
    features = {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (tmp_path / "set").mkdir()
    for part in range(2):
        table = pa.table({"image": images[part * 2 :][:2], "label": [0, 1]}).replace_schema_metadata(metadata)
        parquet.write_table(table, tmp_path / f"set/train-{part}.parquet")
    shard(tmp_path / "set", tmp_path / "out")
    found = contents(tmp_path / "out")
    assert found["train-1/000000002"] == (images[3]["bytes"], "ant", None) and len(found) == 4


def test_taking_from_many_pieces(tmp_path):
    from nml_ray.data.sources.listing import ROWS, Listing

    pieces = [
        pa.record_batch(
            [pa.array([f"{p}/{i}" for i in range(p)]), *(pa.nulls(p, field.type) for field in ROWS)][:1]
            + [pa.nulls(p, field.type) for field in list(ROWS)[1:]],
            schema=ROWS,
        )
        for p in (3, 0, 5, 1)
    ]
    listing = Listing(pa.Table.from_batches(pieces, ROWS), ())
    numbers = np.array([8, 0, 3, 2, 7, 3])
    keys = listing.rows["key"].to_pylist()
    assert listing.take(numbers)["key"].to_pylist() == [keys[i] for i in numbers]


def test_tables_of_texts(tmp_path):
    rows = {"a": ["one", "two\nlines", "", "four"], "b": ["ä", "b", "c", "d"], "label": [0, 1, -1, 1]}
    parquet.write_table(pa.table(rows), tmp_path / "pairs.parquet")
    options = SourceOptions(columns=Columns(texts=("a", "b")))
    with opened_source(str(tmp_path / "pairs.parquet"), tmp_path / "out", options) as listing:
        assert listing.notes == ("rows without a label (-1), left out: 1",)
    shard(tmp_path / "pairs.parquet", tmp_path / "out", options)
    found = contents(tmp_path / "out")
    assert {key: (text.decode(), name, caption) for key, (text, name, caption) in found.items()} == {
        "pairs/000000001": ("one\nä", "0", "one\nä"),
        "pairs/000000002": ("two\nlines\nb", "1", "two\nlines\nb"),
        "pairs/000000004": ("four\nd", "1", "four\nd"),
    }
    index_directory(tmp_path / "out")  # again: the texts stay the samples
    assert len(Dataset.open(tmp_path / "out")) == 3


def test_lists_of_paths_and_labels(tmp_path):
    image_tree(tmp_path / "real", ("cat", "the owl"), 2)
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "real").rglob("*.*") if path.is_file())
    (tmp_path / "real_train.txt").write_text("".join(f"{path} {int('owl' in path)}\n" for path in paths))
    shard(tmp_path / "real_train.txt", tmp_path / "out")
    found = contents(tmp_path / "out")
    assert len(found) == 4 and found["real/the owl/the owl_v0"][1] == "1"
