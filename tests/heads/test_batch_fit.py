"""Many settings trained as one program: each gets what it gets alone, whatever it is batched with."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nml_ray.data.draw import key_hashes
from nml_ray.heads.batch_fit import Samples, fit_batch, fit_batches, in_memory
from nml_ray.heads.batch_shape import Data, shape
from nml_ray.heads.config import HeadSetting, head_setting
from nml_ray.heads.errors import HeadError
from nml_ray.heads.fit import fit
from nml_ray.heads.fitted import FittedHead

N, D, LABELS = 100, 12, np.array([3, 5, 11, 40])
EXACT = {"loss": 1e-12, "logits": 1e-10}  # float64: relative, and of the largest logit
ROUNDED = {"loss": 1e-4, "logits": 1e-3}  # float32, after 15 steps
NORMED = {"loss": 1e-4, "logits": 2e-2}
"""float32 with BatchNorm. The bias before it has a gradient of nothing but rounding, which AdamW scales up to whole
steps; training does not feel them, but the running mean, which evaluation reads, follows with a delay."""
FREE = 10**9


def samples(views: int = 1, regression: bool = False) -> Samples:
    generator = np.random.default_rng(0)
    index = generator.integers(0, len(LABELS), N)
    features = generator.normal(size=(len(LABELS), D))[index] + 0.5 * generator.normal(size=(views, N, D))
    labels: NDArray[Any] = index + 0.1 * features[0, :, 0] if regression else LABELS[index]
    features = features.astype(np.float32)
    return Samples(features[0] if views == 1 else features, labels, key_hashes(str(i) for i in range(N)))


def setting(head: str, preset: str = "paper", **changes: Any) -> HeadSetting:
    return head_setting(head, preset, **{"epochs": 5, "batch": 32, "learning_rate": 0.01, **changes})


def variety(**shared: Any) -> list[HeadSetting]:
    """Settings of one shape that differ in all that may differ."""
    return [
        setting("nmtune", **shared),
        setting("mlp", learning_rate=0.003, **shared),
        setting("nmtune", standardise=True, weight_decay=0.1, **shared),
        setting("nmtune", top_k=5, svd_weight=0.3, mse_norm="official", mse_weight=1.0, **shared),
        setting("nmtune", svd_weight=0, warmup_steps=4, learning_rate=0.003, **shared),
        setting("nmtune", mse_weight=0, cov_weight=0, top_k=99, **shared),
        setting("nmtune", learning_rate=0.02, cov_weight=0.5, **shared),
    ]


SHARED: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch_norm": {"batch_norm": True, "layers": 2, "ratio": 1.5},
    "residual": {"residual": True, "batch_norm": True},
    "few_rows": {"batch": 8},
}


def rounded(one: HeadSetting) -> dict[str, float]:
    return NORMED if getattr(one, "batch_norm", False) else ROUNDED


def close(found: FittedHead, expected: FittedHead, features: NDArray[Any], limits: dict[str, float]) -> None:
    assert found.setting == expected.setting and found.classes.tolist() == expected.classes.tolist()
    np.testing.assert_allclose(found.losses, expected.losses, rtol=limits["loss"])
    logits = expected.predict_logits(features)
    np.testing.assert_allclose(
        found.predict_logits(features), logits, rtol=0, atol=limits["logits"] * float(np.abs(logits).max())
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shared", SHARED)
def test_each_setting_of_a_batch_gets_what_it_gets_alone(shared: str, dtype: str) -> None:
    given, seeds = samples(), [0, 1, 0, 2, 3, 0, 1]
    settings = variety(**SHARED[shared], dtype=dtype)
    data = Data(N, D, len(LABELS))
    assert len({shape(one, data) for one in settings}) == 1
    heads = list(fit_batch(settings, seeds, given, "cpu"))
    for one, seed, head in zip(settings, seeds, heads, strict=True):
        alone = fit(one, given.features, given.labels, given.key_hashes, seed)
        close(head, alone, given.features, EXACT if dtype == "float64" else rounded(one))


def test_views_are_drawn_as_they_are_alone() -> None:
    given, seeds = samples(views=3), [0, 4, 0]
    settings = [setting("nmtune", "official", dtype="float64", svd_weight=weight) for weight in (0.001, 0.1, 0)]
    for one, seed, head in zip(settings, seeds, fit_batch(settings, seeds, given, "cpu"), strict=True):
        close(head, fit(one, given.features, given.labels, given.key_hashes, seed), given.features[0], EXACT)


@pytest.mark.parametrize("head", ["linear_probe", "nmtune"])
def test_a_regression_is_fitted_in_batches_too(head: str) -> None:
    given = samples(regression=True)
    settings = [setting(head, dtype="float64", learning_rate=rate) for rate in (0.1, 0.03)]
    for one, found in zip(settings, fit_batch(settings, [0, 1], given, "cpu"), strict=True):
        alone = fit(one, given.features, given.labels, given.key_hashes, settings.index(one))
        close(found, alone, given.features, EXACT)
        assert found.unit == alone.unit and found.unit is not None
        np.testing.assert_allclose(found.predict(given.features), alone.predict(given.features), rtol=1e-9)


def test_a_setting_does_not_depend_on_what_it_is_batched_with() -> None:
    given, settings = samples(), variety(dtype="float64")
    (alone,) = fit_batch(settings[:1], [0], given, "cpu")
    for others in ([1, 2], [6], [2, 3, 4, 5, 6, 1]):
        batch = [settings[number] for number in [*others, 0]]
        *_, last = fit_batch(batch, [7] * len(others) + [0], given, "cpu")
        close(last, alone, given.features, EXACT)


def test_a_setting_that_diverges_ends_alone() -> None:
    given = samples()
    settings = [*variety(dtype="float64")[:2], setting("nmtune", dtype="float64", learning_rate=1e200)]
    heads = list(fit_batch(settings, [0, 1, 2], given, "cpu"))
    assert [head.diverged for head in heads] == [False, False, True]
    alone = fit(settings[2], given.features, given.labels, given.key_hashes, 2)
    np.testing.assert_allclose(heads[2].losses, alone.losses, rtol=1e-12)
    for one, seed in ((0, 0), (1, 1)):
        expected = fit(settings[one], given.features, given.labels, given.key_hashes, seed)
        close(heads[one], expected, given.features, EXACT)


def test_all_that_diverge_end_the_batch() -> None:
    heads = list(fit_batch([setting("mlp", learning_rate=1e30)] * 2, [0, 1], samples(), "cpu"))
    assert all(head.diverged for head in heads)


def test_any_settings_are_grouped_and_every_one_comes_back_once() -> None:
    given = samples()
    settings = [
        *variety(),
        setting("linear_probe"),
        setting("mlp", "official"),
        setting("nmtune", "official"),
        setting("linear_probe", learning_rate=0.1),
        setting("mlp", batch=2000),
        setting("mlp", batch=3000),
    ]
    seeds = [number % 3 for number in range(len(settings))]
    found = {one.number: one for one in fit_batches(settings, seeds, given, "cpu", FREE)}
    assert sorted(found) == list(range(len(settings)))
    assert [found[number].together for number in range(len(settings))] == [7] * 7 + [2] * 6
    for number, one in enumerate(settings):
        alone = fit(one, given.features, given.labels, given.key_hashes, seeds[number])
        close(found[number].head, alone, given.features, rounded(one))
    assert [one.together for one in fit_batches(settings, seeds, given, "cpu", 0)] == [1] * len(settings)


def test_what_is_too_large_for_the_device_is_halved() -> None:
    def train(numbers: Any) -> Any:
        if len(numbers) > 2:
            raise torch.OutOfMemoryError
        return iter(numbers)

    assert [list(part) for part, _ in in_memory(list(range(7)), train)] == [[0], [1, 2], [3, 4], [5, 6]]
    with pytest.raises(torch.OutOfMemoryError):
        list(in_memory([0], lambda numbers: train([1, 2, 3])))


def test_less_than_two_rows_are_refused() -> None:
    given = samples()
    few = Samples(given.features[:1], given.labels[:1], given.key_hashes[:1])
    with pytest.raises(HeadError, match=r"^1 sample\(s\) to fit a head on; expected at least 2$"):
        list(fit_batches([setting("mlp")], [0], few, "cpu", FREE))


def test_no_global_generator_is_drawn_from() -> None:
    state = torch.get_rng_state()
    list(fit_batch(variety(), [0] * 7, samples(), "cpu"))
    assert torch.equal(torch.get_rng_state(), state)
