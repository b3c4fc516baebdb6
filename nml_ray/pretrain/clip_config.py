"""Settings of contrastive image-text pre-training."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from nml_ray.config.settings import Settings
from nml_ray.models.text_config import TextSettings

Split = Literal["pretrain_validation", "train", "validation", "test", "ood"]


class ZeroShotSettings(Settings):
    """Classification of images by the texts of their class names, at the end of each epoch.

    A class is the mean of its prompts' features. It says how far pre-training has come; it chooses the best checkpoint
    on `pretrain_validation` alone, and nothing on downstream images.
    """

    split: Split = "test"
    """Which images: downstream ones, or those of `pretrain_validation`, which are for this alone: with them, another
    downstream task trains nothing again."""
    templates: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["imagenet"] = ("a photo of a {}.",)
    """Prompts with {} for the class name; `imagenet`: the 80 of Radford et al. 2021 for ImageNet."""
    names: dict[str, str] | Literal["imagenet"] | None = None
    """What classes are called in prompts, where that is not their name in the data; `imagenet`: the names of ImageNet's
    1000 classes, for data that has them in the usual order."""

    @property
    def chooses(self) -> bool:
        """Whether it may choose a checkpoint: its images are set apart for that."""
        return self.split == "pretrain_validation"

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, templates: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for template in () if isinstance(templates, str) else templates:
            if template.count("{}") != 1:
                raise ValueError(f"a template has {{}} once, for the class name; '{template}' has not")
        return templates


class ClipSettings(Settings):
    """Contrastive pre-training: the text tower, the loss, the zero-shot evaluation."""

    text: TextSettings = TextSettings()
    """The text tower beside the encoder."""
    cached: bool = True
    """Compute features first without keeping what their gradient needs, and each microbatch once more when its turn
    comes: memory for one microbatch instead of a worker's whole share, a third more arithmetic, the same result."""
    loss: Literal["local", "full"] = "local"
    """Who computes what of the loss among several workers: each its own rows (local), or each all of them (full)."""
    zero_shot: ZeroShotSettings | None = None
    """Zero-shot accuracy after each epoch; not measured when left out."""
