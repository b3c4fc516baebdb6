"""`nml-ray features export` and `import`: what plain pandas and numpy read, and back."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nml_ray.cli.main import call
from nml_ray.config.errors import UserError
from nml_ray.features.exporting import new_directory
from nml_ray.features.store import feature_path, read_split, write_shard

DRAWS = np.random.default_rng(0)
VIEWS = DRAWS.normal(size=(3, 11, 5)).astype(np.float32)
LABELS = DRAWS.integers(0, 4, 11)
KEYS = [f"train/{row:0{row + 1}d}" for row in range(11)]


def extracted(directory: Path, views: int = 1, dtype: str = "float32") -> Path:
    """`train` in three shards, one of them empty; `test` in one."""
    for number, rows in enumerate((slice(0, 4), slice(4, 4), slice(4, 11))):
        values = VIEWS[:views, rows] if views > 1 else VIEWS[0, rows]
        path = feature_path(directory, "train", f"shard-{number}")
        write_shard(path, KEYS[rows], LABELS[rows], values, dtype)
    write_shard(feature_path(directory, "test", "shard-0"), KEYS[:2], LABELS[:2], VIEWS[2, :2], dtype)
    return directory


def run(*words: object) -> int:
    return call(["features", *map(str, words)])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pandas_reads_the_parquet(tmp_path, capsys, dtype):
    source = extracted(tmp_path / "in", dtype=dtype)
    assert run("export", source, tmp_path / "out") == 0
    assert "test 2, train 11" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    frame = pd.read_parquet(tmp_path / "out" / "train.parquet")
    assert list(frame.columns) == ["key", "label", "features"]
    assert frame["key"].tolist() == KEYS and frame["label"].tolist() == LABELS.tolist()
    assert np.array_equal(np.stack(list(frame["features"])), VIEWS[0].astype(dtype))
    assert len(pd.read_parquet(tmp_path / "out" / "test.parquet")) == 2


@pytest.mark.parametrize(("views", "dtype"), [(1, "float32"), (3, "float16")])
def test_numpy_reads_the_arrays(tmp_path, views, dtype):
    source = extracted(tmp_path / "in", views, dtype)
    assert run("export", source, tmp_path / "out", "--to", "npy", "--split", "train") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "train.keys.npy",
        "train.labels.npy",
        "train.npy",
    ]
    values, labels, keys = (np.load(tmp_path / "out" / f"train{name}.npy") for name in ("", ".labels", ".keys"))
    expected = VIEWS[:views].astype(dtype)
    assert np.array_equal(values, expected if views > 1 else expected[0])
    assert np.array_equal(labels, LABELS) and keys.tolist() == KEYS


@pytest.mark.parametrize(("kind", "views"), [("parquet", 1), ("parquet", 3), ("npy", 1)])
def test_what_was_exported_is_imported_again(tmp_path, kind, views):
    source = extracted(tmp_path / "in", views)
    assert run("export", source, tmp_path / "files", "--to", kind) == 0
    files = {split: tmp_path / "files" / f"{split}.{kind}" for split in ("train", "test")}
    assert run("import", tmp_path / "out", "--train", files["train"], "--test", files["test"]) == 0
    before, after = (read_split(directory, "train") for directory in (source, tmp_path / "out"))
    assert np.array_equal(after.values, before.values) and np.array_equal(after.labels, before.labels)
    if views > 1:
        assert np.array_equal(after.views, before.views)
    assert kind == "npy" or list(after.keys) == KEYS
    assert json.loads((tmp_path / "out" / "features.json").read_text())["samples"] == {"train": 11, "test": 2}
    assert run("export", tmp_path / "out", tmp_path / "again") == 0


def listed(kind: str, digest: str) -> dict[str, str]:
    return {"kind": kind, "digest": digest, "state": "made", "path": f"../../{kind}/{digest}/attempt-0001"}


def test_a_source_is_an_artifact_or_an_encoder_of_a_study(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for digest in ("aa", "bb"):
        artifact = tmp_path / "runs" / "extract" / digest
        extracted(artifact / "attempt-0001")
        (artifact / "record.json").write_text('{"attempt": "attempt-0001"}')
    study = tmp_path / "runs" / "studies" / "demo"
    study.mkdir(parents=True)
    stages = {f"extract/{name}/seed-0": listed("extract", digest) for name, digest in (("0", "aa"), ("0.3", "bb"))}
    (study / "stages.json").write_text(json.dumps({**stages, "report": listed("report", "x")}))
    assert run("export", "runs/extract/aa", "one") == 0
    assert run("export", "demo", "two", "--encoder", "0.3/seed-0") == 0
    assert run("export", study, "three", "--encoder", "0/seed-0") == 0
    capsys.readouterr()
    assert run("export", "demo", "four") == 2
    assert "features of 2 encoders; expected --encoder with one of 0/seed-0, 0.3/seed-0" in capsys.readouterr().err
    assert run("export", "demo", "four", "--encoder", "0.2/seed-0") == 2
    assert "did you mean" in capsys.readouterr().err
    assert run("export", "dema", "four") == 2
    assert "no directory 'dema' and no study of that name" in capsys.readouterr().err
    assert not Path("four").exists()


def test_mistakes_leave_nothing(tmp_path, capsys):
    source = extracted(tmp_path / "in")
    for words, message in [
        (("export", source, source), "is there already; expected a name that is free"),
        (("export", tmp_path, tmp_path / "out"), "holds no features"),
        (("export", source, tmp_path / "out", "--split", "ood"), "no features of split ood; expected test, train"),
        (("import", tmp_path / "out", "--train", tmp_path / "x.npy"), "x.npy: no such file"),
    ]:
        assert run(*words) == 2
        assert message in capsys.readouterr().err
    (source / "train" / "shard-2.features.arrow").write_bytes(b"ARROW1")
    for kind in ("parquet", "npy"):
        assert run("export", source, tmp_path / "out", "--to", kind) == 2
    write_shard(source / "train" / "shard-2.features.arrow", KEYS[4:], LABELS[4:], VIEWS[0, 4:, :2])
    for kind in ("parquet", "npy"):
        assert run("export", source, tmp_path / "out", "--to", kind) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_new_directory_appears_whole(tmp_path):
    def fail() -> None:
        with new_directory(tmp_path / "out") as aside:
            (aside / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"), new_directory(tmp_path / "file" / "out"):
        pass
