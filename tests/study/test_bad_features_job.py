"""Features that hardly are any, by job files: each is one clear error with exit code 2, or the right answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nml_ray.cli.main import call

pytestmark = pytest.mark.long

SPLITS = ("train", "validation", "test")
Change = Callable[[dict[str, Any]], None]
"""Changes arrays `features`, `labels` and `keys` of train."""


def arrays(count: int, classes: int = 3, dim: int = 4) -> dict[str, Any]:
    labels = np.arange(count) % classes
    values = 4 * np.eye(classes, dim)[labels] + 0.1 * np.random.default_rng(0).normal(size=(count, dim))
    return {"features": values.astype(np.float32), "labels": labels, "keys": [str(row) for row in range(count)]}


def write(path: Path, found: dict[str, Any]) -> None:
    columns = {"key": found["keys"], "label": found["labels"], "features": [list(row) for row in found["features"]]}
    pq.write_table(pa.table(columns), path)


def job(root: Path, found: dict[str, dict[str, Any]]) -> Path:
    for split, one in found.items():
        write(root / f"{split}.parquet", one)
    content = {
        "name": "x",
        "features": {split: str(root / f"{split}.parquet") for split in SPLITS},
        "spectrum": {},
        "heads": {
            "sweep": [
                {"head": "linear_probe", "fixed": {"epochs": 30, "batch": 8, "learning_rate": 0.1}},
                {"head": "nmtune", "fixed": {"epochs": 2, "batch": 8}},
            ]
        },
    }
    (root / "job.yaml").write_text(json.dumps(content))
    return root / "job.yaml"


def run(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = call(["run", str(path), "--inline", "--storage", str(path.parent / "runs")])
    return code, capsys.readouterr().err


def accuracy(root: Path) -> float:
    """Of the linear probe, on test."""
    (path,) = root.glob("runs/heads/*/attempt-*/results.json")
    return float(json.loads(path.read_text())[0]["scores"]["test"]["accuracy"])


def one_class(found: dict[str, Any]) -> None:
    found["labels"] = np.zeros_like(found["labels"])


def value(number: float) -> Change:
    def change(found: dict[str, Any]) -> None:
        found["features"][3, 1] = number

    return change


def twice(found: dict[str, Any]) -> None:
    found["keys"][4] = found["keys"][2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (value(np.nan), "train.parquet: 1 of 30 rows of features hold NaN or infinity"),
        (value(np.inf), "train.parquet: 1 of 30 rows of features hold NaN or infinity"),
        (twice, "train.parquet: key 2 occurs more than once"),
        (one_class, "validation.parquet: class 1 and 1 more of which"),
    ],
)
def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, words: str) -> None:
    found = {split: arrays(30) for split in SPLITS}
    change(found["train"])
    code, err = run(job(tmp_path, found), capsys)
    assert code == 2 and words in err and "Traceback" not in err


def test_one_class_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run(job(tmp_path, {split: arrays(12, 1) for split in SPLITS}), capsys)
    assert code == 2 and "one class (0) in all 12 samples of train; expected at least 2 classes" in err


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_file_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float) -> None:
    path = job(tmp_path, {split: arrays(30) for split in SPLITS})
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: int(share * len(whole))])
    code, err = run(path, capsys)
    assert code == 2 and "train.parquet: cannot be read" in err and "Traceback" not in err


@pytest.mark.parametrize("case", ["one sample", "one dimension", "few rows", "strings", "large"])
def test_what_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    found = {split: arrays(30) for split in SPLITS}
    for one in found.values():
        if case == "one sample":  # of class 2 in train
            found["train"]["labels"][found["train"]["labels"] == 2] = 1
            found["train"]["labels"][2] = 2
            found["train"]["features"] = 4 * np.eye(3, 4, dtype=np.float32)[found["train"]["labels"]]
        if case == "one dimension":
            one["features"] = (one["labels"][:, None] - 1).astype(np.float32)
        if case == "strings":
            one["labels"] = np.array(["owl", "cat", "dog"])[one["labels"]]
        if case == "large":  # beyond float16, which is not what they are stored in
            one["features"] = one["features"] * np.float32(1e5)
    if case == "few rows":  # fewer than classes and than a batch
        found["train"] = {name: part[:3] for name, part in found["train"].items()}
    code, err = run(job(tmp_path, found), capsys)
    assert code == 0, err
    assert accuracy(tmp_path) == (1 if case != "one dimension" else pytest.approx(1, abs=0.4))
