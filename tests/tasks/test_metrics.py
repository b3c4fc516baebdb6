"""Metrics against scikit-learn, and on cases that can be counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

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


@pytest.mark.parametrize("classes", [2, 5])
def test_matthews_is_scikit_learn_s(classes):
    draw = np.random.default_rng(classes)
    for _ in range(20):
        labels, predicted = draw.integers(0, classes, (2, 40))
        expected = matthews_corrcoef(labels, predicted)
        assert metrics.matthews(labels, predicted) == pytest.approx(expected, abs=1e-12)
    assert metrics.matthews(np.zeros(4, np.int64), np.array([0, 1, 0, 1])) == 0


def test_pearson_is_numpy_s():
    draw = np.random.default_rng(0)
    values, predicted = draw.normal(size=(2, 50))
    assert metrics.pearson(values, predicted) == pytest.approx(np.corrcoef(values, predicted)[0, 1], abs=1e-12)
    assert metrics.pearson(values, 3 * values - 2) == pytest.approx(1) and metrics.pearson(values, 0 * values) == 0


def test_scores_name_the_metric_asked_for():
    labels, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    assert list(metrics.scores(labels, predicted)) == ["accuracy", "macro_f1"]
    assert metrics.scores(labels, predicted, "mean_per_class")["mean_per_class"] == pytest.approx(0.75)
    assert list(metrics.scores(labels.astype(float), predicted.astype(float), "pearson")) == ["pearson"]
