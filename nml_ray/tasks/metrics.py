"""Scores of predicted labels, in plain numpy. Every score is a share in [0, 1]."""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


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


def scores(labels: Labels, predicted: Labels) -> dict[str, float]:
    """The metrics a study reports, by name."""
    return {"accuracy": accuracy(labels, predicted), "macro_f1": macro_f1(labels, predicted)}


def _rates(labels: Labels, predicted: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Per class occurring in either array: precision, recall (0 where undefined), and whether it is in `labels`."""
    classes, index = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    true, guess = np.split(index, 2)
    hits = np.bincount(true[true == guess], minlength=len(classes))
    given = np.bincount(true, minlength=len(classes))
    guessed = np.bincount(guess, minlength=len(classes))
    return hits / np.maximum(guessed, 1), hits / np.maximum(given, 1), given > 0
