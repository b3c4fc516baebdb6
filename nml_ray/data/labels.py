"""The labels that an arm trains on, over a whole data set."""

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.noise import NoiseLedger, make_ledger


def noise_ledger(dataset: Dataset, arm: NoiseArm) -> NoiseLedger:
    """The noise of an arm over the good samples of a data set, in their order. Raises `UserError` as `make_ledger`."""
    good = dataset.good
    captions = dataset.captions() if arm.kind == "caption_swap" else None
    return make_ledger(arm, dataset.key_hash[good], dataset.label[good], len(dataset.classes), captions)


def given_labels(dataset: Dataset, arm: NoiseArm) -> NDArray[np.int64]:
    """Labels by sample number, int64[N]; those of excluded samples are their own."""
    given = dataset.label.copy()
    given[dataset.good] = noise_ledger(dataset, arm).given
    return given
