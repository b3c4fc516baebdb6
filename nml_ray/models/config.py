"""Settings that name an encoder."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from nml_ray.config.settings import Count, Settings
from nml_ray.config.validate import Misplaced

TRANSFORMERS = "transformers:"
CHECKPOINT = "checkpoint"
HUB = "hub"
_OF_TRANSFORMERS = ("pooling", "context")
_OWN_INPUT = ("width", "channels", "size", "mean", "std", "channels_last")


class EncoderSettings(Settings):
    """An encoder by name, and what its images look like."""

    name: str = "small_resnet"
    """`small_resnet`, `torchvision:NAME`, `timm:NAME`, `open_clip:NAME` or `open_clip:NAME/TAG` for its image tower;
    to extract with, also `transformers:NAME` (images, or captions) and `checkpoint`, one that was trained here."""
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
    """A local .safetensors or .pth file of weights, or `hub`: those published under this name, from the cache of the
    Hugging Face hub or of torch; none starts from random ones. `transformers:` and `checkpoint` take a directory: of
    config.json, safetensors and tokenizer (from the hub's cache when left out), or a pre-training's own."""
    pooling: Literal["cls", "mean", "pooler", "last"] | None = None
    """How a `transformers:` model's states become one vector, which must be said: `cls`, the first; `mean`, that of all
    tokens that are no padding, or of all places of an image; `last`, the last token; `pooler`, the model's own."""
    context: Count | None = None
    """Tokens after which a `transformers:` model's texts are cut; as many as it takes when left out."""
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

    @model_validator(mode="after")
    def _brings_its_input(self) -> Self:
        transformers = self.name.startswith(TRANSFORMERS)
        for name in _OF_TRANSFORMERS:
            if getattr(self, name) and not transformers:
                raise Misplaced(f"'{name}' is for transformers: encoders, and this is {self.name}", name)
        if transformers and not self.pooling:
            words = "a transformers: encoder needs 'pooling': cls, mean, pooler or last, as its authors use it"
            raise Misplaced(words, "pooling")
        if self.name == CHECKPOINT and self.weights is None:
            raise Misplaced("a checkpoint needs 'weights': the directory that pre-training left", "weights")
        if self.from_directory:
            for name in _OWN_INPUT:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise Misplaced(f"'{name}' is the model's own where it is {self.name}", name)
        return self

    @property
    def from_directory(self) -> bool:
        """Whether the encoder is a directory of files that say all about it; such ones are not pre-trained here."""
        return self.name == CHECKPOINT or self.name.startswith(TRANSFORMERS)

    def hashed(self) -> dict[str, Any]:
        """The settings that define the encoder, plain; options of other kinds of encoders are left out."""
        plain = self.model_dump(mode="json")
        left = () if self.name.startswith(TRANSFORMERS) else _OF_TRANSFORMERS
        return {name: value for name, value in plain.items() if name not in left}
