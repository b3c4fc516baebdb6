"""Settings of the parts of a training recipe: optimiser, loss, mixing, RandAugment, average of the weights."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from nml_ray.config.settings import Count, Settings, short_form

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class OptimiserSettings(Settings):
    """The optimiser and its learning rate over time."""

    name: Literal["adamw", "sgd", "lamb"] = "adamw"
    """`adamw`, `sgd` (with Nesterov momentum) or `lamb` (for large batches)."""
    learning_rate: Positive = 0.003
    """Peak learning rate."""
    weight_decay: NonNegative = 0.05
    """Decoupled for adamw, added to the gradient for sgd, to the update before it is scaled for lamb; not applied to
    biases and normalisation weights."""
    momentum: Share = 0.9
    """First-moment decay: beta1 of adamw and lamb, momentum of sgd."""
    beta2: Share = 0.999
    """Second-moment decay of adamw and lamb."""
    epsilon: Positive | None = None
    """Added to the denominator of adamw and lamb; 1e-8 for adamw and 1e-6 for lamb when left out."""
    warmup_epochs: NonNegative = 1
    """Epochs of linear warm-up; after it the rate falls to zero along a cosine."""
    clip_norm: Positive | None = None
    """Largest norm of the whole gradient, which is scaled down to it; not clipped when left out."""


class LossSettings(Settings):
    """What is minimised; in YAML also just the kind: `loss: bce`."""

    model_config = ConfigDict(json_schema_extra=short_form({"enum": ["cross_entropy", "bce"]}))

    kind: Literal["cross_entropy", "bce"] = "cross_entropy"
    """`cross_entropy`: softmax over the classes; `bce`: each class against the rest, by binary cross-entropy."""
    threshold: Probability | None = None
    """bce: targets above it count as 1 and the others as 0, so that every class of a mixed image is wholly there."""
    classes: Literal["mean", "sum"] = "mean"
    """bce: the mean over the classes, or their sum."""

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _bce_only(self) -> Self:
        if self.kind != "bce" and (self.threshold is not None or self.classes != "mean"):
            raise ValueError("threshold and classes need kind: bce")
        return self


class MixingSettings(Settings):
    """Mixup and CutMix of the samples of a microbatch; each sample has its own share and box."""

    mixup: NonNegative = 0.0
    """Parameter of mixup's Beta(a, a), from which the share of the own image is drawn; 0 for no mixup."""
    cutmix: NonNegative = 0.0
    """Parameter of CutMix's Beta(a, a), from which the share outside the box is drawn; 0 for no CutMix."""
    probability: Probability = 1.0
    """Share of the samples that are mixed at all."""
    cutmix_share: Probability = 0.5
    """Share of CutMix among the mixed samples, where both are on."""

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


class RandAugmentSettings(Settings):
    """RandAugment with operations that grow in strength with the magnitude (timm's `rand-mM-mstdS-inc1`)."""

    operations: Count = 2
    """Operations drawn for a sample, one after another."""
    magnitude: Annotated[float, Field(ge=0, le=10)] = 7.0
    """Mean strength, 0 to 10."""
    deviation: NonNegative = 0.5
    """Standard deviation of the strength, drawn for each operation of each sample."""
    probability: Probability = 0.5
    """How often a drawn operation is applied."""


class AverageSettings(Settings):
    """Exponential moving average of the weights (and BatchNorm's statistics); it is what is validated and exported."""

    decay: Share = 0.9999
    """Weight of the past in each step."""
    warmup: bool = True
    """At step t the decay is at most (1 + t) / (10 + t), so that the random start is soon forgotten."""
