"""Heads on features with several views: a pair reads them, every other head the first view alone."""

import numpy as np
import pytest

from nml_ray.data.draw import key_hashes
from nml_ray.features.store import feature_path, write_shard
from nml_ray.heads.config import HeadsSettings, parse_setting
from nml_ray.heads.fit import fit
from nml_ray.heads.fitted import FittedHead
from nml_ray.storage.artifact import Artifact, Store
from nml_ray.sweep import splits
from nml_ray.sweep.heads import fit_trial, head_trials, trial_results
from nml_ray.sweep.trials import run_inline

ROWS, DIM = 48, 6
DRAWS = np.random.default_rng(3)
LABELS = DRAWS.integers(0, 3, ROWS)
VIEWS = (DRAWS.normal(size=(3, DIM))[LABELS] + 0.3 * DRAWS.normal(size=(4, ROWS, DIM))).astype(np.float32)
KEYS = [f"k{row}" for row in range(ROWS)]


def artifact(store: Store, digest: str, views: int) -> Artifact:
    """`train` in two shards with some views, `validation` in one."""
    attempt = store.attempt("extract", digest)
    for number, rows in enumerate((slice(0, 20), slice(20, ROWS))):
        path = feature_path(attempt.path, "train", f"shard-{number}")
        values = VIEWS[:views, rows] if views > 1 else VIEWS[0, rows]
        write_shard(path, KEYS[rows], LABELS[rows], values)
    write_shard(feature_path(attempt.path, "validation", "shard-0"), KEYS, LABELS, VIEWS[3])
    return attempt.finish()


def heads(store: Store, features: Artifact, *sweep: dict[str, object]) -> list[FittedHead]:
    settings = HeadsSettings.model_validate({"seeds": [0], "sweep": list(sweep)})
    trials = head_trials(settings, features, store, "heads")
    run_inline(trials, fit_trial)
    return [FittedHead.load(found.path) for found in trial_results(trials, store)]


def weights(head: FittedHead) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in head.head.state_dict().values()]


def same(one: FittedHead, other: FittedHead) -> bool:
    pairs = zip(weights(one), weights(other), strict=True)
    return all(np.array_equal(left, right) for left, right in pairs)


def test_a_split_has_its_views_where_it_is_trained_on(tmp_path):
    path = artifact(Store(tmp_path), "three", 3).path
    assert np.array_equal(splits.read(path, "train").values, VIEWS[:3])
    assert splits.read(path, "train", share="0.5").values.shape[0] == 3
    cut = {"cuts": {"validation": {"share": "0.25"}}, "seed": 0}
    held = splits.read(path, "validation", cut)
    assert held.values.ndim == 2 and splits.read(path, "train", cut).values.ndim == 3
    rows = np.flatnonzero(np.isin(key_hashes(KEYS), held.hashes))
    assert np.array_equal(np.sort(held.values, axis=0), np.sort(VIEWS[0, rows], axis=0))


@pytest.mark.parametrize("head", [{"head": "linear_probe"}, {"head": "nmtune", "preset": "paper"}])
def test_heads_of_one_view_are_those_of_features_with_one(tmp_path, head):
    store = Store(tmp_path)
    fixed = {**head, "fixed": {"epochs": 2, "batch": 16}}
    (plain,), (several,) = (heads(store, artifact(store, f"v{views}", views), fixed) for views in (1, 3))
    assert same(plain, several)


def test_a_pair_reads_all_views(tmp_path):
    store = Store(tmp_path)
    official = {"head": "nmtune", "preset": "official", "fixed": {"epochs": 2, "batch": 16}}
    found = {views: heads(store, artifact(store, f"v{views}", views), official)[0] for views in (1, 2, 3)}
    assert not same(found[1], found[2]) and not same(found[2], found[3])
    setting = parse_setting(found[3].setting.model_dump(mode="json"))
    assert setting.views == "pair"
    assert same(found[3], fit(setting, VIEWS[:3], LABELS, key_hashes(KEYS), 0))
