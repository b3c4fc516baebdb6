"""The heads stage without Ray, on small features."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from nml_ray.analysis import spectrum
from nml_ray.config.errors import UserError
from nml_ray.features.store import feature_path, read_split, write_shard
from nml_ray.features.sums import Sums
from nml_ray.heads.fitted import FittedHead
from nml_ray.storage.artifact import Artifact, Store, read_progress
from nml_ray.storage.atomic import read_json
from nml_ray.study.stage import Stage
from nml_ray.study.stages import heads
from nml_ray.study.task import Context, Task
from nml_ray.sweep.trials import TrialsFailed
from nml_ray.tasks import metrics

SWEEP = [
    {"head": "linear_probe", "fixed": {"epochs": 3}, "search": {"learning_rate": [0.001, 0.1]}},
    {"head": "nmtune", "preset": "official", "fixed": {"epochs": 3}},
]
SETTINGS = {"heads": {"seeds": [0, 1], "sweep": SWEEP}, "threads": 1}
DIM = 8


def no_ray() -> None:
    raise AssertionError("an inline run must not start Ray")


def context_of(store: Store, device: str = "cpu") -> Context:
    return Context(store, True, 1, SimpleNamespace(head_workers=None, heads_on=device), no_ray)


def extracted(store: Store, digest: str, splits: tuple[str, ...] = ("train", "validation", "test", "ood")) -> Artifact:
    attempt = store.attempt("extract", digest)
    generator = np.random.default_rng(len(digest))
    centres = generator.normal(size=(3, DIM))
    for split in splits:
        labels = generator.integers(0, 3, 80)
        values = (centres[labels] + 0.4 * generator.normal(size=(80, DIM))).astype(np.float32)
        write_shard(feature_path(attempt.path, split, "s"), [f"{split}{row}" for row in range(80)], labels, values)
    return attempt.finish()


def task_of(store: Store, name: str, features: Artifact, settings: Any = SETTINGS) -> Task:
    stage = Stage(f"heads/{name}", "heads", 1, settings, "nml_ray.study.stages.heads:run", {"extract": "x"})
    return Task(stage, {"extract": features}, store.attempt("heads", f"digest-{name}"))


def made(store: Store, name: str) -> Artifact:
    artifact = store.artifact("heads", f"digest-{name}")
    assert artifact is not None
    return artifact


def test_two_encoders_in_one_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    features = {name: extracted(store, name) for name in ("a", "bb")}
    tasks = [task_of(store, name, artifact) for name, artifact in features.items()]
    heads.run(tasks, context_of(store))
    for name, artifact in features.items():
        path = made(store, name).path
        rows = pq.read_table(path / heads.TRIALS_FILE).to_pylist()
        assert len(rows) == 6 and sum(row["chosen"] for row in rows) == 4
        entries = read_json(path / heads.RESULTS_FILE)
        assert [(entry["head"], entry["settings"]["preset"], entry["head_seed"]) for entry in entries] == [
            ("linear_probe", "paper", 0),
            ("linear_probe", "paper", 1),
            ("nmtune", "official", 0),
            ("nmtune", "official", 1),
        ]
        assert entries[0]["settings"]["learning_rate"] == 0.1
        test = read_split(artifact.path, "test")
        for row, entry in zip([row for row in rows if row["chosen"]], entries, strict=True):
            trial = store.artifact("trial", row["trial"])
            assert trial is not None
            head = FittedHead.load(trial.path)
            assert entry["scores"]["test"] == metrics.scores(test.labels, head.predict(test.values))
            assert entry["scores"]["validation"]["accuracy"] == row["validation_accuracy"]
            assert set(entry["scores"]) == {"validation", "test", "ood"}
            sigma = np.linalg.svd(head.transform(test.values).astype(np.float64), compute_uv=False)
            found = entry["spectra"]["test"]["raw"]
            assert (found["sve"], found["lsvr"]) == pytest.approx((spectrum.sve(sigma), spectrum.lsvr(sigma)), rel=1e-6)
        scores = heads.read_scores(path / heads.RESULTS_FILE)
        assert [(score.head, score.scores) for score in scores] == [(e["head"], e["scores"]) for e in entries]
    for task in tasks:
        progress = read_progress(task.attempt.path)
        assert progress is not None and (progress.done, progress.total, progress.unit) == (6, 6, "trials")


def test_a_second_run_fits_nothing_and_says_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    features = extracted(store, "a")
    heads.run([task_of(store, "a", features)], context_of(store))
    attempts = sorted(store.root.glob("trial/*/attempt-*"))
    heads.run([task_of(store, "again", features)], context_of(store))
    assert sorted(store.root.glob("trial/*/attempt-*")) == attempts
    first, second = (made(store, name).path / heads.RESULTS_FILE for name in ("a", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_trial_is_named_and_the_other_encoder_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good, bad = extracted(store, "a"), extracted(store, "bb")
    narrow = np.zeros((4, DIM - 1), np.float32)
    (bad.path / "validation" / "s.features.arrow").unlink()
    write_shard(feature_path(bad.path, "validation", "s"), list("abcd"), np.zeros(4, np.int64), narrow)
    tasks = [task_of(store, "a", good), task_of(store, "b", bad)]
    with pytest.raises(TrialsFailed) as caught:
        heads.run(tasks, context_of(store))
    assert len(caught.value.reasons) == 6
    assert all(name.startswith("heads/b/") for name in caught.value.reasons)
    assert made(store, "a") and store.artifact("heads", "digest-b") is None
    assert "heads/b/linear_probe/0/seed-0" in tasks[1].attempt.failure


def test_stages_that_have_a_failed_trial_in_common_are_both_named_and_others_finish(tmp_path: Path) -> None:
    store = Store(tmp_path)
    features = extracted(store, "a")
    too_wide = {"head": "mlp", "fixed": {"epochs": 1, "ratio": 1e12}}
    sweeps = {"x": [too_wide], "y": [too_wide, SWEEP[0]], "z": [SWEEP[0]]}
    tasks = [task_of(store, name, features, {"heads": {"sweep": sweep}}) for name, sweep in sweeps.items()]
    with pytest.raises(TrialsFailed) as caught:
        heads.run(tasks, context_of(store))
    assert set(caught.value.reasons) == {"heads/x/mlp/0/seed-0", "heads/y/mlp/0/seed-0"}
    for task in tasks[:2]:
        assert task.attempt.failure.startswith(f"{task.stage.name}/mlp/0/seed-0: RuntimeError")
        assert store.artifact("heads", task.attempt.digest) is None
    assert made(store, "z")


@pytest.mark.parametrize(
    ("labels", "words"),
    [([-1, 0, -1], "2 of 3 samples have no label"), ([], "no samples to measure heads on")],
)
def test_what_cannot_be_measured_is_refused_before_any_head_is_fitted(
    tmp_path: Path, labels: list[int], words: str
) -> None:
    store = Store(tmp_path)
    features = extracted(store, "a")
    values = np.ones((len(labels), DIM), np.float32)
    path = feature_path(features.path, "ood", "s")
    path.unlink()  # it is mapped
    write_shard(path, list("abc")[: len(labels)], np.array(labels, np.int64), values)
    with pytest.raises(UserError, match=f"ood: {words}"):
        heads.run([task_of(store, "a", features)], context_of(store))
    assert not (store.root / "trial").exists()


def test_spectra_are_taken_of_a_portion_of_the_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, portions, add = Store(tmp_path), list[int](), Sums.add

    def counted(sums: Sums, values: Any) -> None:
        portions.append(len(values))
        add(sums, values)

    monkeypatch.setattr(Sums, "add", counted)
    monkeypatch.setattr(heads, "PORTION", 32)
    features = extracted(store, "a", ("train", "validation", "test"))
    heads.run([task_of(store, "a", features, {"heads": {"sweep": [SWEEP[0]]}})], context_of(store))
    assert portions == [32, 32, 16]
    (entry,) = read_json(made(store, "a").path / heads.RESULTS_FILE)
    sigma = np.linalg.svd(read_split(features.path, "test").values.astype(np.float64), compute_uv=False)
    assert entry["spectra"]["test"]["raw"]["sve"] == pytest.approx(spectrum.sve(sigma), rel=1e-9)


def test_only_the_splits_there_are_are_scored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    features = extracted(store, "a", ("train", "validation", "test"))
    settings = {"heads": {"sweep": [SWEEP[1]]}, "threads": 1}
    heads.run([task_of(store, "a", features, settings)], context_of(store))
    (entry,) = read_json(made(store, "a").path / heads.RESULTS_FILE)
    assert set(entry["scores"]) == {"validation", "test"} and set(entry["spectra"]) == {"test"}


def test_seeds_up_to_64_bits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    task = task_of(store, "a", extracted(store, "a"))
    task = replace(task, stage=replace(task.stage, settings={"heads": {"seeds": [2**64 - 1], "sweep": [SWEEP[1]]}}))
    heads.run([task], context_of(store))
    assert pq.read_table(made(store, "a").path / heads.TRIALS_FILE)["head_seed"].to_pylist() == [2**64 - 1]


def test_a_search_that_diverged_stops_its_own_encoder_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    wild = {"head": "nmtune", "preset": "paper", "fixed": {"epochs": 3, "learning_rate": 1e30}}
    settings = {"heads": {"seeds": [0], "sweep": [wild]}, "threads": 1}
    tasks = [
        task_of(store, "a", extracted(store, "a"), settings),
        task_of(store, "b", extracted(store, "bb")),
    ]
    with pytest.raises(TrialsFailed, match=r"heads/a: every setting of .* diverged"):
        heads.run(tasks, context_of(store))
    assert "diverged" in tasks[0].attempt.failure
    assert made(store, "b")


def test_the_record_tells_in_which_form_heads_were_fitted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    task = task_of(store, "a", extracted(store, "a"))
    heads.run([task], context_of(store))
    assert made(store, "a").record["forms"] == ["sequential"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_fails_every_trial_by_its_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    task = task_of(store, "a", extracted(store, "a"))
    with pytest.raises(TrialsFailed) as caught:
        heads.run([task], context_of(store, "cuda"))
    assert len(caught.value.reasons) == 6
    for reason in caught.value.reasons.values():
        assert reason == "UserError: run.head_device: PyTorch finds no CUDA device here; expected cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_heads_are_fitted_in_batches(tmp_path: Path) -> None:
    store = Store(tmp_path)
    task = task_of(store, "a", extracted(store, "a"))
    heads.run([task], context_of(store, "cuda"))
    assert made(store, "a").record["forms"] == ["batched"]
    assert len(read_json(made(store, "a").path / heads.RESULTS_FILE)) == 4
