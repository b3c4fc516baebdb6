"""Trials as data, and the sweep without Ray: one after the other in this process."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nml_ray.storage.artifact import Store


@dataclass(frozen=True)
class Trial:
    """One run of a sweep. Its result is the artifact of kind "trial" with this digest.

    `name` is what a failure is reported under; `payload` is plain data, all that the trial's function needs.
    """

    name: str
    digest: str
    payload: Mapping[str, Any]


TrialFunction = Callable[[Trial], None]


class TrialsFailed(RuntimeError):
    """Some trials ended without a result; `reasons` maps each one's name to why. The others are finished."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = dict(reasons)
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in self.reasons.items()))


def unfinished(trials: Iterable[Trial], store: Store) -> list[Trial]:
    """Those whose artifact does not exist, each digest once: a resumed sweep submits nothing else."""
    distinct = {trial.digest: trial for trial in trials}
    finished = store.artifacts(("trial", digest) for digest in distinct)
    return [trial for digest, trial in distinct.items() if ("trial", digest) not in finished]


def run_inline(
    trials: Sequence[Trial], function: TrialFunction, done: Callable[[Trial], None] = lambda trial: None
) -> None:
    """Run every trial in order; `done` is called after each that did not fail.

    Raises:
        TrialsFailed: at the end, naming every trial whose function raised.
    """
    reasons: dict[str, str] = {}
    for trial in trials:
        try:
            function(trial)
        except Exception as error:
            reasons[trial.name] = describe(error)
        else:
            done(trial)
    if reasons:
        raise TrialsFailed(reasons)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
