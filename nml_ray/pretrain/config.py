"""Settings of a pre-training run; all of them are hashed."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nml_ray.config.settings import Count, Seed, Settings
from nml_ray.config.validate import Misplaced
from nml_ray.data.augment import Augmentation, ShiftAugmentation
from nml_ray.data.config import OrderSettings
from nml_ray.data.order import largest_divisor
from nml_ray.models.config import EncoderSettings

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class OptimiserSettings(Settings):
    """The optimiser and its learning rate over time."""

    name: Literal["adamw", "sgd"] = "adamw"
    """`adamw` or `sgd` (with Nesterov momentum)."""
    learning_rate: Positive = 0.003
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Decoupled for adamw, added to the gradient for sgd; not applied to biases and normalisation weights."""
    momentum: Share = 0.9
    """First-moment decay: beta1 of adamw, momentum of sgd."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1
    """Epochs of linear warm-up; after it the rate falls to zero along a cosine."""


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
    label_smoothing: Share = 0.0
    """Share of the target spread over all classes."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """The optimiser and its schedule."""

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
