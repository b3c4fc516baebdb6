"""Metrics against scikit-learn, and on cases that can be counted by hand."""

import numpy as np
import pytest

from nml_ray.tasks import metrics


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_scikit_learn(seed: int) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(seed)
    labels = generator.choice([0, 2, 3, 7, 9], 60)
    predicted = np.where(generator.random(60) < 0.5, labels, generator.choice([0, 2, 5, 7], 60))
    assert metrics.accuracy(labels, predicted) == pytest.approx(reference.accuracy_score(labels, predicted))
    assert metrics.macro_f1(labels, predicted) == pytest.approx(
        reference.f1_score(labels, predicted, average="macro", zero_division=0)
    )
    recalls = [np.mean(predicted[labels == c] == c) for c in np.unique(labels)]
    assert metrics.mean_per_class(labels, predicted) == pytest.approx(float(np.mean(recalls)))


def test_counted_by_hand() -> None:
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert metrics.scores(labels, predicted) == {
        "accuracy": 0.75,
        "macro_f1": pytest.approx((0.8 + 2 / 3) / 2),
    }
    assert metrics.mean_per_class(labels, predicted) == pytest.approx((2 / 3 + 1) / 2)


def test_a_class_only_predicted_counts_in_f1_and_not_in_recall() -> None:
    labels, predicted = np.array([0, 0]), np.array([0, 5])
    assert metrics.macro_f1(labels, predicted) == pytest.approx(1 / 3)
    assert metrics.mean_per_class(labels, predicted) == 0.5
