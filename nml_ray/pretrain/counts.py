"""Loss and accuracy on clean and on flipped samples apart: seven sums that every step adds up."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COUNTS = 7  # clean: weight, loss, correct; flipped: weight, loss, fitted (given label), recovered (clean label)


def sample_counts(losses: Tensor, predicted: Tensor, given: Tensor, clean: Tensor, weights: Tensor) -> Tensor:
    """The sums over one microbatch, float32 [COUNTS]; all arguments are [N]."""
    flipped = (given != clean) * weights
    kept = weights - flipped
    fits, recovers = predicted == given, predicted == clean
    return torch.stack(
        [
            kept.sum(),
            (losses * kept).sum(),
            (fits * kept).sum(),
            flipped.sum(),
            (losses * flipped).sum(),
            (fits * flipped).sum(),
            (recovers * flipped).sum(),
        ]
    )


def finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures with None for those that are NaN or infinite: JSON and its readers know no others."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }


def epoch_curve(epoch: int, counts: NDArray[np.float64]) -> dict[str, Any]:
    """The sums of an epoch as columns of `curves.parquet` (`analysis.results.EpochCurve`).

    `samples_flipped` and `fitted_flipped` are how many flipped samples were fed, and on how many of them the model
    predicted the wrong label that it was given; `accuracy_flipped` is their ratio.
    """
    kept, kept_loss, kept_correct, flipped, flipped_loss, fitted, recovered = (float(value) for value in counts)
    return {
        "epoch": epoch,
        "loss_clean": kept_loss / kept if kept else None,
        "accuracy_clean": kept_correct / kept if kept else None,
        "loss_flipped": flipped_loss / flipped if flipped else None,
        "accuracy_flipped": fitted / flipped if flipped else None,
        "recovered_flipped": recovered / flipped if flipped else None,
        "samples_flipped": flipped,
        "fitted_flipped": fitted,
    }
