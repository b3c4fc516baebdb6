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
    facts = import_features({"train": path, "validation": path}, tmp_path / "out", "float16", ["raw"])
    assert facts == {"samples": {"train": 12, "validation": 12}, "dim": 4, "dtype": "float16", "transforms": ["raw"]}
    features = read_split(tmp_path / "out", "train")
    assert np.array_equal(features.values, VALUES.astype(np.float16))
    assert np.array_equal(features.labels, LABELS)
    assert features.keys[1] == ("k1" if kind == ".parquet" else "1")
    assert Sums.load(tmp_path / "out" / "validation" / "given.sums.npz").count == 12


def test_rows_of_train_in_a_test_set_are_refused(tmp_path):
    keys = [f"cat/{row}" for row in range(12)]
    pq.write_table(table(key=pa.array(keys)), tmp_path / "train.parquet")
    pq.write_table(table(values=VALUES + 1, key=pa.array(keys)), tmp_path / "others.parquet")  # names by chance
    import_features({"train": tmp_path / "train.parquet", "test": tmp_path / "others.parquet"}, tmp_path / "out")
    some = VALUES + (np.arange(12) > 3)[:, None].astype(np.float32)
    pq.write_table(table(values=some[::-1], key=pa.array(keys[::-1])), tmp_path / "some.parquet")
    with pytest.raises(UserError, match=r"some.parquet: 4 samples of train, first 'cat/0'; expected a test set that"):
        import_features({"train": tmp_path / "train.parquet", "ood": tmp_path / "some.parquet"}, tmp_path / "out")


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
        (lambda: table(values=[[np.inf, 1.0]] * 12), "12 of 12 rows of features hold NaN or infinity"),
        (lambda: table(values=[[None, 1.0]] * 12), "empty places"),
        (lambda: table(values=[[]] * 12), r"features of type list<.*null>; expected lists of numbers"),
        (lambda: table(values=["a b"] * 12), "features of type string; expected lists of numbers"),
        (lambda: table(values=[["a"]] * 12), "expected lists of numbers"),
        (lambda: table(values=[[1e39, 1.0]] * 12), "overflows float32"),
        (lambda: table(key=pa.array([None, *"abcdefghijk"])), "row 0 has no key; expected a key in every row"),
        (lambda: table(labels=[0, 1, None] * 4), "row 2 has no label"),
        (lambda: table(labels=["a", "b", None] * 4), "row 2 has no label"),
        (lambda: table(key=pa.array(["same"] * 12)), "key same occurs more than once"),
        (lambda: table(labels=LABELS - 1), "label -1; expected labels from 0"),
        (lambda: table(labels=LABELS + 0.5), "labels of type float64"),
        (lambda: table().slice(0, 0), "at least one sample"),
        (lambda: table(view=pa.array(["a"] * 12)), "views of type string; expected whole numbers"),
        (lambda: table(view=pa.array([-1] * 12)), "rows of several views"),
        (lambda: table(labels=np.full(12, 2**63 + 1, np.uint64)), "expected labels that fit 63 bits"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    pq.write_table(content(), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match=message) as caught:
        import_features({"train": tmp_path / "bad.parquet"}, tmp_path / "out")
    assert "bad.parquet" in str(caught.value)


def test_files_of_another_kind(tmp_path):
    (tmp_path / "a.txt").write_text("1,2")
    np.save(tmp_path / "c.npy", VALUES)
    np.savez(tmp_path / "e.npz", features=VALUES)
    np.savez(tmp_path / "f.npz", features=np.array([{}] * 12), labels=LABELS)
    np.savez(tmp_path / "g.npz", features=np.array(1.0), labels=LABELS)
    (tmp_path / "h.csv").write_text("label,a,a\n0,1,2\n")
    np.savez_compressed(tmp_path / "i.npz", features=VALUES, labels=LABELS)
    content = bytearray((tmp_path / "i.npz").read_bytes())
    content[60:90] = bytes(30)
    (tmp_path / "i.npz").write_bytes(content)
    for name, message in [
        ("a.txt", "is a '.txt' file; expected .arrow"),
        ("c.npy", r"has no labels; expected its labels in .*c\.labels\.npy"),
        ("d.npy", "no such file"),
        ("e.npz", "lacks an array .*labels"),
        ("f.npz", "cannot be read .*pickle"),
        ("g.npz", "holds a single value"),
        ("h.csv", "has two columns a"),
        ("i.npz", "cannot be read"),
    ]:
        with pytest.raises(UserError, match=message):
            import_features({"train": tmp_path / name}, tmp_path / "out")


@pytest.mark.parametrize("kind", [".parquet", ".arrow", ".npz", ".npy"])
@pytest.mark.parametrize("share", [0, 0.5, 0.97])
def test_files_cut_short(tmp_path, kind, share):
    path = write(tmp_path, kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=rf"given\{kind}: cannot be read"):
        import_features({"train": path}, tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.arrow"))


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (VALUES[0], LABELS, r"features of shape \[4\]"),
        (VALUES[:, :0], LABELS, r"features of shape \[12, 0\]"),
        (VALUES.astype(complex), LABELS, "type complex128"),
        (VALUES, LABELS[:5], "5 labels; expected 12"),
        (VALUES, LABELS[:, None], r"labels of shape \[12, 1\]"),
        (np.full((12, 2), np.inf), LABELS, "NaN or infinity"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, features, labels, message):
    np.savez(tmp_path / "a.npz", features=features, labels=labels)
    with pytest.raises(UserError, match=message):
        import_features({"train": tmp_path / "a.npz"}, tmp_path / "out")


def test_float16_overflow_is_told(tmp_path):
    np.savez(tmp_path / "a.npz", features=VALUES * 1e6, labels=LABELS)
    with pytest.raises(UserError, match=r"a\.npz: features reach .* which overflows float16"):
        import_features({"train": tmp_path / "a.npz"}, tmp_path / "out", "float16")


@pytest.mark.parametrize(
    ("values", "expected"),
    [(VALUES[:, :1], VALUES[:, :1]), (LABELS.astype(np.int8)[:, None], LABELS[:, None].astype(np.float32))],
)
def test_one_number_a_row(tmp_path, values, expected):
    """As a list of one, as a plain column, as an array."""
    pq.write_table(table(values=values.tolist()), tmp_path / "a.parquet")
    pq.write_table(table(values=values[:, 0].tolist()), tmp_path / "b.parquet")
    np.savez(tmp_path / "c.npz", features=values, labels=LABELS)
    for name in ("a.parquet", "b.parquet", "c.npz"):
        facts = import_features({"train": tmp_path / name}, tmp_path / name[0])
        assert facts["dim"] == 1
        assert np.array_equal(read_split(tmp_path / name[0], "train").values, expected)


def test_csv_has_a_column_a_dimension(tmp_path):
    header = "label,key,f0,f1\n"
    (tmp_path / "a.csv").write_text(header + "cat,007,1.5,2\ndog,8,-1e-3,4\n")
    (tmp_path / "b.tsv").write_text("f0\tlabel\n3\tnull\n5\tNA\n")
    import_features({"train": tmp_path / "a.csv"}, tmp_path / "out")
    features = read_split(tmp_path / "out", "train")
    assert list(features.keys) == ["007", "8"] and features.labels.tolist() == [0, 1]
    assert features.values.tolist() == [[1.5, 2.0], [np.float32(-1e-3), 4.0]]
    assert import_features({"train": tmp_path / "b.tsv"}, tmp_path / "tsv")["dim"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,f0\n0,1\n1,\n", "column f0 has empty places"),
        ("label,f0\n0,1\n1,x\n", "column f0 holds string values"),
        ("label,f0\n0,1\n1,nan\n", "1 of 2 rows of features hold NaN"),
        ("label,f0\n0,1\n,2\n", "row 1 has no label"),
        ("label,f0\n0,1\n1\n", "cannot be read"),
        ("lable,f0\n0,1\n", "lacks the column label; .*did you mean 'lable'"),
        ("label\n0\n", "has no columns of numbers"),
        ("", "cannot be read"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        import_features({"train": tmp_path / "a.csv"}, tmp_path / "out")


def test_labels_as_categories_and_keys_as_numbers(tmp_path):
    labels = pa.array(["b", "a", "b"] * 4).dictionary_encode()
    pq.write_table(table(labels=labels, key=pa.array(range(12))), tmp_path / "a.parquet")
    import_features({"train": tmp_path / "a.parquet"}, tmp_path / "out")
    features = read_split(tmp_path / "out", "train")
    assert features.labels[:3].tolist() == [1, 0, 1] and features.keys[:2] == ["0", "1"]


def test_views_of_a_table_in_any_order_of_rows(tmp_path):
    views = np.stack([VALUES, VALUES + 1])
    columns = {"key": [f"k{row // 2}" for row in range(24)], "view": [row % 2 for row in range(24)]}
    rows = [views[row % 2, row // 2] for row in range(24)]
    given = table(values=rows, labels=LABELS.repeat(2), **{name: pa.array(found) for name, found in columns.items()})
    pq.write_table(given, tmp_path / "a.parquet")
    facts = import_features({"train": tmp_path / "a.parquet"}, tmp_path / "out")
    features = read_split(tmp_path / "out", "train")
    assert np.array_equal(features.views, views) and np.array_equal(features.labels, LABELS)
    assert facts["samples"] == {"train": 12}
    assert Sums.load(tmp_path / "out" / "train" / "given.sums.npz").count == 12
    pq.write_table(given.slice(1), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="rows of several views; expected one a sample and view"):
        import_features({"train": tmp_path / "b.parquet"}, tmp_path / "out")


@pytest.mark.parametrize(("train", "ood", "named"), [([0, 1], [0, 2], "2"), (["cat", "dog"], ["Cat", "dog"], "Cat")])
def test_classes_that_train_does_not_have(tmp_path, train, ood, named):
    pq.write_table(table(labels=train * 6), tmp_path / "train.parquet")
    pq.write_table(table(labels=ood * 6), tmp_path / "ood.parquet")
    with pytest.raises(UserError, match=rf"ood\.parquet: class {named} of which .*train\.parquet has no sample"):
        import_features({split: tmp_path / f"{split}.parquet" for split in ("train", "ood")}, tmp_path / "out")


def test_widths_must_agree(tmp_path):
    pq.write_table(table(), tmp_path / "a.parquet")
    pq.write_table(table(values=VALUES[:, :2]), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: features of width 2; expected 4, as in .*a\.parquet"):
        import_features({"train": tmp_path / "a.parquet", "test": tmp_path / "b.parquet"}, tmp_path / "out")
