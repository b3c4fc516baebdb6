"""Settings of the feature-space measures."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nml_ray.config.settings import Settings

TransformName = Literal["raw", "official"]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("each transform is named once")
    return names


class SpectrumSettings(Settings):
    """Which singular-value spectra are taken of the features while they are extracted."""

    transforms: Annotated[tuple[TransformName, ...], Field(min_length=1), AfterValidator(_distinct)] = (
        "raw",
        "official",
    )
    """Transforms of the features, each with a Gram of its own. `raw`: none. `official`: rows L2-normalised, then
    centred within each row, as the published analysis code of the method does."""
    per_class: bool = False
    """Measure each class by itself too, in a second pass over the features: measures.parquet of the artifact."""
