import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nml_ray.config.errors import UserError
from nml_ray.data.shards import Sample, write_shards
from nml_ray.features.store import read_split
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import load_encoder
from nml_ray.storage.artifact import Artifact, Store, read_progress
from nml_ray.study.stage import Stage
from nml_ray.study.stages import encoder as encoder_stage
from nml_ray.study.stages import extract as extract_stage
from nml_ray.study.task import Context, Task

ENCODER = EncoderSettings(name="small_resnet", width=2, channels=1, size=16).model_dump(mode="json")


def task(store: Store, kind: str, name: str, settings: dict, **inputs: Artifact) -> Task:
    return Task(Stage(name, kind, 1, settings, ""), inputs, store.attempt(kind, name))


def given(directory: Path) -> Artifact:
    return Artifact("given", "0", directory, {})


@pytest.fixture
def context(tmp_path) -> Context:
    run = SimpleNamespace(decode_threads=1, least_extract_workers=1, most_extract_workers=1, device="cpu")
    return Context(Store(tmp_path / "store"), inline=True, threads=1, run=run, start_ray=lambda: None)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16), 9 * number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path) -> Artifact:
    for split in ("train", "ood"):
        samples = [Sample(f"{split}{number}", png(number), "png", label=number % 2) for number in range(7)]
        write_shards(samples, tmp_path / "shards" / split, samples_per_shard=4, classes=("a", "b"))
    return given(tmp_path / "shards")


def made(store: Store, kind: str, name: str) -> Artifact:
    artifact = store.artifact(kind, name)
    assert artifact is not None
    return artifact


def test_two_encoders_in_one_pass(context, shards):
    store = context.store
    encoder_stage.run([task(store, "encoder", name, {"encoder": ENCODER}) for name in ("one", "two")], context)
    settings = {"extract": {"batch": 4}, "transforms": ["raw"], "threads": 1}
    tasks = [
        task(store, "extract", name, settings, shards=shards, encoder=made(store, "encoder", name))
        for name in ("one", "two")
    ]
    extract_stage.run(tasks, context)
    for name in ("one", "two"):
        artifact = made(store, "extract", name)
        assert artifact.record["samples"] == {"train": 7, "ood": 7}
        assert artifact.record["dim"] == 16
        assert len(read_split(artifact.path, "ood")) == 7
        assert sorted(path.name for path in (artifact.path / "train").iterdir()) == [
            "shard-000000.features.arrow",
            "shard-000000.sums.npz",
            "shard-000001.features.arrow",
            "shard-000001.sums.npz",
        ]
        progress = read_progress(artifact.path)
        assert progress is not None
        assert (progress.done, progress.total, progress.unit) == (14, 14, "images")


def test_samples_of_train_in_a_test_set_stop_their_data_alone(context, shards, tmp_path):
    store = context.store
    encoder_stage.run([task(store, "encoder", "e", {"encoder": ENCODER})], context)
    for split, numbers in {"train": (0, 1, 2, 3), "test": (2, 3, 5)}.items():
        samples = [Sample(f"cat/{n}", png(n), "png", label=0) for n in numbers]
        samples.append(Sample("cat/7", png(7 if split == "train" else 9), "png", label=0))  # a name by chance
        write_shards(samples, tmp_path / "leaky" / split, samples_per_shard=4, classes=("cat",))
    settings = {"extract": {"batch": 4}, "transforms": [], "threads": 1}
    tasks = [
        task(store, "extract", name, settings, shards=images, encoder=made(store, "encoder", "e"))
        for name, images in {"leaky": given(tmp_path / "leaky"), "sound": shards}.items()
    ]
    extract_stage.run(tasks, context)
    assert store.artifact("extract", "leaky") is None and made(store, "extract", "sound")
    assert (
        "leaky/test: 2 samples of train, first 'cat/2'; expected a test set that has none" in tasks[0].attempt.failure
    )


def test_a_second_attempt_takes_over_the_shards_of_the_first(context, shards):
    store = context.store
    encoder_stage.run([task(store, "encoder", "e", {"encoder": ENCODER})], context)
    settings = {"extract": {"batch": 4}, "transforms": [], "threads": 1}
    inputs = {"shards": shards, "encoder": made(store, "encoder", "e")}
    first = task(store, "extract", "x", settings, **inputs)
    extract_stage.run([first], context)
    (store.directory("extract", "x") / "record.json").unlink()
    old = first.attempt.path / "train" / "shard-000000.features.arrow"
    second = task(store, "extract", "x", settings, **inputs)
    extract_stage.run([second], context)
    assert made(store, "extract", "x").path == second.attempt.path
    assert (second.attempt.path / "train" / old.name).samefile(old)


def test_a_given_encoder_with_weights(context, tmp_path):
    store = context.store
    encoder_stage.run([task(store, "encoder", "e", {"encoder": ENCODER})], context)
    source = made(store, "encoder", "e").path / "encoder.safetensors"
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "weights.safetensors").symlink_to(source)
    settings = {"encoder": {**ENCODER, "weights": "sha256:abc"}, "threads": 1}
    encoder_stage.run([task(store, "encoder", "again", settings, weights=given(tmp_path / "link"))], context)
    assert load_encoder(made(store, "encoder", "again").path).dim == 16
    source.write_bytes(b"")
    with pytest.raises(UserError, match="whole safetensors file"):
        encoder_stage.run([task(store, "encoder", "bad", settings, weights=given(tmp_path / "link"))], context)


def test_given_features_become_an_artifact(context, tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    (tmp_path / "own").mkdir()
    (tmp_path / "links").mkdir()
    np.save(tmp_path / "own" / "a.npy", values)
    np.save(tmp_path / "own" / "a.labels.npy", np.arange(6))
    np.savez(tmp_path / "own" / "kept-ab12", features=values, labels=np.arange(6))
    (tmp_path / "own" / "kept-ab12.npz").rename(tmp_path / "own" / "kept-ab12")
    (tmp_path / "own" / "b.npz").symlink_to("kept-ab12")  # as caches and DVC have them
    for link, target in [("train.npy", "a.npy"), ("train.labels.npy", "a.labels.npy"), ("test.npz", "b.npz")]:
        (tmp_path / "links" / link).symlink_to(tmp_path / "own" / target)
    settings = {"splits": ["train", "test"], "transforms": ["raw"]}
    extract_stage.run([task(context.store, "extract", "g", settings, features=given(tmp_path / "links"))], context)
    artifact = made(context.store, "extract", "g")
    assert artifact.record["samples"] == {"train": 6, "test": 6}
    assert np.array_equal(read_split(artifact.path, "train").values, values)


def test_an_encoder_that_fails_leaves_the_other_artifact(context, shards):
    from safetensors.torch import load_file, save_file

    store = context.store
    encoder_stage.run([task(store, "encoder", name, {"encoder": ENCODER}) for name in ("good", "bad")], context)
    file = made(store, "encoder", "bad").path / "encoder.safetensors"
    tensors = load_file(file)
    tensors["norm.bias"][0] = float("inf")
    save_file(tensors, file)
    settings = {"extract": {"batch": 4}, "transforms": ["raw"], "threads": 1}
    tasks = [
        task(store, "extract", name, settings, shards=shards, encoder=made(store, "encoder", name))
        for name in ("good", "bad")
    ]
    extract_stage.run(tasks, context)
    assert store.artifact("extract", "good") is not None
    assert store.artifact("extract", "bad") is None
    assert "NaN or infinity" in tasks[1].attempt.failure
