"""Samples that are few, odd or no numbers, in both forms of a fit: the right answer, or a fit that says it diverged."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nml_ray.data.draw import key_hashes
from nml_ray.heads.batch_fit import Samples, fit_batch
from nml_ray.heads.config import HeadSetting, head_setting
from nml_ray.heads.fit import fit
from nml_ray.heads.fitted import FittedHead

HEADS = [(head, preset) for head in ("linear_probe", "mlp", "nmtune") for preset in ("paper", "official")]


def sequential(setting: HeadSetting, features: NDArray[Any], labels: NDArray[Any]) -> FittedHead:
    return fit(setting, features, labels, key_hashes(map(str, range(len(labels)))), 0)


def batched(setting: HeadSetting, features: NDArray[Any], labels: NDArray[Any]) -> FittedHead:
    given = Samples(features, labels, key_hashes(map(str, range(len(labels)))))
    other = setting.model_copy(update={"learning_rate": setting.learning_rate / 2})
    return list(fit_batch([other, setting], [1, 0], given, "cpu"))[1]


both_forms = pytest.mark.parametrize("form", [sequential, batched], ids=lambda form: form.__name__)
all_heads = pytest.mark.parametrize(("head", "preset"), HEADS)


def setting(head: str, preset: str, **changes: Any) -> HeadSetting:
    return head_setting(head, preset, **{"epochs": 40, "learning_rate": 0.1, "standardise": True, **changes})


@both_forms
@all_heads
def test_one_dimension(form: Any, head: str, preset: str) -> None:
    features, labels = np.array([[-2.0], [-1.9], [-2.2], [2.0], [2.1], [1.8]]), np.array([7, 7, 7, 3, 3, 3])
    assert form(setting(head, preset), features, labels).predict(features).tolist() == labels.tolist()


@both_forms
@all_heads
def test_a_class_with_one_sample_and_as_many_classes_as_rows(form: Any, head: str, preset: str) -> None:
    features = np.array([[0.0, 0], [0.1, 0], [0, 0.1], [5, 5]])
    for labels in (np.array([4, 4, 4, -1]), np.array([0, 1, 2, 3])):
        found = form(setting(head, preset), features, labels)
        assert not found.diverged and np.isfinite(found.predict_logits(features)).all()
        assert found.classes.tolist() == sorted(set(labels.tolist()))
        assert found.predict(features)[3] == labels[3]


@both_forms
@all_heads
def test_one_class_is_always_found(form: Any, head: str, preset: str) -> None:
    features = np.random.default_rng(0).normal(size=(6, 3))
    found = form(setting(head, preset, epochs=2), features, np.full(6, 9))
    assert not found.diverged and found.predict(features).tolist() == [9] * 6


@both_forms
@all_heads
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_makes_a_fit_diverge(form: Any, head: str, preset: str, value: float) -> None:
    features = np.random.default_rng(0).normal(size=(6, 3))
    features[2, 1] = value
    found = form(setting(head, preset, epochs=2, standardise=False), features, np.array([0, 1] * 3))
    assert found.diverged and found.losses == ()


@both_forms
@all_heads
def test_equal_rows_and_a_feature_that_is_zero(form: Any, head: str, preset: str) -> None:
    features = np.tile([[1.0, 0.0, -1.0]], (6, 1))
    found = form(setting(head, preset, epochs=3), features, np.array([0, 1] * 3))
    assert not found.diverged and np.isfinite(found.predict_logits(features)).all()
