"""A downstream task as data: which shard sets it has, what is measured, and how the sets are made.

name: pets
metric: mean_per_class
train: {shards: pets/trainval, make: {source: "torchvision:OxfordIIITPet", split: trainval}}
test: {shards: pets/test, make: {source: "torchvision:OxfordIIITPet", split: test}}
validation: {cut: 0.1}
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from nml_ray.config.patterns import NAME
from nml_ray.config.settings import Count, Ratio, Seed, Settings, short_form
from nml_ray.config.validate import Misplaced

MetricName = Literal["accuracy", "mean_per_class", "macro_f1", "matthews", "pearson"]
Domain = Literal["in_domain", "out_of_domain", "both"]


def _path_alone(data: Any) -> Any:
    return {"shards": data} if isinstance(data, str) else data


class MakeSettings(Settings):
    """The arguments of `nml-ray data shard` that make a set from its files as they are distributed."""

    source: str
    """`torchvision:NAME`, or a folder of images or a table below the directory of downloads."""
    split: str = ""
    """Split of a torchvision set."""
    image_column: str = ""
    """Of a table: paths or bytes of the images."""
    label_column: str = ""
    """Of a table: class names or numbers."""
    text_columns: tuple[str, ...] = ()
    """Of a table of texts instead of images: one text, or two that belong together."""
    classes: str = ""
    """File of class names in label order, below the directory of downloads."""
    note: str = ""
    """What must be done by hand first."""


class ShardSet(Settings):
    """Indexed tars with labels; in YAML also just their directory."""

    model_config = ConfigDict(json_schema_extra=short_form({"type": "string"}))

    shards: str
    """Directory of indexed tars, or URL; a relative one lies below `run.task_data`."""
    make: MakeSettings | None = None
    """How `nml-ray data shard` makes them."""


class OodSet(ShardSet):
    """A test set of another domain. Its classes are found among those of `train` by name."""

    classes: dict[str, tuple[str, ...]] | str | None = None
    """Which classes of `train` each of its classes stands for, where names differ: CLASS: [NAME, ...], or a YAML or
    JSON file of that. Samples of classes that are not named are left out. Predictions are made among these classes."""


class Cut(Settings):
    """Samples of `train` instead of a set of their own, drawn by key, class by class; the rest stays in `train`."""

    cut: Ratio | None = None
    """Share of the samples (of those that are left, where `test` is cut first); each class keeps one in `train`."""
    keep: Count | None = None
    """Samples of each class that stay in `train`; all others are taken."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.cut is None) == (self.keep is None):
            raise ValueError("takes either cut or keep")
        if self.cut in ("0", "1"):
            raise Misplaced(f"a cut of {self.cut} leaves one side empty: take a share between 0 and 1", "cut")
        return self

    def hashed(self) -> dict[str, Any]:
        """Plain JSON data of what defines it."""
        return {"share": self.cut} if self.cut is not None else {"keep": self.keep}


def _which(data: Any) -> str:
    """The class that data of a set or a cut are meant for."""
    words = data if isinstance(data, Mapping) else ()
    return "Cut" if isinstance(data, Cut) or "cut" in words or "keep" in words else "ShardSet"


Train = Annotated[ShardSet, BeforeValidator(_path_alone)]
SetOrCut = Annotated[
    Annotated[ShardSet, Tag("ShardSet")] | Annotated[Cut, Tag("Cut")],
    Discriminator(_which),
    BeforeValidator(_path_alone),
]
Ood = Annotated[OodSet, BeforeValidator(_path_alone)]


class TaskSettings(Settings):
    """One downstream task: an encoder's features are extracted once, and heads tuned and measured on them."""

    name: Annotated[str, Field(pattern=NAME, max_length=64)]
    """Small letters, digits, - and _."""
    title: str = ""
    """What tables call it; the name when left out."""
    metric: MetricName = "accuracy"
    """What settings are chosen by on validation, and what the report shows. pearson: labels are numbers, fitted by
    squared error."""
    domain: Domain | None = None
    """Which average over tasks it counts for: its test set (`in_domain`), its sets of other domains (`out_of_domain`),
    or `both`; when left out `out_of_domain` where it has such sets."""
    chance: Annotated[float, Field(ge=-1, le=1)] | None = None
    """The metric of a guess, for reference."""
    about: str = ""
    """Where it comes from, and what there is to know of it."""
    train: Train
    """Samples to fit heads on."""
    validation: SetOrCut = Cut(cut="0.1")
    """Samples on which settings are chosen: a set of its own, or a cut from `train` (after `test`, if
    that is one); a cut of 0.1 when left out."""
    test: SetOrCut
    """Samples of the same domain, read once: a set of its own, or a cut from `train`."""
    ood: dict[str, Ood] = Field(default_factory=dict)
    """Test sets of other domains by name, read once."""
    seed: Seed = 0
    """Of the cuts."""

    @field_validator("ood")
    @classmethod
    def _names(cls, sets: Mapping[str, OodSet]) -> Mapping[str, OodSet]:
        for name in sets:
            if not re.fullmatch(NAME, name):
                raise Misplaced(f"'{name}': names are of small letters, digits, - and _", name)
        return sets

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.domain in ("out_of_domain", "both") and not self.ood:
            raise Misplaced(f"domain {self.domain} without a set of another domain: add `ood`", "domain")
        if self.metric == "pearson" and any(one.classes is not None for one in self.ood.values()):
            raise Misplaced("pearson compares numbers, which have no classes to match", "ood")
        return self

    def sets(self) -> dict[str, ShardSet]:
        """Its shard sets by split: train, validation and test where they are none of train's, ood-NAME."""
        own = {"train": self.train, "validation": self.validation, "test": self.test}
        found = {split: one for split, one in own.items() if isinstance(one, ShardSet)}
        return found | {ood_split(name): one for name, one in self.ood.items()}

    def cuts(self) -> dict[str, dict[str, Any]]:
        """What is cut from train, in this order, as plain JSON data."""
        parts = {"test": self.test, "validation": self.validation}
        return {split: part.hashed() for split, part in parts.items() if isinstance(part, Cut)}

    def counts_for(self) -> tuple[str, ...]:
        """The averages over tasks that it counts for: "test", "ood"."""
        domain = self.domain or ("out_of_domain" if self.ood else "in_domain")
        return {"in_domain": ("test",), "out_of_domain": ("ood",), "both": ("test", "ood")}[domain]


def ood_split(name: str) -> str:
    """What the features and scores of a set of another domain are called."""
    return f"ood-{name}"
