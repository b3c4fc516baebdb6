"""Settings of heads tuned on frozen features: one concrete setting, the presets, and the sweep over both."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from nml_ray.config.errors import nearest_name
from nml_ray.config.settings import Count, Ratio, Seed, Settings
from nml_ray.config.space import Space
from nml_ray.config.validate import Misplaced
from nml_ray.data.draw import uniform_one

HeadName = Literal["linear_probe", "mlp", "nmtune"]
Preset = Literal["paper", "official"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HeadSetting(Settings):
    """What every head has: how it is optimised. One concrete point of a sweep."""

    head: HeadName
    """The kind of head."""

    preset: Preset = "paper"
    """Where the values that nobody set come from: the paper's text, or the published implementation."""

    learning_rate: Positive
    """Peak learning rate of AdamW, reached after the warm-up; then half a cosine down to zero, by step."""

    weight_decay: Weight
    """Decoupled weight decay, applied to every parameter."""

    epochs: Count = 30
    """Passes over the training features."""

    batch: Annotated[int, Field(ge=2)] = 64
    """Rows in a step; all of them where there are fewer. Of an epoch's last, incomplete batch nothing is used; the
    order differs from epoch to epoch."""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""

    standardise: bool = False
    """Give every feature mean 0 and standard deviation 1 on the training rows first. The paper does not."""

    dtype: Literal["float32", "float64"] = "float32"
    """Arithmetic of the fit."""


class LinearProbe(HeadSetting):
    """A linear classifier on the features."""

    head: Literal["linear_probe"] = "linear_probe"
    """The kind of head."""

    learning_rate: Positive = 0.1
    """Peak learning rate of AdamW."""

    weight_decay: Weight = 0.0
    """Decoupled weight decay."""


class MlpOptions(HeadSetting):
    """What heads with an MLP from D to D before the linear classifier have in common."""

    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW."""

    weight_decay: Weight = 1e-4
    """Decoupled weight decay."""

    ratio: Positive = 4
    """Width of a hidden layer, in multiples of D."""

    layers: Count = 1
    """Hidden layers."""

    batch_norm: bool = False
    """BatchNorm between each hidden layer and its ReLU."""

    residual: bool = False
    """Z = s * mlp(f) + f with a learnable scale s for each dimension, instead of Z = mlp(f)."""

    residual_init: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """What each residual scale begins at."""


class Mlp(MlpOptions):
    """The MLP and the classifier, trained by cross-entropy alone."""

    head: Literal["mlp"] = "mlp"
    """The kind of head."""


class NMTune(MlpOptions):
    """The MLP, regularised towards the features' own directions and an even spectrum (paper, equations 3-6)."""

    head: Literal["nmtune"] = "nmtune"
    """The kind of head."""

    mse_weight: Weight = 0.01
    """Weight of the consistency term: squared distance of row-normalised Z to the row-normalised features."""

    mse_norm: Preset = "paper"
    """Consistency summed over D and averaged over rows (`paper`), or averaged over rows and D (`official`)."""

    cov_weight: Weight = 0.01
    """Weight of the covariance term: squared off-diagonal covariances of Z, summed, divided by D."""

    svd_weight: Weight = 0.01
    """Weight of the mean share of the `top_k` largest singular values of a batch's Z, which is subtracted."""

    top_k: Count = 1
    """Singular values whose share counts."""

    views: Literal["one", "pair"] = "one"
    """`pair`: each step takes two cached views of every sample; both enter all terms but consistency, which holds Z of
    the second against the features of the first. Features with one view are one view either way."""


def search_name(head: str, preset: str) -> str:
    """What tells heads apart, in tables and in the choice of settings: "mlp", "mlp:official", "nmtune:paper".

    Only NMTune carries its preset always; for other heads "paper" goes without saying.
    """
    return head if preset == "paper" and head != "nmtune" else f"{head}:{preset}"


KINDS: Mapping[str, type[HeadSetting]] = {"linear_probe": LinearProbe, "mlp": Mlp, "nmtune": NMTune}

_OFFICIAL: Mapping[str, Mapping[str, Any]] = {
    "linear_probe": {"learning_rate": 0.01, "weight_decay": 1e-4},
    "mlp": {"batch_norm": True, "residual": True},
    "nmtune": {
        "batch_norm": True,
        "residual": True,
        "mse_weight": 1.0,
        "mse_norm": "official",
        "cov_weight": 0.04,
        "svd_weight": 0.001,
        "top_k": 5,
        "views": "pair",
    },
}


def head_setting(head: str, preset: str = "paper", **changes: Any) -> HeadSetting:
    """The setting of a head by preset, with `changes` to single fields.

    Raises:
        pydantic.ValidationError: a field does not exist or a value is impossible.
    """
    defaults = _OFFICIAL[head] if preset == "official" else {}
    return KINDS[head].model_validate({"preset": preset, **defaults, **changes})


def parse_setting(data: Mapping[str, Any]) -> HeadSetting:
    """The setting that `model_dump` turned into plain data."""
    return KINDS[data["head"]].model_validate(data)


class HeadEntry(Settings):
    """One kind of head and the values to search; all that are tried are fitted, the best on validation is reported."""

    head: HeadName
    """`linear_probe`, `mlp` or `nmtune`."""

    preset: Preset = "paper"
    """Values of everything that `fixed` and `search` leave open: as in the paper's text (`paper`) or as in its
    published implementation (`official`)."""

    fixed: dict[str, Any] = Field(default_factory=dict)
    """Fields of the head set to one value, such as {epochs: 10}."""

    search: dict[str, list[Any] | Space] = Field(default_factory=dict)
    """Fields of the head with the values to try, such as {learning_rate: [0.01, 0.1]}; all combinations are tried. With
    `trials` also ranges: {uniform: [LOW, HIGH]}, {log_uniform: [LOW, HIGH]}, {integers: [LOW, HIGH]}."""

    trials: Count | None = None
    """Settings to draw from `search` in place of all combinations; of equal ones one is fitted. A job's `sweep` can
    search the same fields with Optuna or asha."""

    seed: Seed = 0
    """Of these draws."""

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, data: Any) -> Any:
        """Read the values of `fixed` and `search` as the head's own fields do, so that 0.1 and 0.10 are one value."""
        if not isinstance(data, Mapping) or data.get("head") not in KINDS:
            return data
        head, preset = data["head"], data.get("preset", "paper")
        fixed, search = data.get("fixed") or {}, data.get("search") or {}
        if preset not in ("paper", "official") or not isinstance(fixed, Mapping) or not isinstance(search, Mapping):
            return data
        twice = sorted(set(fixed) & set(search))
        if twice:
            raise Misplaced(f"{twice[0]} stands in both `fixed` and `search`", "search", twice[0])
        fixed = {name: _value(head, name, value, ("fixed", name)) for name, value in fixed.items()}
        search = {
            name: values if isinstance(values, Mapping | Space) else _values(head, name, values)
            for name, values in search.items()
        }
        return {**data, "fixed": fixed, "search": search}

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.trials is not None and not self.search:
            raise Misplaced("nothing is searched", "trials")
        for name, space in self.search.items():
            if isinstance(space, Space):
                if space.whole_only(partial(_is_valid, self.head, name)):
                    raise Misplaced(f"{name} takes whole numbers: use integers: [LOW, HIGH]", "search", name)
                for end in space.ends():
                    _value(self.head, name, end, ("search", name))
                if self.trials is None:
                    raise Misplaced(
                        f"{name} is a range to draw from: say how often, such as trials: 20", "search", name
                    )
        return self

    def expand(self) -> list[HeadSetting]:
        """The settings to fit, in an order that does not depend on how the search was written: every combination of the
        searched values, or `trials` draws, of which a field's depends on seed, name and number alone."""
        if self.trials is not None:
            return list(dict.fromkeys(self._drawn(number) for number in range(self.trials)))
        names = sorted(self.search)
        return [
            head_setting(self.head, self.preset, **self.fixed, **dict(zip(names, values, strict=True)))
            for values in itertools.product(*(_listed(self.search[name]) for name in names))
        ]

    def _drawn(self, number: int) -> HeadSetting:
        drawn = {
            name: (space if isinstance(space, Space) else Space(choice=space)).at(
                uniform_one("head_search", self.seed, name, number)
            )
            for name, space in self.search.items()
        }
        return head_setting(self.head, self.preset, **self.fixed, **drawn)

    def hashed(self) -> dict[str, Any]:
        """Plain JSON data of what defines the search; of draws only where there are some."""
        data = self.model_dump(mode="json", exclude={"trials", "seed"} if self.trials is None else None)
        for name, space in self.search.items():
            if isinstance(space, Space):
                data["search"][name] = space.model_dump(mode="json", exclude_none=True)
        return data


class HeadsSettings(Settings):
    """The sweep of heads on one encoder's features, the same for every encoder."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Head seeds: initialisation, order and drawn views. Every setting is fitted once with each."""

    sweep: Annotated[tuple[HeadEntry, ...], Field(min_length=1)] = (
        HeadEntry(head="linear_probe"),
        HeadEntry(head="mlp"),
        HeadEntry(head="nmtune"),
        HeadEntry(head="nmtune", preset="official"),
    )
    """The heads and what is searched. Entries of the same head and preset are one search."""

    fractions: Annotated[tuple[Ratio, ...], Field(min_length=1)] = ("1",)
    """Shares of the training samples to fit on, each apart: the same share of every class, smaller ones inside larger
    ones. Settings are chosen for each on all of validation."""

    @field_validator("fractions")
    @classmethod
    def _each_once(cls, shares: tuple[str, ...]) -> tuple[str, ...]:
        if "0" in shares or len(set(shares)) < len(shares):
            raise ValueError("fractions are above 0, at most 1, and each different")
        return shares

    def hashed(self) -> dict[str, Any]:
        """Plain JSON data of what defines the sweep; `fractions` only where they are not all of the samples alone."""
        data = self.model_dump(mode="json", exclude={"fractions"} if self.fractions == ("1",) else None)
        return {**data, "sweep": [entry.hashed() for entry in self.sweep]}

    def expand(self) -> list[HeadSetting]:
        """All settings of all entries, each once, in order."""
        return list(dict.fromkeys(setting for entry in self.sweep for setting in entry.expand()))


def _value(head: str, name: str, value: Any, path: tuple[str | int, ...]) -> Any:
    fields = [field for field in KINDS[head].model_fields if field not in ("head", "preset")]
    if name not in fields:
        hint = nearest_name(name, fields)
        raise Misplaced(
            f"{head} has no field '{name}'; expected one of {', '.join(fields)}"
            + (f"; did you mean '{hint}'?" if hint else ""),
            *path,
        )
    try:
        return getattr(head_setting(head, **{name: value}), name)
    except ValidationError as error:
        raise Misplaced(f"{name} = {value}: {error.errors()[0]['msg']}", *path) from None


def _is_valid(head: str, name: str, value: Any) -> bool:
    try:
        _value(head, name, value, ())
    except Misplaced:
        return False
    return True


def _listed(values: list[Any] | Space) -> list[Any]:
    return values.ends() if isinstance(values, Space) else values


def _values(head: str, name: str, values: Any) -> list[Any]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise Misplaced(f"{name} = {values}; expected a list of values to try", "search", name)
    return list(dict.fromkeys(_value(head, name, value, ("search", name, at)) for at, value in enumerate(values)))
