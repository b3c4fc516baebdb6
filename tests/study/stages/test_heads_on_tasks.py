"""The heads stage on downstream tasks: cuts, other domains, metrics, data fractions, and data that are hardly any."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.features.store import feature_path, write_shard
from nml_ray.heads.errors import HeadError
from nml_ray.storage.artifact import Artifact, Store
from nml_ray.storage.atomic import read_json
from nml_ray.study.stage import Stage
from nml_ray.study.stages import heads
from nml_ray.study.task import Context, Task
from nml_ray.sweep import splits

DIM = 6
CUT = {"cuts": {"validation": {"share": "0.2"}}, "seed": 0}
CENTRES = np.random.default_rng(7).normal(size=(8, DIM))


def features(store: Store, labels: Mapping[str, NDArray[Any]], centres: Mapping[str, Any] | None = None) -> Artifact:
    """Features of given labels, one blob a class; `centres` says which blob a label of a split lies in."""
    attempt = store.attempt("extract", "features")
    draw = np.random.default_rng(0)
    for split, own in labels.items():
        places = np.asarray((centres or {}).get(split, range(8)))
        values = (CENTRES[places[own]] + 0.1 * draw.normal(size=(len(own), DIM))).astype(np.float32)
        keys = [f"{split}/{row}" for row in range(len(own))]
        write_shard(feature_path(attempt.path, split, "s"), keys, own.astype(np.int64), values)
    return attempt.finish()


def run(store: Store, source: Artifact, facts: dict[str, Any], **more: Any) -> tuple[list[dict], list[dict]]:
    """results.json and the rows of trials.parquet."""
    sweep = more.pop("sweep", [{"head": "linear_probe", "fixed": {"epochs": 20, "batch": 8}}])
    facts = {"metric": "accuracy", "ood": {}, **facts}
    settings = {"heads": {"sweep": sweep, **more}, "threads": 1, "task": facts}
    stage = Stage("heads/x/pets", "heads", 1, settings, "", {"extract": "x"})
    task = Task(stage, {"extract": source}, store.attempt("heads", "made"))
    run_settings = SimpleNamespace(head_workers=None, heads_on="cpu")
    heads.run([task], Context(store, True, 1, run_settings, lambda: None))
    artifact = store.artifact("heads", "made")
    assert artifact is not None
    return read_json(artifact.path / heads.RESULTS_FILE), pq.read_table(artifact.path / heads.TRIALS_FILE).to_pylist()


def test_validation_and_test_are_cut_from_train(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = features(store, {"train": np.arange(90) % 3})
    cuts = {"test": {"keep": 20}, "validation": {"share": "0.2"}}
    (entry,), _ = run(store, source, {"cuts": cuts, "seed": 0})
    sizes = {split: len(splits.read(source.path, split, {"cuts": cuts}).labels) for split in ("train", *cuts)}
    assert sizes == {"train": 48, "test": 30, "validation": 12}
    parts = [splits.read(source.path, split, {"cuts": cuts}).hashes for split in sizes]
    assert len(np.unique(np.concatenate(parts))) == 90
    assert entry["scores"]["test"]["accuracy"] > 0.9
    artifact = store.artifact("heads", "made")
    assert artifact is not None and artifact.record["samples"] == {"test": 30}


def test_another_domain_is_scored_among_its_own_classes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    # train: 0 1 2 3; `part` has train's 3 and 1; `mixed` has a class that stands for 0 and 2, and one for none
    labels = {"train": np.arange(120) % 4, "test": np.arange(40) % 4, "ood-part": np.arange(20) % 2}
    labels["ood-mixed"] = np.array([0, 1] * 10)
    source = features(store, labels, {"ood-part": [3, 1], "ood-mixed": [6, 2]})
    (entry,), _ = run(store, source, {**CUT, "ood": {"part": [[3], [1]], "mixed": [[], [0, 2]]}})
    scores = entry["scores"]
    assert scores["ood-part"]["accuracy"] == 1 and scores["ood-mixed"]["accuracy"] == 1
    assert scores["ood"]["accuracy"] == 1 and set(entry["spectra"]) == {"test", "ood-part", "ood-mixed"}
    assert entry["spectra"]["ood-mixed"]["raw"]["count"] == 10  # ten samples of a class of none are left out
    with pytest.raises(UserError, match="ood-part: no sample of a class of train"):
        run(Store(tmp_path / "other"), source, {**CUT, "ood": {"part": [[], []]}})
    assert not (tmp_path / "other/trial").exists()  # refused before any head was fitted


def test_the_metric_of_the_task_chooses(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = features(store, {"train": np.arange(60) % 3, "test": np.arange(30) % 3})
    sweep = [{"head": "linear_probe", "fixed": {"epochs": 3, "batch": 8}, "search": {"learning_rate": [1e-6, 0.1]}}]
    (entry,), rows = run(store, source, {**CUT, "metric": "matthews"}, sweep=sweep)
    assert set(entry["scores"]["test"]) == {"accuracy", "macro_f1", "matthews"}
    best = max(rows, key=lambda row: row["validation"])
    assert best["chosen"] and {row["metric"] for row in rows} == {"matthews"}


def test_fractions_are_fitted_chosen_and_told_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = features(store, {"train": np.arange(200) % 4, "test": np.arange(40) % 4})
    found, rows = run(store, source, CUT, fractions=["0.1", "1"], seeds=[0, 1])
    assert [(entry.get("fraction", "1"), entry["head_seed"]) for entry in found] == [
        *(("0.1", 0), ("0.1", 1), ("1", 0), ("1", 1))
    ]
    assert sorted({row["fraction"] for row in rows}) == ["0.1", "1"] and len({row["trial"] for row in rows}) == 4
    small, large = (splits.read(source.path, "train", CUT, share).hashes for share in ("0.1", "1"))
    assert len(small) == 16 and len(large) == 160 and np.isin(small, large).all()
    read = heads.read_scores(store.artifact("heads", "made").path / heads.RESULTS_FILE)
    assert [score.fraction for score in read] == ["0.1", "0.1", "1", "1"]


def test_numbers_are_fitted_by_squared_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempt, draw = store.attempt("extract", "features"), np.random.default_rng(0)
    means = {"train": [0.0, 1.5, 4.0, 5.0], "test": [1.0, 2.0, 3.0]}  # the number that each label means
    direction = draw.normal(size=DIM)
    for split, own in means.items():
        labels = draw.integers(0, len(own), 90)
        numbers = np.array(own)[labels]
        noisy = numbers[:, None] * direction + 0.1 * draw.normal(size=(90, DIM))
        keys = [f"{split}/{row}" for row in range(90)]
        write_shard(feature_path(attempt.path, split, "s"), keys, labels, noisy.astype(np.float32))
    rates = {"linear_probe": 0.1, "mlp": 0.01, "nmtune": 0.01}
    sweep = [
        {"head": head, "fixed": {"epochs": 30, "batch": 16, "learning_rate": rate}} for head, rate in rates.items()
    ]
    found, rows = run(store, attempt.finish(), {**CUT, "metric": "pearson", "values": means}, sweep=sweep)
    assert len(found) == 3
    for entry in found:
        assert set(entry["scores"]["test"]) == {"pearson"} and entry["scores"]["test"]["pearson"] > 0.9
    assert {row["validation_accuracy"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("train", "error", "text"),
    [
        ([2] * 10, UserError, "heads/x/pets: one class (2) in all 8 samples of train; expected at least 2 classes"),
        ([0, 1, -1, -1], UserError, "train: 2 of 4 samples have no label; expected a label each"),
        ([0, 1], UserError, "heads/x/pets: no samples for validation; expected a set of its own, or another cut"),
    ],
)
def test_too_little_is_refused(tmp_path: Path, train: list[int], error: type, text: str) -> None:
    store = Store(tmp_path)
    source = features(store, {"train": np.array(train), "test": np.array([0, 1])})
    with pytest.raises(error) as caught:
        run(store, source, CUT)
    assert text in str(caught.value)


def test_a_class_of_one_sample_stays_in_train_and_may_be_predicted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    train = np.array([0] * 40 + [1] * 40 + [2])
    source = features(store, {"train": train, "test": np.array([0, 1, 2] * 5)})
    (entry,), _ = run(store, source, CUT, fractions=["0.1"])
    assert entry["scores"]["test"]["accuracy"] == 1


def test_fewer_rows_than_classes_predict_those_that_there_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = features(store, {"train": np.array([0, 5, 7]), "validation": np.array([0, 5]), "test": np.arange(8)}, None)
    (entry,), _ = run(store, source, {})
    assert entry["scores"]["test"]["accuracy"] == 3 / 8


def test_a_single_row_is_refused_by_the_fit() -> None:
    from nml_ray.data.draw import key_hashes
    from nml_ray.heads.config import head_setting
    from nml_ray.heads.fit import fit

    with pytest.raises(HeadError, match="1 sample"):
        fit(head_setting("linear_probe"), np.zeros((1, 2), np.float32), np.zeros(1), key_hashes(["a"]), 0)
