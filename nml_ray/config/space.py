"""What a searched field may be: a list of values, or a range to draw from."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from nml_ray.config.document import plain
from nml_ray.config.settings import Settings, short_form

Finite = Annotated[float, Field(allow_inf_nan=False)]
DIGITS = 6
"""Significant digits of a drawn number: enough for any setting, and it can be copied from a table without loss."""


class Space(Settings):
    """The values that a field may be given; one of these."""

    model_config = ConfigDict(json_schema_extra=short_form({"type": "array", "minItems": 1}))

    choice: Annotated[list[Any], Field(min_length=1)] | None = None
    """Values, each as likely; a plain list means the same."""

    uniform: tuple[Finite, Finite] | None = None
    """[LOW, HIGH]: any number between."""

    log_uniform: tuple[Finite, Finite] | None = None
    """[LOW, HIGH], LOW above 0: any number between, each order of magnitude as likely."""

    integers: tuple[int, int] | None = None
    """[LOW, HIGH]: whole numbers, both ends among them."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [name for name in Space.model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"one of {', '.join(Space.model_fields)}, not {' and '.join(given) or 'none'}")
        ends = self.uniform or self.log_uniform or self.integers
        if ends and not ends[0] < ends[1]:
            raise ValueError(f"LOW {ends[0]} is not below HIGH {ends[1]}")
        if self.log_uniform and self.log_uniform[0] <= 0:
            raise ValueError(f"LOW {self.log_uniform[0]} is not above 0")
        return self

    def ends(self) -> list[Any]:
        """Every value of a choice, both ends of a range: what must be valid for all between to be."""
        found: Sequence[Any] | None = self.choice or self.uniform or self.log_uniform or self.integers
        return list(found or ())

    def whole_only(self, valid: Callable[[Any], bool]) -> bool:
        """Whether this is a range of any numbers for a field that takes whole ones."""
        if not (ends := self.uniform or self.log_uniform):
            return False
        low, high = ends
        middle = (low + high) / 2
        fraction = middle if middle % 1 else min(middle + 0.5, (middle + high) / 2)
        whole = math.ceil(low)
        return whole <= high and valid(whole) and not valid(fraction)

    def at(self, share: float) -> Any:
        """The value at a place in [0, 1): evenly spread places are spread as the space says."""
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        if self.integers:
            least, most = self.integers
            return least + int(share * (most - least + 1))
        if self.uniform:
            low, high = self.uniform
            return rounded(low + share * (high - low), low, high)
        assert self.log_uniform
        low, high = self.log_uniform
        return rounded(math.exp(math.log(low) + share * (math.log(high) - math.log(low))), low, high)


def space_of(found: Any) -> Any:
    """A plain list as a choice, equal values once; anything else as it is."""
    if not isinstance(found, list):
        return found
    values = plain(found)
    return {"choice": [value for number, value in enumerate(values) if value not in values[:number]]}


def rounded(value: float, low: float, high: float) -> float:
    """A number to `DIGITS` digits, no further out than the ends of its range."""
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)
