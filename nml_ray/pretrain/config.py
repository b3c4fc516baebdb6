"""Settings of a pre-training run; all of them are hashed."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nml_ray.config.settings import Count, Seed, Settings
from nml_ray.config.validate import Misplaced
from nml_ray.data.augment import Augmentation, ShiftAugmentation
from nml_ray.data.config import OrderSettings
from nml_ray.data.order import largest_divisor
from nml_ray.models.config import EncoderSettings
from nml_ray.pretrain.clip_config import ClipSettings, ZeroShotSettings
from nml_ray.pretrain.recipe_config import (
    AverageSettings,
    LossSettings,
    MixingSettings,
    OptimiserSettings,
    RandAugmentSettings,
    Share,
)


class PretrainSettings(Settings):
    """Pre-training of one encoder under every noise arm."""

    objective: Literal["supervised", "clip"] = "supervised"
    """`supervised`: a classifier of the labels the arm is given; `clip`: images beside the captions given."""
    clip: ClipSettings | None = None
    """clip: text tower, loss and zero-shot evaluation; defaults when left out."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    """Pre-training seeds: initial weights, order and augmentation. Every arm is trained once for each."""
    encoder: EncoderSettings = EncoderSettings()
    """What is trained."""
    epochs: Count = 6
    """Passes over the data."""
    batch: Count = 256
    """Global batch: samples an optimiser step."""
    microbatch: Count | None = None
    """Unit of BatchNorm statistics and of the split over workers; the largest divisor of the batch up to 256."""
    repeats: Count = 1
    """Repeated augmentation: copies of each sample in its batch, each augmented on its own; divides the batch."""
    order: OrderSettings = OrderSettings()
    """Which sample is in which batch."""
    augmentation: Augmentation = ShiftAugmentation()
    """`shift` for small images, `resized_crop` for photographs."""
    train_size: Count | None = None
    """Side of the images that it is trained on; encoder.size, on which it is validated and used, when left out."""
    randaugment: RandAugmentSettings | None = None
    """Random colour and geometric operations on each sample, on the device; none when left out."""
    mixing: MixingSettings = MixingSettings()
    """Mixup and CutMix, on the device."""
    loss: LossSettings = LossSettings()
    """What is minimised."""
    label_smoothing: Share = 0.0
    """Share of the target spread over all classes."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """The optimiser and its schedule."""
    average: AverageSettings | None = None
    """Moving average of the weights, which is then validated and exported; none when left out."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """In which matrix products and convolutions run; weights, losses and sums stay float32."""
    compile: bool = False
    """Compile the model (torch.compile): faster steps on a GPU after minutes of compiling, other bits."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        different = self.batch // self.repeats
        if self.batch % self.repeats:
            words = f"repeats {self.repeats} does not divide batch {self.batch}"
            raise Misplaced(f"{words} ({largest_divisor(self.batch, self.repeats)} does)", "repeats")
        if self.microbatch and self.batch % self.microbatch:
            words = f"microbatch {self.microbatch} does not divide batch {self.batch}"
            raise Misplaced(f"{words} ({largest_divisor(self.batch, self.microbatch)} does)", "microbatch")
        if self.order.lanes and different % self.order.lanes:
            words = f"{self.order.lanes} lanes do not divide the {different} samples of a batch"
            raise Misplaced(f"{words} ({largest_divisor(different, self.order.lanes)} do)", "order", "lanes")
        return self

    @model_validator(mode="after")
    def _trains_its_encoder(self) -> Self:
        if self.encoder.from_directory:
            words = f"{self.encoder.name} is there already and is not trained: name it in the section 'encoders'"
            raise Misplaced(words, "encoder", "name")
        return self

    @model_validator(mode="after")
    def _fits_the_objective(self) -> Self:
        if self.objective == "supervised" and self.clip:
            raise Misplaced("objective supervised has no text tower: set objective: clip", "clip")
        labels = {"mixing": self.mixing.active, "loss": self.loss != LossSettings(), "repeats": self.repeats > 1}
        labels["label_smoothing"] = self.label_smoothing > 0
        for name, used in labels.items() if self.objective == "clip" else ():
            if used:
                raise Misplaced(f"'{name}' is for labels, and objective clip is trained on captions", name)
        return self

    @property
    def contrastive(self) -> ClipSettings:
        """The settings of objective clip, defaults filled in."""
        return self.clip or ClipSettings()

    def zero_shot(self) -> ZeroShotSettings | None:
        """The zero-shot evaluation, if there is one."""
        return self.contrastive.zero_shot if self.objective == "clip" else None

    def microbatch_size(self) -> int:
        """Samples of a microbatch, the default filled in."""
        return self.microbatch or largest_divisor(self.batch, 256)

    def microbatches(self) -> int:
        """Microbatches of a batch: the most workers that a run can use."""
        return self.batch // self.microbatch_size()
