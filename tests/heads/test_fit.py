"""Fitting heads: repeatable to the bit, untouched by global state, able to learn, saved and loaded whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nml_ray.data.draw import key_hashes
from nml_ray.heads.config import HeadSetting, head_setting
from nml_ray.heads.errors import HeadError
from nml_ray.heads.fit import fit, learning_rate
from nml_ray.heads.fitted import FittedHead
from nml_ray.heads.order import epoch_rows, view_pair

ALL = [(head, preset) for head in ("linear_probe", "mlp", "nmtune") for preset in ("paper", "official")]
N, D, LABELS = 150, 12, np.array([3, 5, 11, 40])


def samples(seed: int = 0, views: int = 1) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Features [V, N, D] (or [N, D]) around class centres, labels, hashes."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(len(LABELS), D))
    index = generator.integers(0, len(LABELS), N)
    features = centres[index] + 0.5 * generator.normal(size=(views, N, D))
    features = features.astype(np.float32)
    return features[0] if views == 1 else features, LABELS[index], key_hashes(f"{seed}/{i}" for i in range(N))


def quick(head: str, preset: str = "paper", **changes: Any) -> HeadSetting:
    return head_setting(
        head, preset, epochs=4, batch=32, **{"learning_rate": 0.1 if head == "linear_probe" else 0.01, **changes}
    )


@pytest.mark.parametrize(("head", "preset"), ALL)
def test_learns_what_can_be_learnt(head: str, preset: str) -> None:
    fitted = fit(quick(head, preset), *samples(), seed=0)
    features, labels, _ = samples(1)
    assert (fitted.predict(features) == labels).mean() > 0.85
    assert len(fitted.losses) == 4 and fitted.losses[-1] < fitted.losses[0]
    assert fitted.classes.tolist() == LABELS.tolist()


@pytest.mark.parametrize(("head", "preset"), ALL)
def test_same_bits_again_on_any_number_of_threads_and_global_seeds(head: str, preset: str) -> None:
    threads, first = torch.get_num_threads(), fit(quick(head, preset), *samples(), seed=7)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    torch.set_num_threads(2)
    second = fit(quick(head, preset), *samples(), seed=7)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.losses == second.losses
    for name, tensor in first.head.state_dict().items():
        assert torch.equal(tensor, second.head.state_dict()[name]), name


def test_rows_in_another_order_are_the_same_fit() -> None:
    features, labels, hashes = samples()
    shuffled = np.random.default_rng(1).permutation(N)
    one = fit(quick("mlp"), features, labels, hashes, seed=0)
    two = fit(quick("mlp"), features[shuffled], labels[shuffled], hashes[shuffled], seed=0)
    assert one.losses == two.losses


def test_seeds_differ() -> None:
    one, two = (fit(quick("mlp"), *samples(), seed=seed) for seed in (0, 2**64 - 1))
    assert one.losses != two.losses


@pytest.mark.parametrize(("head", "preset"), ALL)
def test_saved_head_is_the_same_head(head: str, preset: str, tmp_path: Path) -> None:
    fitted = fit(quick(head, preset, standardise=True), *samples(), seed=0)
    fitted.save(tmp_path)
    again = FittedHead.load(tmp_path)
    features, _, _ = samples(1)
    assert np.array_equal(fitted.predict_logits(features), again.predict_logits(features))
    assert np.array_equal(fitted.transform(features), again.transform(features))
    assert (again.setting, again.losses, again.classes.tolist()) == (fitted.setting, fitted.losses, LABELS.tolist())


def test_standardisation_makes_scale_and_shift_of_features_irrelevant() -> None:
    features, labels, hashes = samples()
    setting = quick("linear_probe", standardise=True, dtype="float64")
    plain = fit(setting, features, labels, hashes, seed=0)
    moved = fit(setting, features.astype(np.float64) * 50 - 7, labels, hashes, seed=0)
    np.testing.assert_allclose(plain.losses, moved.losses, rtol=1e-6)


def test_z_of_a_linear_probe_is_its_features() -> None:
    features, *_ = samples()
    assert np.array_equal(fit(quick("linear_probe"), *samples(), seed=0).transform(features), features)


def test_a_pair_uses_the_views_and_one_view_is_not_doubled() -> None:
    views, labels, hashes = samples(views=3)
    pair = fit(quick("nmtune", "official"), views, labels, hashes, seed=0)
    single = fit(quick("nmtune", "official"), views[0], labels, hashes, seed=0)
    one = fit(quick("nmtune", "official", views="one"), views, labels, hashes, seed=0)
    assert pair.losses != single.losses
    assert one.losses == single.losses
    assert int(pair.head.state_dict()["mlp.1.num_batches_tracked"]) == 4 * (N // 32)


def test_a_fit_that_diverges_says_so_and_ends() -> None:
    features, labels, hashes = samples()
    fitted = fit(quick("nmtune", learning_rate=1e30), features * 1e6, labels, hashes, seed=0)
    assert fitted.diverged and len(fitted.losses) < 4


def test_epochs_are_keyed_cut_to_full_batches_and_differ() -> None:
    hashes = key_hashes(str(i) for i in range(50))
    first, second = epoch_rows(hashes, 0, 0, 16), epoch_rows(hashes, 0, 1, 16)
    assert len(first) == 48 and len(set(first)) == 48
    assert first.tolist() != second.tolist()
    backwards = epoch_rows(hashes[::-1].copy(), 0, 0, 16)
    assert (49 - backwards).tolist() == first.tolist()


def test_view_pairs_are_ordered_different_and_all_occur() -> None:
    first, second = view_pair(key_hashes(str(i) for i in range(600)), 0, 0, 3)
    assert (first != second).all()
    counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)[1]
    assert len(counts) == 6 and counts.min() > 60


@pytest.mark.parametrize(("head", "preset"), ALL)
def test_float16_features_are_what_they_say(head: str, preset: str) -> None:
    features, labels, hashes = samples()
    half = features.astype(np.float16)
    one = fit(quick(head, preset, standardise=True), half, labels, hashes, seed=0)
    two = fit(quick(head, preset, standardise=True), half.astype(np.float32), labels, hashes, seed=0)
    assert one.losses == two.losses
    assert np.array_equal(one.predict_logits(half), two.predict_logits(half.astype(np.float32)))


def test_arrays_of_any_layout_are_the_same_fit() -> None:
    features, labels, hashes = samples()
    one = fit(quick("mlp"), features, labels, hashes, seed=0)
    wide, strided = np.zeros((N, 2 * D), np.float32), np.zeros(2 * N, np.int64)
    wide[::-1, ::2], strided[::2] = features, labels
    two = fit(quick("mlp"), wide[::-1, ::2], strided[::2], hashes, seed=0)
    three = fit(quick("mlp"), np.asfortranarray(features), labels, hashes, seed=0)
    assert one.losses == two.losses == three.losses


def test_fewer_rows_than_a_batch_are_one_batch() -> None:
    features, labels, hashes = samples()
    one = fit(quick("nmtune", "official").model_copy(update={"batch": N}), features, labels, hashes, seed=0)
    two = fit(quick("nmtune", "official").model_copy(update={"batch": 4 * N}), features, labels, hashes, seed=0)
    assert one.losses == two.losses
    assert int(one.head.state_dict()["mlp.1.num_batches_tracked"]) == 4


def test_a_last_batch_of_one_row_is_dropped() -> None:
    features, labels, hashes = (part[:65] for part in samples())
    fitted = fit(quick("nmtune", "official"), features, labels, hashes, seed=0)
    assert int(fitted.head.state_dict()["mlp.1.num_batches_tracked"]) == 4 * 2


@pytest.mark.parametrize("rows", [0, 1])
def test_less_than_two_rows_are_refused(rows: int) -> None:
    features, labels, hashes = (part[:rows] for part in samples())
    with pytest.raises(HeadError, match=rf"^{rows} sample\(s\) to fit a head on; expected at least 2$"):
        fit(quick("nmtune", "official"), features, labels, hashes, seed=0)


def test_standardisation_leaves_constant_features_alone() -> None:
    features, labels, hashes = samples()
    features[:, 3] = 0.1  # its mean in float64 is not exactly it
    fitted = fit(quick("linear_probe", standardise=True, dtype="float64"), features, labels, hashes, seed=0)
    assert fitted.scale is not None and float(fitted.scale[3]) == 1
    assert np.abs(fitted.transform(features)[:, 3]).max() < 1e-12


@pytest.mark.parametrize(("head", "preset"), ALL)
def test_no_rows_get_no_predictions(head: str, preset: str) -> None:
    features, *_ = samples()
    fitted = fit(quick(head, preset), *samples(), seed=0)
    assert fitted.predict(features[:0]).shape == (0,)
    assert fitted.predict_logits(features[:0]).shape == (0, 4)
    assert fitted.transform(features[:0]).shape == (0, D)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    setting = head_setting("mlp", learning_rate=0.2, warmup_steps=2)
    rates = [learning_rate(setting, step, 6) for step in range(6)]
    assert rates[:3] == [0.1, 0.2, 0.2]
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.2 * 0.2
