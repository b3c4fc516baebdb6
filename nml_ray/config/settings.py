"""The base of every typed settings model, and the scalar types that settings share."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


class Settings(BaseModel):
    """Frozen; unknown keys are refused; every field carries a description (a test checks that)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


def exact_ratio(value: Any) -> str:
    """A noise ratio as its shortest exact decimal text: ".50" is "0.5", "1.0" is "1" (CONTRACTS, Noise).

    The YAML reader hands numbers over as their own text, so nothing is lost to binary floating point.

    Raises:
        ValueError: not `[0-9]*\\.?[0-9]+`, or not between 0 and 1.
    """
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]*\.?[0-9]+", text):
        raise ValueError("a ratio is a plain decimal between 0 and 1, such as 0.05")
    if not 0 <= Decimal(text) <= 1:
        raise ValueError("a ratio lies between 0 and 1")
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def short_form(other: Mapping[str, Any]) -> Callable[[dict[str, Any]], None]:
    """For `json_schema_extra` of a model that YAML may also give in another form: the JSON Schema takes both."""

    def widen(schema: dict[str, Any]) -> None:
        whole = dict(schema)
        schema.clear()
        schema["anyOf"] = [whole, dict(other)]

    return widen


Ratio = Annotated[str, BeforeValidator(exact_ratio), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Count = Annotated[int, Field(ge=1)]
