"""Settings of the data: where samples come from, which noise they carry, in which order they are fed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, model_validator

from nml_ray.config.errors import UserError
from nml_ray.config.settings import Count, Ratio, Seed, Settings, short_form
from nml_ray.storage.digest import digest_of_file

NoiseKind = Literal["symmetric", "asymmetric", "transition", "caption_swap", "file"]

_OPTIONS: dict[str, set[str]] = {
    "symmetric": {"ratios", "stratify", "count", "over"},
    "asymmetric": {"ratios", "stratify", "count", "of", "matrix"},
    "transition": {"matrix"},
    "caption_swap": {"ratios"},
    "file": {"file"},
}
_REQUIRED: dict[str, set[str]] = {
    "symmetric": {"ratios"},
    "asymmetric": {"ratios", "matrix"},
    "transition": {"matrix"},
    "caption_swap": {"ratios"},
    "file": {"file"},
}


class IconsSource(Settings):
    """The icons that ship with the package."""

    shard_size: Count = 2048
    """Samples per tar."""


class ShardsSource(Settings):
    """Directories of indexed tars, or s3:// or gs:// URLs of them, each with its dataset.json; any subset of splits.

    Tars of a URL are read through the shard cache of each machine (`run.shard_cache`); credentials come from the
    environment.
    """

    pretrain: str | None = None
    """Images to pre-train on."""
    pretrain_validation: str | None = None
    """Images with clean labels to measure the accuracy of pre-training with, of the same classes; for objective clip of
    any, classified by text (`pretrain.clip.zero_shot.split`)."""
    train: str | None = None
    """Downstream training images."""
    validation: str | None = None
    """Downstream images on which settings are chosen."""
    test: str | None = None
    """Downstream test images, read once."""
    ood: str | None = None
    """Test images of another domain, same classes."""

    @model_validator(mode="after")
    def _some_split(self) -> Self:
        if not self.splits():
            raise ValueError(f"names no split; give at least one of {', '.join(type(self).model_fields)}")
        return self

    def splits(self) -> dict[str, str]:
        """The directories given, by split."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: path for name, path in named.items() if path is not None}


class DataSettings(Settings):
    """Where the samples come from: exactly one source."""

    icons: IconsSource | None = None
    """The icons that ship with the package, sharded by the first stage."""
    shards: ShardsSource | None = None
    """Your own indexed WebDataset tars (see `nml-ray data index`)."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.icons is None) == (self.shards is None):
            raise ValueError("takes exactly one of icons, shards")
        return self


class NoiseSettings(Settings):
    """Which labels are made wrong. A ratio is an arm; arms of one seed nest: the 5 % set lies inside the 10 % set."""

    kind: NoiseKind = "symmetric"
    """symmetric (any other class), asymmetric (by matrix), transition (every label redrawn by matrix), caption_swap
    (captions exchanged in pairs), file (labels from a Parquet file)."""
    ratios: tuple[Ratio, ...] | None = None
    """Shares of wrong labels, exact decimals between 0 and 1; not for transition and file."""
    seed: Seed = 0
    """Seed of the noise, apart from the seeds of pre-training."""
    stratify: bool | None = None
    """The same share in every class (default: true, where the count is exact); symmetric and asymmetric."""
    count: Literal["exact", "bernoulli"] | None = None
    """exact (default): the ratio rounded to whole samples; bernoulli: each sample on its own."""
    over: Literal["others", "all"] | None = None
    """symmetric: wrong labels are drawn from the other classes (others, default) or from all, their own included."""
    of: Literal["all", "subset"] | None = None
    """asymmetric: the ratio counts all samples (all, default) or those of classes that may change (subset)."""
    matrix: tuple[tuple[float, ...], ...] | str | None = None
    """Probability of each label (column) for each clean class (row), or a .json or .npy file of it."""
    file: str | None = None
    """Parquet of (key, label)."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        optional = {"ratios", "stratify", "count", "over", "of", "matrix", "file"}
        given = {name for name in optional if getattr(self, name) is not None}
        if wrong := sorted(given - _OPTIONS[self.kind]):
            raise ValueError(f"kind {self.kind} does not take {', '.join(wrong)}")
        if missing := sorted(_REQUIRED[self.kind] - given):
            raise ValueError(f"kind {self.kind} needs {', '.join(missing)}")
        if self.count == "bernoulli" and (self.stratify is not None or self.of is not None):
            raise ValueError("count: bernoulli takes neither stratify nor of")
        if self.ratios is not None and (not self.ratios or len(set(self.ratios)) < len(self.ratios)):
            raise ValueError("ratios must be at least one, each different")
        return self

    def arms(self) -> "list[NoiseArm]":
        """One arm per ratio, in their order; a single arm for kinds without ratio.

        Raises:
            UserError: the matrix or label file named cannot be read.
        """
        options: dict[str, Any] = {}
        if self.kind in ("symmetric", "asymmetric"):
            options["count"] = self.count or "exact"
            if options["count"] == "exact":
                options["stratify"] = self.stratify is not False
        if self.kind == "symmetric":
            options["over"] = self.over or "others"
        if self.kind == "asymmetric" and options["count"] == "exact":
            options["of"] = self.of or "all"
        if self.matrix is not None:
            options["matrix"] = _read_matrix(self.matrix) if isinstance(self.matrix, str) else _rows(self.matrix)
        if self.file is not None:
            options["digest"] = _label_file_digest(self.file)
        return [NoiseArm(self.kind, ratio, self.seed, options, self.file or "") for ratio in self.ratios or (None,)]


@dataclass(frozen=True)
class NoiseArm:
    """The noise of one arm: plain data. `ratio` is shortest exact decimal text, None for transition and file.

    `options` holds what else defines the noise, defaults filled in: stratify, count, over, of, matrix (rows), digest
    (of the label file). `file` says where the label file lies now and is not hashed.
    """

    kind: str
    ratio: str | None
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""

    @property
    def name(self) -> str:
        """A short name for tables and stages: "symmetric-0.1"."""
        return self.kind if self.ratio is None else f"{self.kind}-{self.ratio}"

    def hashed(self) -> dict[str, Any]:
        """Plain JSON data of all that defines the noise."""
        return {"kind": self.kind, "ratio": self.ratio, "seed": self.seed, **self.options}

    @classmethod
    def from_hashed(cls, data: Mapping[str, Any], file: str = "") -> "NoiseArm":
        """The arm that `hashed` describes."""
        options = {name: value for name, value in data.items() if name not in ("kind", "ratio", "seed")}
        return cls(data["kind"], data["ratio"], data["seed"], options, file)


class OrderSettings(Settings):
    """In which order an epoch feeds its samples; in YAML also just the kind: `order: lanes`."""

    model_config = ConfigDict(json_schema_extra=short_form({"enum": ["full", "lanes"]}))

    kind: Literal["full", "lanes"] = "full"
    """full: a keyed shuffle of all samples (local shards); lanes: sequential reading along lanes (object stores)."""
    lanes: Count | None = None
    """Lanes read side by side; must divide the batch (default: its largest divisor up to 64)."""
    shuffle_block: Count = 4096
    """Samples of a lane that are shuffled together."""

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _lanes_only(self) -> Self:
        if self.kind == "full" and self.lanes is not None:
            raise ValueError("lanes needs kind: lanes")
        return self

    def hashed(self) -> dict[str, Any]:
        """Plain JSON data of all that defines the order."""
        return {"kind": "full"} if self.kind == "full" else self.model_dump()


def _rows(matrix: Any) -> list[list[float]]:
    return [[float(number) for number in row] for row in matrix]


def _read_matrix(path: str) -> list[list[float]]:
    try:
        if path.endswith(".npy"):
            import numpy as np

            return _rows(np.load(path, allow_pickle=False))
        return _rows(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot be read ({error})",
            where=f"noise.matrix: {path}",
            expected="a .json or .npy file of K rows of K numbers",
        ) from None


def _label_file_digest(path: str) -> str:
    try:
        return digest_of_file(Path(path))
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", where=f"noise.file: {path}", expected="a Parquet file of key, label"
        ) from None
