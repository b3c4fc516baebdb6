"""Settings of a sweep over the fields of a job."""

import importlib.util
import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from nml_ray.config.errors import nearest_name
from nml_ray.config.settings import Count, Seed, Settings
from nml_ray.config.space import Space, space_of
from nml_ray.config.validate import Misplaced

FIXED = ("name", "title", "threads", "run", "sweep")
"""Sections of a job that no trial may change: they name it, or say how it runs."""

ROUND = 4
"""Trials of a round, where later ones are to learn from earlier ones and nobody has said how many."""

METRICS = {
    "heads": ("score", "accuracy", "macro_f1"),
    "pretrain": ("validation_accuracy", "validation_loss", "zero_shot", "zero_shot_top5"),
}
"""What a trial may be judged by, by the stage that measures it."""


class Asha(Settings):
    """Successive halving, asynchronous: every trial begins with few epochs, only the best are given more.

    A point that goes on is trained anew with the more epochs, as a job of its own would be: its learning rate falls to
    zero at its own end, its artifact is complete, and nothing that is stopped depends on timing.
    """

    field: str
    """The field that holds the epochs, such as pretrain.epochs or heads.sweep.0.fixed.epochs."""

    epochs: Annotated[tuple[Count, ...], Field(min_length=2)]
    """Epochs of each rung, such as [2, 6, 18]."""

    factor: Annotated[int, Field(ge=2)] = 3
    """Of the trials that have finished a rung the best one in so many goes on to the next."""

    @field_validator("epochs")
    @classmethod
    def _rise(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if list(epochs) != sorted(set(epochs)):
            raise ValueError("each rung has more epochs than the one before")
        return epochs


class SweepSettings(Settings):
    """Many trials of the job, each with other values in some of its fields; the best on validation is reported."""

    search: Annotated[dict[str, Annotated[Space, BeforeValidator(space_of)]], Field(min_length=1)]
    """Fields of the job by dotted path (places in lists counted from 0), each with a list of values, or a range:
    {uniform: [LOW, HIGH]}, {log_uniform: [LOW, HIGH]}, {integers: [LOW, HIGH]}."""

    kind: Literal["grid", "random", "optuna"] = "grid"
    """`grid`: all combinations of lists. `random`: drawn by `seed`, the number of the trial and the field's name, so
    more trials only add some. `optuna`: tree-structured Parzen estimators, which learn from each finished round."""

    trials: Count | None = None
    """Points to try, for `random` and `optuna`; of equal points one is run."""

    seed: Seed = 0
    """Of the draws of `random` and `optuna`."""

    metric: str = ""
    """What trials are judged by: heads.accuracy, heads.macro_f1, heads.score (the task's own metric), of the best head
    or of one, as in heads.nmtune:paper.accuracy; or pretrain.validation_accuracy, pretrain.validation_loss or
    pretrain.zero_shot of the last epoch. The mean over a trial's encoders and tasks. When left out, heads.score where
    there are heads, else pretrain.validation_accuracy. Never of a test set."""

    mode: Literal["max", "min"] | None = None
    """Whether more is better or less; less for a loss, else more, when left out."""

    max_concurrent: Count | None = None
    """Trials that are begun together, a round, whose stages then share loaders and workers; the next round begins when
    all have ended. `optuna` and `asha` learn between rounds. When left out 4 of these, all of the others."""

    asha: Asha | None = None
    """Few epochs for most trials of `grid` or `random`, more for the best."""

    @field_validator("search")
    @classmethod
    def _may_vary(cls, search: dict[str, Space]) -> dict[str, Space]:
        for path in search:
            if path.split(".")[0] in FIXED:
                raise Misplaced(f"'{path}' is the same for every trial: it names the job, or says how it runs", path)
        names = list(search)
        for one in names:
            if inside := next((other for other in names if other.startswith(f"{one}.")), ""):
                raise Misplaced(f"'{inside}' lies in '{one}', which is searched too", inside)
        return search

    @field_validator("metric")
    @classmethod
    def _is_of_validation(cls, metric: str) -> str:
        if re.search(r"(\b|_)(test|ood)(\b|_)", metric):
            raise ValueError("a sweep is judged on validation; test sets are read once, with what was chosen")
        if metric and not _measured(metric):
            names = [f"{stage}.{name}" for stage, found in METRICS.items() for name in found]
            hint = nearest_name(metric, names)
            raise ValueError(
                f"no such metric; expected one of {', '.join(names)}" + (f"; did you mean '{hint}'?" if hint else "")
            )
        return metric

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kind == "grid":
            if self.trials is not None:
                raise Misplaced("a grid has as many trials as its lists have combinations", "trials")
            for path, space in self.search.items():
                if space.choice is None:
                    raise Misplaced(
                        f"a grid needs a list for '{path}'; ranges are for random and optuna", "search", path
                    )
        elif self.trials is None:
            raise Misplaced(f"{self.kind} needs a number of trials: add trials: 20", "kind")
        if self.kind == "optuna" and importlib.util.find_spec("optuna") is None:
            raise Misplaced("Optuna is not installed: pip install 'nml_ray[optuna]'", "kind")
        if self.asha and self.kind == "optuna":
            raise Misplaced("asha takes its points from grid or random", "asha")
        if self.asha and self.asha.field in self.search:
            raise Misplaced(f"'{self.asha.field}' is searched, so asha cannot set it", "asha", "field")
        return self

    @property
    def round(self) -> int | None:
        """Trials that are begun together; None for all."""
        return self.max_concurrent or (ROUND if self.kind == "optuna" or self.asha else None)


def _measured(metric: str) -> bool:
    stage, _, name = metric.partition(".")
    if stage == "heads":
        name = name.rpartition(".")[2]
    return name in METRICS.get(stage, ())
