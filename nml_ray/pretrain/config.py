"""Settings of a pre-training run; all of them are hashed."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nml_ray.config.settings import Count, Seed, Settings
from nml_ray.config.validate import Misplaced
from nml_ray.data.augment import Augmentation, ShiftAugmentation
from nml_ray.data.config import OrderSettings
from nml_ray.data.order import largest_divisor
from nml_ray.models.config import EncoderSettings
from nml_ray.pretrain.recipe_config import (
    AverageSettings,
    LossSettings,
    MixingSettings,
    OptimiserSettings,
    RandAugmentSettings,
    Share,
)


class PretrainSettings(Settings):
    """Supervised pre-training of one encoder under every noise arm."""

    objective: Literal["supervised"] = "supervised"
    """`supervised`: softmax cross-entropy on the labels the arm is given."""
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

    def microbatch_size(self) -> int:
        """Samples of a microbatch, the default filled in."""
        return self.microbatch or largest_divisor(self.batch, 256)

    def microbatches(self) -> int:
        """Microbatches of a batch: the most workers that a run can use."""
        return self.batch // self.microbatch_size()
