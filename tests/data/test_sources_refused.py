"""Sources that cannot become shards are refused with what to change."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from nml_ray.config.errors import UserError
from nml_ray.data.sources.choose import SourceOptions
from nml_ray.data.sources.table import Columns
from tests.data.sharded import foreign_tars, shard, write_csv
from tests.small_images import image_tree, picture


def refuse_tree(root, kind):
    image_tree(root, ("cat", "dog"), 2)
    if kind == "loose":
        (root / "loose.jpg").write_bytes(picture(0))
    elif kind == "twice":
        (root / "cat/cat.v0.png").write_bytes(picture(0, "png"))
    elif kind == "tar":
        foreign_tars(root / "tars", 1, 1)


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("loose", SourceOptions(), "'loose.jpg' lies beside the sub-directories"),
        (
            "twice",
            SourceOptions(),
            r"key 'cat/cat_v0' comes twice, from .*cat\.v0\.jpg and from .*cat\.v0\.png.*rename",
        ),
        ("tar", SourceOptions(), "either tars"),
        ("", SourceOptions(classes=["kat", "dog"]), "'cat' is none of the 2 classes.*did you mean 'kat'"),
    ],
)
def test_folders_refused(tmp_path, kind, options, text):
    refuse_tree(tmp_path / "in", kind)
    with pytest.raises(UserError, match=text):
        shard(tmp_path / "in", tmp_path / "out", options)


@pytest.mark.parametrize(
    ("rows", "names", "options", "text"),
    [
        ([], ("path", "label"), {}, "no rows"),
        ([], (), {}, "which column"),
        ([("a.jpg",)], ("where",), {}, "which column holds the images"),
        ([("a.jpg", "0")], ("path", "label"), {"label": "lable"}, "no column 'lable'.*did you mean 'label'"),
        ([("gone.jpg",)], ("path",), {}, r"list\.csv, row 1: .*gone\.jpg' cannot be read"),
        ([("a.gif",)], ("path",), {}, "extension 'gif'"),
        ([("../list.jpg",)], ("path",), {}, "not below|cannot be read"),
        ([("a.jpg", "1", "2")], ("path", "label"), {}, "Expected 2 columns, got 3"),
        ([("a.jpg", "x"), ("b.jpg", "1")], ("path", "label"), {}, "labels 'x' and '1'"),
        ([("a.jpg",), ("a.jpg",)], ("path",), {}, "key 'a' comes twice.*a key column"),
        ([("",)], ("path",), {}, "image None"),
        ([("a.jpg", "x/")], ("path", "key"), {}, "cannot name a tar member"),
    ],
)
def test_tables_refused(tmp_path, rows, names, options, text):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(picture(0))
    write_csv(tmp_path / "list.csv", rows, names)
    with pytest.raises(UserError, match=text):
        shard(tmp_path / "list.csv", tmp_path / "out", SourceOptions(columns=Columns(**options)))


def test_other_sources_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    (tmp_path / "x.csv").write_bytes(b"path\n\xff\xfe.jpg\n")
    (tmp_path / "x.zip").write_bytes(b"")
    parquet.write_table(pa.table({"image": [b"no image"]}), tmp_path / "y.parquet")
    for name, text in (
        ("empty", "no image"),
        ("x.parquet", r"x\.parquet: cannot be read"),
        ("x.csv", r"x\.csv.*cannot be read"),
        ("x.zip", "extension '.zip'"),
        ("y.parquet", "row 1: its bytes are no JPEG"),
        ("nowhere", "does not exist"),
    ):
        with pytest.raises(UserError, match=text):
            shard(tmp_path / name, tmp_path / "out")
    with pytest.raises(UserError, match="lies in the source"):
        shard(tmp_path / "empty", tmp_path / "empty/out")


@pytest.mark.parametrize(
    ("file", "texts", "text"),
    [
        ("list.txt", (), "list.txt, row 2: no label; expected a path, a blank and a label"),
        ("pairs.parquet", ("a", "d"), "no column 'd'; expected a, b, label"),
        ("pairs.parquet", ("a", "b"), "pairs.parquet, row 2: text None; expected text"),
        ("words.csv", ("a",), "labels 'good' and '3'; expected names, or numbers, or --classes"),
    ],
)
def test_texts_and_lists_refused(tmp_path, file, texts, text):
    (tmp_path / "list.txt").write_text("a.jpg 1\nb.jpg\n")
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "words.csv").write_text("a,label\nx,good\ny,3\n")
    parquet.write_table(pa.table({"a": ["x", None], "b": ["y", "z"], "label": [0, 1]}), tmp_path / "pairs.parquet")
    with pytest.raises(UserError) as error:
        shard(tmp_path / file, tmp_path / "out", SourceOptions(columns=Columns(texts=texts)))
    assert text in str(error.value)
