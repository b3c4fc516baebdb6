"""Contrastive arms in the loop: they learn, resume and share bit for bit, and are audited by their captions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet
from safetensors.numpy import load_file

from nml_ray.config.errors import UserError
from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import hash_of
from nml_ray.data.labels import noise_ledger
from nml_ray.data.ledger import write_ledger
from nml_ray.data.shards import write_shards
from nml_ray.models.clip import load_pair
from nml_ray.models.encoder import load_encoder
from nml_ray.pretrain.audit import AuditedRun, audit_run
from nml_ray.storage.artifact import Attempt
from tests.pretrain.conftest import CLASSES, WORDS, tiny_samples
from tests.pretrain.killed_loop import Killed, train
from tests.pretrain.test_workers import fed
from tests.pretrain.test_workers import train as train_on_workers

pytestmark = pytest.mark.long

ZERO_SHOT = {"templates": ["{}", "{} in room 3"], "names": dict(zip(CLASSES, WORDS, strict=True))}


@pytest.fixture
def make_clip(make_plan, tiny_data):
    def make(ratios=("0", "0.3"), store="store", data=None, **settings):
        clip = {"text": {"dim": 8, "buckets": 256}, "zero_shot": ZERO_SHOT, **settings.pop("clip", {})}
        plan = make_plan(
            ratios, store, data, kind="caption_swap", objective="clip", clip=clip, label_smoothing=0.0, **settings
        )
        return replace(plan, zero_shot=str(tiny_data))

    return make


def weights(plan, number):
    return load_file(Path(plan.arms[number].attempt) / "clip.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def curves(plan, number):
    return parquet.read_table(Path(plan.arms[number].attempt) / "curves.parquet").to_pylist()


def test_learns_words_and_splits_its_curves_by_swapped_captions(make_clip):
    plan = make_clip(epochs=8, optimiser={"learning_rate": 0.03})
    assert [outcome.error for outcome in train(plan)] == ["", ""]
    clean, swapped = curves(plan, 0), curves(plan, 1)
    assert clean[-1]["zero_shot"] > 0.6
    assert clean[-1]["zero_shot_top5"] == 1
    assert clean[0]["loss_clean"] > clean[-1]["loss_clean"]
    assert clean[-1]["loss_flipped"] is None
    assert swapped[-1]["loss_flipped"] > swapped[-1]["loss_clean"]
    assert swapped[-1]["recovered_flipped"] is None
    assert swapped[-1]["accuracy_clean"] > swapped[-1]["accuracy_flipped"]
    assert clean[-1]["validation_accuracy"] is None  # downstream images choose nothing


def test_zero_shot_on_images_set_apart_chooses_the_best_checkpoint(make_clip):
    zero_shot = {**ZERO_SHOT, "split": "pretrain_validation"}
    plan = make_clip(("0",), epochs=3, clip={"text": {"dim": 8, "buckets": 256}, "zero_shot": zero_shot})
    (outcome,) = train(plan)
    rows = curves(plan, 0)
    accuracies = [row["zero_shot"] for row in rows]
    assert accuracies == [row["validation_accuracy"] for row in rows]
    assert outcome.facts["best"]["validation_accuracy"] == max(accuracies)
    (best,) = (Path(plan.arms[0].attempt) / "best").iterdir()
    assert sorted(path.name for path in best.iterdir()) == ["model.safetensors", "state.json"]


def test_leaves_the_pair_and_its_encoder(make_clip):
    plan = make_clip(("0",), epochs=1)
    train(plan)
    attempt = Path(plan.arms[0].attempt)
    pair, _ = load_pair(attempt)
    encoder = load_encoder(attempt)
    for name, tensor in encoder.state_dict().items():
        assert np.array_equal(tensor.numpy(), pair.encoder.state_dict()[name].numpy())


def test_an_arm_of_a_shared_run_equals_the_arm_alone_cached_or_not(make_clip):
    shared, alone = make_clip(), make_clip(("0.3",), store="alone")
    kept = make_clip(("0.3",), store="kept", clip={"cached": False})
    for plan in (shared, alone, kept):
        train(plan)
    assert same(weights(shared, 1), weights(alone, 0))
    assert same(weights(shared, 1), weights(kept, 0))
    assert not same(weights(shared, 0), weights(shared, 1))


def test_a_resumed_run_equals_the_undisturbed_one(make_clip):
    undisturbed = make_clip(store="undisturbed")
    train(undisturbed)
    with pytest.raises(Killed):
        train(replace(make_clip(store="killed"), checkpoint_steps=4), until_images=10 * 32)
    resumed = make_clip(store="killed")
    assert train(resumed)[0].facts["lineage"][-1]["from_step"] == 8
    for number in range(2):
        assert same(weights(undisturbed, number), weights(resumed, number))
        assert curves(undisturbed, number) == curves(resumed, number)


def test_the_log_names_the_donor_and_the_audit_finds_another(make_clip, tiny_data):
    plan = make_clip(("0.3",), epochs=1)
    attempt = Attempt(Path(plan.arms[0].attempt))
    facts = train(plan)[0].facts
    root, dataset = attempt.path.parents[2], Dataset.open(tiny_data)
    ledger = noise_ledger(dataset, NoiseArm.from_hashed(plan.arms[0].noise))
    write_ledger(root / "ledger.parquet", dataset.keys, ledger)
    attempt.finish(settings={"pretrain": dict(plan.settings), "noise": dict(plan.arms[0].noise), "seed": 1}, **facts)

    def audit():
        record = json.loads((attempt.path.parent / "record.json").read_text())
        return audit_run(AuditedRun("arm", attempt.path.parent, record, tiny_data, ledger=root / "ledger.parquet"))

    (path,) = (attempt.path / "fed").glob("*.arrow")
    log = feather.read_table(path)
    donor = {hash_of(dataset.key(number)): dataset.key(int(given)) for number, given in enumerate(ledger.given)}
    fed = zip(log["key_hash"].to_pylist(), log["label"].to_numpy().view(np.uint64).tolist(), strict=True)
    assert all(hash_of(donor[key]) == label for key, label in fed)
    assert not audit().findings
    labels = log["label"].to_numpy().copy()
    labels[3] = labels[4]
    log = log.set_column(log.column_names.index("label"), "label", pa.array(labels))
    feather.write_feather(log, path, compression="lz4")
    assert [finding.kind for finding in audit().findings] == ["label"]


def test_undecodable_images_are_nobodys_row_or_column(make_clip, tmp_path):
    write_shards(tiny_samples(203, broken=(7, 150)), tmp_path / "broken", samples_per_shard=60, classes=CLASSES)
    plan = replace(make_clip(data=tmp_path / "broken"), undecodable_limit=0.05)
    assert 4 <= train(plan)[0].facts["undecodable"] <= 6


def test_names_of_classes_that_are_not_there_stop_the_run(make_clip):
    zero_shot = {**ZERO_SHOT, "names": {"class-7": "bell"}}
    with pytest.raises(UserError, match="class-7"):
        train(make_clip(clip={"zero_shot": zero_shot}))


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_number_of_workers(make_clip, tmp_path):
    """To the rounding of sums, which BatchNorm's running statistics, a mean over workers, carry on; by both losses."""
    results = {}
    for workers, loss in ((1, "local"), (2, "local"), (3, "local"), (3, "full")):
        settings = {"microbatch": 8, "epochs": 2, "clip": {"loss": loss}}
        plan = make_clip(store=f"{loss}-{workers}", **settings)
        train_on_workers(plan, workers, tmp_path / "meet")
        results[loss, workers] = curves(plan, 1), fed(plan)
    expected_curves, expected_fed = results.pop(("local", 1))
    for rows, records in results.values():
        assert records == expected_fed
        for row, expected in zip(rows, expected_curves, strict=True):
            for name in ("loss_clean", "loss_flipped"):
                assert np.isclose(row[name], expected[name], rtol=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_killed_workers_go_on_to_equal_bits(make_clip, tmp_path, workers):
    settings = {"microbatch": 8, "epochs": 2}
    undisturbed = make_clip(store="undisturbed", **settings)
    train_on_workers(undisturbed, workers, tmp_path / "meet")
    killed = replace(make_clip(store="killed", **settings), checkpoint_steps=2)
    train_on_workers(killed, workers, tmp_path / "meet", stop=5 * 32)
    resumed = make_clip(store="killed", **settings)
    train_on_workers(resumed, workers, tmp_path / "meet")
    assert same(weights(undisturbed, 1), weights(resumed, 1))
    assert curves(undisturbed, 1) == curves(resumed, 1)
