"""Settings of feature extraction, and of features that were made elsewhere."""

from typing import Literal

from pydantic import model_validator

from nml_ray.config.settings import Count, Settings

SPLITS = ("train", "validation", "test", "ood")


class ExtractSettings(Settings):
    """How the downstream images become features. All of it is part of the artifact's hash."""

    batch: Count = 256
    """Images a forward pass; batches never cross a shard."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type in which features are stored; they are computed in float32."""
    splits: tuple[str, ...] | None = None
    """Which splits to extract; all downstream ones that the data has when left out (never `pretrain`)."""

    @model_validator(mode="after")
    def _distinct(self) -> "ExtractSettings":
        if self.splits is not None and (not self.splits or len(set(self.splits)) < len(self.splits)):
            raise ValueError("splits must name at least one split, each once")
        return self


class GivenFeatures(Settings):
    """Features from elsewhere, one file a split.

    A file is Arrow IPC (.arrow, .feather) or Parquet with the columns label, features and best key too, or .npz with
    the arrays labels and features, or .npy of [N, D] numbers beside a file of labels NAME.labels.npy.
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
