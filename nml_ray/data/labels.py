"""The labels or captions that an arm trains on, over a whole data set."""

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.noise import NoiseLedger, make_ledger


def noise_ledger(dataset: Dataset, arm: NoiseArm) -> NoiseLedger:
    """The noise of an arm over the good samples of a data set, in their order. Raises `UserError` as `make_ledger`."""
    captions = dataset.captions() if arm.kind == "caption_swap" else None
    hashes, labels = dataset.key_hash, dataset.label
    if len(dataset.good) < len(dataset):
        hashes, labels = hashes[dataset.good], labels[dataset.good]
    return make_ledger(arm, hashes, labels, len(dataset.classes), captions)


def given_labels(dataset: Dataset, arm: NoiseArm) -> NDArray[np.int32]:
    """Labels by sample number, int32[N]; those of excluded samples are their own."""
    given: NDArray[np.int32] = dataset.label.copy()
    given[dataset.good] = noise_ledger(dataset, arm).given
    return given


def caption_donors(dataset: Dataset, arm: NoiseArm) -> NDArray[np.int32]:
    """Whose caption each sample carries under `caption_swap`, by sample number: int32[N]."""
    donors = np.arange(len(dataset), dtype=np.int32)
    donors[dataset.good] = dataset.good[noise_ledger(dataset, arm).given]
    return donors


def donor_marks(dataset: Dataset, donors: NDArray[np.signedinteger]) -> NDArray[np.int64]:
    """What the feeding log has in place of labels: the hash of the donor's key, its bits as int64[N]."""
    return dataset.key_hash[donors].view(np.int64)
