"""Settings of feature extraction, and of features that were made elsewhere."""

from typing import Any, Literal

from pydantic import model_validator

from nml_ray.config.settings import Count, Seed, Settings
from nml_ray.data.augment import Augmentation, ResizedCropAugmentation

SPLITS = ("train", "validation", "test", "ood")


class ExtractSettings(Settings):
    """How the downstream images become features. All of it is part of the artifact's hash."""

    batch: Count = 256
    """Images a forward pass; batches never cross a shard."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type in which features are stored."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """In which matrix products and convolutions run; features are float32 before they are stored."""
    splits: tuple[str, ...] | None = None
    """Which splits to extract; all downstream ones that the data has when left out (never `pretrain`)."""
    views: Count = 1
    """Views of each image of `train`. View 0 is the encoder's own evaluation transform, which every head but one with
    `views: pair` is fitted to, and spectra are of; the others are augmented, and a pair is drawn among all of them."""
    augmentation: Augmentation = ResizedCropAugmentation()
    """What an augmented view is: a random crop with a flip, or a shift with a flip for small images."""
    seed: Seed = 0
    """Of the views; a view depends on (seed, key, view) alone."""
    undecodable: Literal["fail", "skip"] = "fail"
    """What to do with samples that cannot be decoded, or lack the caption that a language model reads: `skip` leaves
    them without a row, counted and named in features.json."""

    @model_validator(mode="after")
    def _distinct(self) -> "ExtractSettings":
        if self.splits is not None and (not self.splits or len(set(self.splits)) < len(self.splits)):
            raise ValueError("splits must name at least one split, each once")
        return self

    def hashed(self) -> dict[str, Any]:
        """The settings that define the features, plain; options that change nothing here are left out."""
        left = {"views", "augmentation", "seed"} if self.views == 1 else set()
        left |= {"undecodable"} if self.undecodable == "fail" else set()
        left |= {"precision"} if self.precision == "float32" else set()
        return self.model_dump(mode="json", exclude=left)


class GivenFeatures(Settings):
    """Features from elsewhere, one file a split.

    A file is Arrow IPC (.arrow, .feather) or Parquet with the columns label, features and best key too, .csv or .tsv
    with label, perhaps key, and a column a dimension, .npz with the arrays labels and features, or .npy of [N, D]
    numbers beside a file of labels NAME.labels.npy. Labels are whole numbers from 0, or names.
    """

    train: str
    """Features to fit heads on."""
    validation: str
    """Features on which settings are chosen."""
    test: str
    """Features of the test images, read once."""
    ood: str | None = None
    """Features of test images of another domain, same classes."""
    name: str = "given"
    """What the report calls the encoder that made them."""

    def paths(self) -> dict[str, str]:
        """The files given, by split."""
        return {split: path for split in SPLITS if (path := getattr(self, split)) is not None}
