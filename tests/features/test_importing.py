import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nml_ray.config.errors import UserError
from nml_ray.features.importing import import_features
from nml_ray.features.store import read_split
from nml_ray.features.sums import Sums

VALUES = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
LABELS = np.arange(12) % 3


def table(values=VALUES, labels=LABELS, **columns) -> pa.Table:
    return pa.table({"label": pa.array(labels), "features": pa.array(list(values)), **columns})


def write(directory, kind):
    path = directory / f"given{kind}"
    if kind == ".parquet":
        pq.write_table(table(key=pa.array([f"k{row}" for row in range(12)])), path)
    elif kind == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table().schema) as writer:
            writer.write_table(table())
    elif kind == ".npz":
        np.savez(path, features=VALUES, labels=LABELS)
    else:
        np.save(path, VALUES)
        np.save(path.with_suffix(".labels.npy"), LABELS)
    return path


@pytest.mark.parametrize("kind", [".parquet", ".arrow", ".npz", ".npy"])
def test_every_kind_of_file(tmp_path, kind):
    path = write(tmp_path, kind)
    facts = import_features({"train": path, "test": path}, tmp_path / "out", "float16", ["raw"])
    assert facts == {"samples": {"train": 12, "test": 12}, "dim": 4, "dtype": "float16", "transforms": ["raw"]}
    features = read_split(tmp_path / "out", "train")
    assert np.array_equal(features.values, VALUES.astype(np.float16))
    assert np.array_equal(features.labels, LABELS)
    assert features.keys[1] == ("k1" if kind == ".parquet" else "1")
    assert Sums.load(tmp_path / "out" / "test" / "given.sums.npz").count == 12


def test_names_are_numbered_alike_in_every_split(tmp_path):
    pq.write_table(table(labels=["b", "a", "c"] * 4), tmp_path / "train.parquet")
    pq.write_table(table(labels=["c", "a"] * 6), tmp_path / "test.parquet")
    import_features({"train": tmp_path / "train.parquet", "test": tmp_path / "test.parquet"}, tmp_path / "out")
    assert list(read_split(tmp_path / "out", "train").labels[:3]) == [1, 0, 2]
    assert list(read_split(tmp_path / "out", "test").labels[:2]) == [2, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: table().drop_columns(["label"]), "lacks the column label"),
        (lambda: table().drop_columns(["features"]), "lacks the column features"),
        (lambda: table(values=[[1.0], [1.0, 2.0]] * 6), "rows of features differ in length"),
        (lambda: table(values=[[np.nan] * 4] * 12), "12 of 12 rows of features hold NaN"),
        (lambda: table(values=[[None, 1.0]] * 12), "empty places"),
        (lambda: table(key=pa.array(["same"] * 12)), "key same occurs more than once"),
        (lambda: table(labels=LABELS - 1), "label -1; expected labels from 0"),
        (lambda: table(labels=LABELS + 0.5), "labels of type float64"),
        (lambda: table().slice(0, 0), "at least one sample"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    pq.write_table(content(), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match=message) as caught:
        import_features({"train": tmp_path / "bad.parquet"}, tmp_path / "out")
    assert "bad.parquet" in str(caught.value)


def test_bad_files(tmp_path):
    (tmp_path / "a.csv").write_text("1,2")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    np.save(tmp_path / "c.npy", VALUES)
    for name, message in [
        ("a.csv", "is a '.csv' file"),
        ("b.parquet", "cannot be read"),
        ("c.npy", "has no labels"),
        ("d.npy", "no such"),
    ]:
        with pytest.raises(UserError, match=message):
            import_features({"train": tmp_path / name}, tmp_path / "out")


def test_widths_must_agree(tmp_path):
    pq.write_table(table(), tmp_path / "a.parquet")
    pq.write_table(table(values=VALUES[:, :2]), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: features of width 2; expected 4, as in .*a\.parquet"):
        import_features({"train": tmp_path / "a.parquet", "test": tmp_path / "b.parquet"}, tmp_path / "out")
