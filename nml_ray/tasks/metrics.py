"""Scores of predicted labels and numbers, in plain numpy. Shares lie in [0, 1], correlations in [-1, 1]."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Numbers = NDArray[np.floating]


def accuracy(labels: Labels, predicted: Labels) -> float:
    """The share of samples [N] whose predicted label is right."""
    return float((labels == predicted).mean())


def mean_per_class(labels: Labels, predicted: Labels) -> float:
    """The recall of each class that occurs in `labels`, averaged over classes."""
    _, recall, present = _rates(labels, predicted)
    return float(recall[present].mean())


def macro_f1(labels: Labels, predicted: Labels) -> float:
    """The F1 of each class that occurs in `labels` or `predicted`, averaged over classes; 0 for a class never hit."""
    precision, recall, _ = _rates(labels, predicted)
    both = precision + recall
    return float(np.mean(2 * precision * recall / np.where(both == 0, 1, both)))


def matthews(labels: Labels, predicted: Labels) -> float:
    """Matthews' correlation of labels and predictions, for any number of classes (Gorodkin 2004, R_K).

    0 where all labels, or all predictions, are one class.
    """
    hits, given, guessed = (count.astype(np.float64) for count in _counts(labels, predicted))
    total = float(len(labels))
    shared = hits.sum() * total - given @ guessed
    spread = (total**2 - guessed @ guessed) * (total**2 - given @ given)
    return float(shared / np.sqrt(spread)) if spread > 0 else 0.0


def pearson(values: Numbers, predicted: Numbers) -> float:
    """Pearson's correlation of numbers [N] and predictions [N]; 0 where either does not vary."""
    true, guess = (np.asarray(one, np.float64) - np.mean(one, dtype=np.float64) for one in (values, predicted))
    spread = float(np.sqrt((true @ true) * (guess @ guess)))
    return float(np.clip(true @ guess / spread, -1, 1)) if spread > 0 else 0.0


CLASSIFICATION = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "mean_per_class": mean_per_class,
    "matthews": matthews,
}


def scores(labels: NDArray[Any], predicted: NDArray[Any], metric: str = "accuracy") -> dict[str, float]:
    """The metrics a study reports, by name: accuracy, macro F1 and the one asked for; for pearson that alone."""
    if metric == "pearson":
        return {"pearson": pearson(labels, predicted)}
    names = dict.fromkeys(("accuracy", "macro_f1", metric))
    return {name: CLASSIFICATION[name](labels, predicted) for name in names}


def _counts(labels: Labels, predicted: Labels) -> tuple[Labels, Labels, Labels]:
    """Of each class that occurs in either array: samples hit, samples that have it, samples predicted to have it."""
    classes, index = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    true, guess = np.split(index, 2)
    count = lambda which: np.bincount(which, minlength=len(classes))  # noqa: E731
    return count(true[true == guess]), count(true), count(guess)


def _rates(labels: Labels, predicted: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Per class occurring in either array: precision, recall (0 where undefined), and whether it is in `labels`."""
    hits, given, guessed = _counts(labels, predicted)
    return hits / np.maximum(guessed, 1), hits / np.maximum(given, 1), given > 0
