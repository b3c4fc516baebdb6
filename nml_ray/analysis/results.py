"""The results of a study as plain data: what statistics, tables, plots and the report page read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spectrum:
    """The singular values of one encoder's features on one split, under one named transform."""

    split: str
    transform: str
    count: int
    singular_values: Sequence[float]
    sve: float
    lsvr: float


@dataclass(frozen=True)
class EpochCurve:
    """One epoch of pre-training. `*_flipped` are None for an arm without flipped samples.

    `accuracy_flipped` is against the given (wrong) label: how far the noise has been fitted. `recovered_flipped` is
    against the clean label of the same samples; None where captions are fed. `validation_*` are of other images of the
    same classes, under their clean labels. `zero_shot` is the accuracy on downstream images, by class names. Of the
    `samples_flipped` that an epoch fed, `fitted_flipped` were predicted to be what their wrong label says.
    """

    epoch: int
    loss_clean: float
    accuracy_clean: float
    loss_flipped: float | None
    accuracy_flipped: float | None
    recovered_flipped: float | None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    zero_shot: float | None = None
    zero_shot_top5: float | None = None
    samples_flipped: float | None = None
    fitted_flipped: float | None = None


@dataclass(frozen=True)
class HeadScore:
    """One chosen head of one head seed, scored once on every split.

    `scores` maps split ("validation", "test", "ood") to metric ("accuracy", "macro_f1") to a share in [0, 1].
    `settings` is the setting chosen on validation. `spectra` maps split ("test", "ood") to transform ("raw",
    "official") to "count", "sve" and "lsvr" of Z, the features as the head hands them to its classifier: under the
    linear probe the features themselves. `fraction` of the training samples was fitted on.
    """

    head: str
    head_seed: int
    settings: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]
    spectra: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    fraction: str = "1"


@dataclass(frozen=True)
class ArmResult:
    """All that is known of one pre-trained encoder: one noise ratio, one pre-training seed.

    `heads` were fitted on the largest data fraction; `fractions` holds those of all, where there are several.
    `ratio` is the exact decimal text ("0.1"); `realised` the share of labels that really differ.
    """

    ratio: str
    realised: float
    seed: int
    kind: str = "symmetric"
    spectra: Sequence[Spectrum] = ()
    curves: Sequence[EpochCurve] = ()
    heads: Sequence[HeadScore] = ()
    fractions: Sequence[HeadScore] = ()


@dataclass(frozen=True)
class TaskResult:
    """One downstream task on every encoder.

    `arms` hold the spectra and heads of this task alone. `metric` is the task's own. `counts_for` says which averages
    over tasks it enters: "test", "ood". `samples` maps each split that was measured ("ood-NAME" for a set of another
    domain) to its size; scores of "ood" are the mean over those sets.
    """

    name: str
    title: str
    metric: str
    arms: Sequence[ArmResult]
    counts_for: Sequence[str] = ("test",)
    chance: float | None = None
    samples: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitFacts:
    """One set of samples, for the report's account of the data."""

    name: str
    samples: int
    classes: int
    what: str = ""


@dataclass(frozen=True)
class SweepTrial:
    """One trial of a sweep: its values by dotted path, what it came to (None where it failed), and its rung."""

    name: str
    point: Mapping[str, Any]
    value: float | None
    rung: int = 0
    status: str = "finished"
    best: bool = False


@dataclass(frozen=True)
class SweepFacts:
    """The sweep whose best trial the report shows; trials were judged by `metric`, on validation."""

    metric: str
    trials: Sequence[SweepTrial]


@dataclass(frozen=True)
class StudyResult:
    """Everything the report shows.

    `made_from` is what the report lists as its origin: settings, versions, hashes, seconds a stage; nested plain data.
    `lacking` are titles of tasks that failed.
    """

    name: str
    title: str
    arms: Sequence[ArmResult]
    data: Sequence[SplitFacts] = ()
    made_from: Mapping[str, Any] = field(default_factory=dict)
    tasks: Sequence[TaskResult] = ()
    sweep: SweepFacts | None = None
    lacking: Sequence[str] = ()
