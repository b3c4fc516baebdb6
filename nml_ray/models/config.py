"""Settings that name an encoder."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nml_ray.config.settings import Count, Settings
from nml_ray.config.validate import Misplaced


class EncoderSettings(Settings):
    """An encoder by name, and what its images look like."""

    name: str = "small_resnet"
    """`small_resnet`, `torchvision:NAME`, `timm:NAME`, or `open_clip:NAME` for its image tower."""
    width: Count = 24
    """Channels of the first stage of `small_resnet`; its features have 8 times as many. Other encoders ignore it."""
    channels: Literal[1, 3] = 3
    """Channels of the input image: 1 (grey) or 3 (RGB)."""
    size: Count = 224
    """Side of the square input, in pixels."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, on the 0..1 scale; the encoder's own when left out."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, on the 0..1 scale; the encoder's own when left out."""
    weights: str | None = None
    """A local .safetensors or .pth file of weights; none starts from random ones."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the classifier, of `timm:` encoders; draws by (seed, step, microbatch)."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of `timm:` encoders: how often the last block is skipped for a sample, earlier ones less."""
    channels_last: bool = True
    """Memory format of images and weights; part of what fixes the bits."""

    @model_validator(mode="after")
    def _drops_fit(self) -> Self:
        for name in ("drop_rate", "drop_path_rate"):
            if getattr(self, name) and not self.name.startswith("timm:"):
                raise Misplaced(f"'{name}' is for timm: encoders, and this is {self.name}", name)
        return self
