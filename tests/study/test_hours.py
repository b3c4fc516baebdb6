"""GPU-hours by arithmetic, and what is lacking where they are not known."""

import pytest

from nml_ray.config.document import Document
from nml_ray.config.validate import validate
from nml_ray.data.dataset_info import DatasetInfo, save_info
from nml_ray.pretrain.estimate import estimate_of
from nml_ray.storage.artifact import Store
from nml_ray.study.execute import plan_study
from nml_ray.study.expand import expand
from nml_ray.study.feed import Feed
from nml_ray.study.hours import HEAD_STEP, gpu_hours, hours_of, passes
from nml_ray.study.job import Job

SAMPLES = {"train": 1000, "validation": 100, "test": 200}
PEAK = {"float32": 19.5e12, "bfloat16": 312e12}


def reckoned(tmp_path, feed: Feed | None, made: bool = True, **changes) -> dict[str, tuple[float | None, str]]:
    """What is told of each kind, of a job over directories, or over icons that are not made yet."""
    data: dict[str, object] = {"icons": {}}
    if made:
        splits = {"pretrain": 5000, **SAMPLES}
        data = {"shards": {split: str(tmp_path / split) for split in splits}}
        for split, count in splits.items():
            (tmp_path / split).mkdir()
            digest = {"digest": "0" * 64, "samples": count}
            save_info(tmp_path / split, DatasetInfo(classes=("a", "b", "c"), shards=(), **digest))
    job = {
        "name": "s",
        "data": data,
        "pretrain": {"seeds": [0, 1], "batch": 50, "epochs": 4, "precision": "bfloat16"},
        "heads": {"seeds": [0, 1], "sweep": [{"head": "linear_probe", "fixed": {"epochs": 10, "batch": 100}}]},
        "run": {"device": "cuda"},
        **changes,
    }
    settings = validate(Job, Document("job.yaml", job))
    study, store = expand(settings), Store(tmp_path / "runs")
    assert settings.pretrain
    size = estimate_of(settings.pretrain)
    found = hours_of(settings, study, plan_study(study, store), store, feed, size, PEAK.__getitem__)
    return {one.kind: (one.hours, one.line(None, "USD")) for one in found}


FEED = Feed(5000, 0, 50, 1, 100, 0, 1, (1, 1))


def test_hours_at_a_share_of_the_peak() -> None:
    # ResNet-50 for 90 epochs of ImageNet, at 30 % of an A100's 16-bit peak
    assert gpu_hours(90 * 1.28e6, 3 * 8.2e9, 312e12) == pytest.approx(8.41, abs=0.01)


def test_every_kind_of_stage(tmp_path) -> None:
    found = reckoned(tmp_path, FEED, extract={"precision": "bfloat16", "views": 3})
    flops = estimate_of(validate(Job, Document("", {"name": "s", "data": {"icons": {}}, "pretrain": {}})).pretrain)
    assert flops
    images = 4 * 100 * 50
    assert found["pretrain"][0] == pytest.approx(gpu_hours(2 * images, 3 * flops.forward_flops, 312e12))
    assert (
        found["pretrain"][1].startswith("GPU-hours of pre-training: ")
        and "2 arm(s) of 20,000 images" in found["pretrain"][1]
    )
    passed = 2 * (3 * 1000 + 100 + 200)
    assert found["extract"][0] == pytest.approx(gpu_hours(passed, flops.forward_flops, 312e12))
    assert "6,600 images through 2 encoder(s)" in found["extract"][1]
    steps = 10 * 1000 / 100
    assert found["heads"][0] == pytest.approx(2 * steps * HEAD_STEP / 3600)
    assert "4 fits" in found["heads"][1]


def test_what_is_lacking_is_said(tmp_path) -> None:
    found = reckoned(tmp_path, None, made=False)
    assert [line for _, line in found.values()] == [
        "GPU-hours of pre-training: not known, before the training data is there",
        "GPU-hours of extraction: not known, before the downstream images are there",
        "GPU-hours of heads: not known, before the downstream images are there",
    ]
    assert all(hours is None for hours, _ in found.values())


def test_of_what_runs_on_a_processor_nothing_is_said(tmp_path) -> None:
    assert reckoned(tmp_path, FEED, run={"device": "cpu"}) == {}
    found = reckoned(tmp_path / "x", None, made=False, run={"device": "cpu", "head_device": "cuda"})
    assert list(found) == ["heads"]


def test_clip_counts_its_captions_and_its_second_pass(tmp_path) -> None:
    job = {"name": "s", "data": {"icons": {}}, "pretrain": {"objective": "clip", "batch": 50}}
    settings = validate(Job, Document("", job)).pretrain
    assert settings and passes(settings) == 4
    pretrain = {"objective": "clip", "batch": 50, "epochs": 2, "precision": "bfloat16"}
    found = reckoned(tmp_path, FEED, made=False, pretrain=pretrain)
    size = estimate_of(settings)
    assert size
    assert found["pretrain"][0] == pytest.approx(gpu_hours(2 * 100 * 50, 4 * size.forward_flops, 312e12))
    assert "10,000 pairs" in found["pretrain"][1]
