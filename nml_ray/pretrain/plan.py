"""What the workers of a pre-training run are told, as plain data that crosses processes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nml_ray.storage.artifact import Attempt
from nml_ray.storage.mirror import carried, present


@dataclass(frozen=True)
class ArmPlan:
    """One noise arm: its noise (as `NoiseArm.hashed` gives it), its attempt and the attempts before it.

    `label_file` says where the labels of `kind: file` lie.
    """

    name: str
    noise: Mapping[str, Any]
    attempt: str
    earlier: tuple[str, ...] = ()
    label_file: str = ""


@dataclass(frozen=True)
class GroupPlan:
    """Arms of one pre-training seed that share a loader and a decoded stream.

    `settings` is a dump of `PretrainSettings`; `data` the directory of the training split. The rest says how it
    runs: `decode_threads` beside the computing `threads`; a checkpoint every `checkpoint_steps` (0: every epoch) and
    after `checkpoint_minutes` without one (0: not by time), of which the newest `keep_checkpoints` stay; the share of
    an epoch's samples that may turn out undecodable before the run is stopped; the torch `device`.
    `validation` is the directory of the labelled images that are classified after each epoch, `zero_shot` that of the
    images that are classified by text. `trackers` get the telemetry beside its own files.
    """

    data: str
    settings: Mapping[str, Any]
    seed: int
    threads: int
    arms: tuple[ArmPlan, ...]
    decode_threads: int = 1
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 0
    keep_checkpoints: int = 2
    undecodable_limit: float = 0.001
    device: str = "cpu"
    validation: str = ""
    zero_shot: str = ""
    trackers: tuple[str, ...] = ()

    @property
    def cpus(self) -> int:
        """What a worker keeps busy, and so reserves: the threads that compute and those that decode."""
        return self.threads + self.decode_threads

    def carried(self) -> dict[str, Any]:
        """The plan for another process, perhaps on another machine (see `storage.mirror`)."""
        return asdict(self._with_paths(carried))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "GroupPlan":
        """The plan that was carried, with its paths on this machine; `arrival.arrive` brings what lies there."""
        told = cls(**{**data, "arms": tuple(ArmPlan(**arm) for arm in data["arms"])})
        return told._with_paths(lambda text: str(present(text)))

    def _with_paths(self, change: Callable[[str], str]) -> "GroupPlan":
        def changed(path: str) -> str:
            return change(path) if path else ""

        arms = tuple(
            replace(
                arm,
                attempt=changed(arm.attempt),
                earlier=tuple(changed(path) for path in arm.earlier),
                label_file=changed(arm.label_file),
            )
            for arm in self.arms
        )
        settings, encoder = self.settings, self.settings["encoder"]
        if weights := encoder.get("weights"):
            settings = {**settings, "encoder": {**encoder, "weights": change(weights)}}
        data, validation, zero_shot = map(changed, (self.data, self.validation, self.zero_shot))
        return replace(self, arms=arms, settings=settings, data=data, validation=validation, zero_shot=zero_shot)


@dataclass(frozen=True)
class ArmOutcome:
    """How an arm ended: its facts for the record, or the error that ended it, with its traceback if it has one."""

    name: str
    facts: Mapping[str, Any]
    error: str = ""
    trace: str = ""


def attempt_name(plan: GroupPlan) -> str:
    """A name that no other run of the plan's arms has: Ray Train silently resumes an old one."""
    return Attempt(Path(plan.arms[0].attempt)).name


def progress_of(plan: GroupPlan) -> Callable[[float, float, str], None]:
    """What the loop reports to: the progress files of all arms."""
    attempts = [Attempt(Path(arm.attempt)) for arm in plan.arms]

    def report(done: float, total: float, unit: str) -> None:
        for attempt in attempts:
            attempt.progress(done, total, unit)

    return report
