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
    """`labels_of` an arm's noise. Raises `UserError` as `make_ledger`."""
    return labels_of(noise_ledger(dataset, arm), dataset)


def labels_of(ledger: NoiseLedger, dataset: Dataset) -> NDArray[np.int32]:
    """What an arm is trained on, by sample number: int32[N]. Excluded samples keep their own.

    Labels; for `caption_swap` the number of the sample whose caption it carries.
    """
    given: NDArray[np.int32] = clean_labels(dataset, ledger.kind).copy()
    given[dataset.good] = dataset.good[ledger.given] if ledger.kind == "caption_swap" else ledger.given
    return given


def clean_labels(dataset: Dataset, kind: str) -> NDArray[np.int32]:
    """What `labels_of` would be without noise: labels, or the samples' own numbers."""
    return np.arange(len(dataset), dtype=np.int32) if kind == "caption_swap" else dataset.label


def logged_labels(dataset: Dataset, kind: str, given: NDArray[np.int32]) -> NDArray[np.signedinteger]:
    """What the feeding log has for a sample: the label; for captions the hash of the donor's key, as int64[N]."""
    return dataset.key_hash[given].view(np.int64) if kind == "caption_swap" else given
