"""The training loop: arms that share one decoded stream. It runs in a Ray Train worker and in process alike."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import draw_one
from nml_ray.data.labels import clean_labels, given_labels, logged_labels
from nml_ray.data.loader import Loader, LoaderPlan, Microbatch
from nml_ray.data.schedule import Schedule
from nml_ray.models.transfer import Readback
from nml_ray.pretrain.arm import ArmFailed, BaseArm
from nml_ray.pretrain.arrival import arrive, bring_start
from nml_ray.pretrain.best import BEST, best_epoch, settle_best
from nml_ray.pretrain.checkpoint import Memory, Snapshot, restore
from nml_ray.pretrain.claim import Claim
from nml_ray.pretrain.committer import Committer
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.counts import epoch_curve, finite
from nml_ray.pretrain.device import steps_ahead, training_device
from nml_ray.pretrain.ending import agreed_start, tell_end
from nml_ray.pretrain.feeding import FeedingLog, set_replayed_aside
from nml_ray.pretrain.hardware import utilisation_of
from nml_ray.pretrain.inputs import Fed, Inputs
from nml_ray.pretrain.objectives import objective_of
from nml_ray.pretrain.pace import Pace
from nml_ray.pretrain.plan import ArmOutcome, ArmPlan, GroupPlan
from nml_ray.pretrain.publisher import Publisher
from nml_ray.pretrain.resume import checkpoint_name, checkpoints
from nml_ray.pretrain.schedule import learning_rate
from nml_ray.pretrain.telemetry import Telemetry, write_curves
from nml_ray.pretrain.trackers import open_trackers
from nml_ray.pretrain.world import World
from nml_ray.storage.twin import publish_result

Report = Callable[[float, float, str], None]


@dataclass
class RunningArm:
    """An arm with its place on storage, what its feeding log has for labels (int [N] by sample number), the curves of
    its finished epochs, the memory of its snapshots, and the error that ended it, if any."""

    arm: BaseArm[Any]
    attempt: Path
    logged: NDArray[np.signedinteger]
    curves: list[dict[str, Any]] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    memory: Memory = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Given:
    """A step that the device has been given: its learning rate, and the numbers that each arm has of it, if it goes
    on; they can be read once the device has come so far."""

    step: int
    rate: float
    numbers: Sequence[Readback | None]


def train_group(
    plan: GroupPlan, world: World, report: Report, wanted: Callable[[], bool] | None = None
) -> list[ArmOutcome]:
    """Train every arm of a group to its end, from the last checkpoint that all of them have.

    `report(done, total, unit)` is told how far the run is. `wanted`, where there is one, is asked after each step
    whether a checkpoint is to be made now. An arm whose loss is not finite ends alone, and stays ended when the workers
    of its attempt are started again.
    """
    torch.set_num_threads(plan.threads)
    arrive(plan)
    run = _Run(plan, world, report, wanted)
    try:
        run.train()
    finally:
        run.loader.close()
    return [run.outcome(running) for running in run.arms]


class _Run:
    """One group in training on one worker."""

    def __init__(self, plan: GroupPlan, world: World, report: Report, wanted: Callable[[], bool] | None = None) -> None:
        self.plan, self.world, self.report, self.wanted = plan, world, report, wanted
        self.settings = settings = PretrainSettings.model_validate(plan.settings)
        dataset = Dataset.open(Path(plan.data))
        self.schedule = Schedule(
            dataset,
            settings.order,
            plan.seed,
            settings.batch,
            settings.microbatch,
            settings.repeats,
            settings.epochs,
        )
        self.epoch_steps = self.schedule.steps_per_epoch
        self.steps = self.epoch_steps * settings.epochs
        self.device = training_device(plan.device)
        self.ahead = steps_ahead(self.device, settings.precision)
        self.objective = objective_of(plan, settings, dataset)
        self.arms = [self._build(arm, dataset) for arm in plan.arms]
        spec = self.arms[0].arm.model.encoder.input
        self.inputs = Inputs(settings, plan.seed, spec, dataset.key_hash, self.device)
        loader_plan = LoaderPlan(
            plan.seed,
            self.schedule.microbatch,
            settings.encoder.channels,
            settings.train_size or settings.encoder.size,
            settings.augmentation,
            self.schedule.batch,
        )
        pinned = self.device.type == "cuda"
        self.loader = Loader(dataset, loader_plan, world.rank, world.size, plan.decode_threads, pinned)
        self.loader.beside = self._foresee
        self.undecodable = 0.0
        self.given: deque[Given] = deque()

    def _build(self, arm: ArmPlan, dataset: Dataset) -> RunningArm:
        noise = NoiseArm.from_hashed(arm.noise, arm.label_file)
        given, clean = given_labels(dataset, noise), clean_labels(dataset, noise.kind)
        logged = logged_labels(dataset, noise.kind, given)
        return RunningArm(self.objective.build(arm.name, given, clean), Path(arm.attempt), logged)

    def _foresee(self, numbers: NDArray[np.int64]) -> None:
        for running in self.arms:
            running.arm.foresee(numbers)

    def train(self) -> None:
        """All steps from the resumed one on, then the exported encoders."""
        claim = Claim.stake(Path(self.plan.arms[0].attempt), self.world)
        start = self._resume()
        if all(running.error for running in self.arms):
            return
        attempts = [running.attempt for running in self.arms]
        labels = [running.logged for running in self.arms]
        log = FeedingLog(attempts, self.world.rank, self.loader.dataset.key, labels)
        rank_zero = self.world.rank == 0
        for attempt in attempts if rank_zero else []:  # no rank can flush before rank 0 has joined its first step
            set_replayed_aside(attempt, start)
        self._settle_best()
        telemetry = self._telemetry(attempts if rank_zero else [], start)
        steps = self.plan.checkpoint_steps or self.epoch_steps
        pace = Pace(steps, self.plan.checkpoint_minutes, self.world, self.wanted)
        keep = self.plan.keep_checkpoints
        publisher = Publisher.of(attempts, self.world.size, keep, claim.check)
        with closing(telemetry), Committer(self.world.size, keep, publisher, claim.check) as committer:
            for step, microbatches in zip(range(start, self.steps), self.loader.steps(start, self.steps), strict=True):
                self._give(step, microbatches)
                log.add(step, microbatches)
                ends_epoch = (step + 1) % self.epoch_steps == 0
                due = pace.due(step + 1) or step + 1 == self.steps
                self._take(telemetry, 0 if ends_epoch or due else self.ahead)
                if ends_epoch:
                    ended = self._end_epoch(step // self.epoch_steps)
                    if rank_zero:
                        telemetry.end_epoch(step, ended)
                if due or self._is_best(step + 1):
                    with telemetry.checkpointing():
                        committer.wait()
                        committer.submit(log.cut(step + 1), self._snapshots(step + 1) if rank_zero else ())
                if all(running.error for running in self.arms):
                    break
        claim.check()
        self._export()

    def _telemetry(self, attempts: Sequence[Path], start: int) -> Telemetry:
        """What rank 0 tells from step `start` on; `attempts` is empty on the others."""
        settings, utilisation = self.settings, None
        if attempts and self.device.type == "cuda":
            spec, side = self.inputs.spec, settings.train_size or settings.encoder.size
            image = torch.zeros(1, spec.channels, side, side, device=self.device)
            utilisation = utilisation_of(self.arms[0].arm, image, settings.precision, self.world.size)
        names = self.plan.trackers
        trackers = [open_trackers(names, arm.name, Path(arm.attempt), start) for arm in self.plan.arms if attempts]
        return Telemetry(attempts, self.loader.timers, settings.batch, self.device, utilisation, trackers, start)

    def _export(self) -> None:
        """Leave the encoders and curves of the arms that came to their end, and the best checkpoints beside them."""
        self._settle_best()
        if self.world.rank == 0:
            for running in self.arms:
                if not running.error:
                    self.objective.export(running.arm, running.attempt)
                    write_curves(running.attempt, running.curves)
                    publish_result(running.attempt)

    def _best_step(self, running: RunningArm) -> int:
        """Steps after which the arm was validated as its best so far; 0 where it was not validated."""
        best = best_epoch(running.curves)
        return (best["epoch"] + 1) * self.epoch_steps if best else 0

    def _is_best(self, step: int) -> bool:
        """Whether an arm that goes on is now better than ever; every worker has the same scores."""
        return any(self._best_step(running) == step for running in self.arms if not running.error)

    def _settle_best(self) -> None:
        """Only the best checkpoint that the curves know of is to be in the attempts."""
        for running, arm in zip(self.arms, self.plan.arms, strict=True) if self.world.rank == 0 else ():
            if running.error:
                continue  # its curves may not be known
            step = self._best_step(running)
            settle_best(running.attempt, [Path(path) for path in arm.earlier], checkpoint_name(step) if step else "")

    def _resume(self) -> int:
        attempts = [[Path(arm.attempt), *map(Path, arm.earlier)] for arm in self.plan.arms]
        step, ends = agreed_start(attempts, self.world)
        for running, own, end in zip(self.arms, attempts, ends, strict=True):
            running.error = end
            if not all(ends):
                bring_start(own, step, self.world.rank)
        going = [(running, own) for running, own in zip(self.arms, attempts, strict=True) if not running.error]
        for running, own in going if step else ():
            state = restore(running.arm, checkpoints(own)[step])
            running.curves, running.lineage = state["curves"], state["lineage"]
            self.undecodable = state["undecodable"]
        for running, _ in going:
            begun = {"attempt": running.attempt.name, "from_step": step, "workers": self.world.size}
            running.lineage = [*running.lineage, begun]
        return step

    def _end(self, running: RunningArm, step: int, failure: ArmFailed) -> None:
        """An arm has ended in a step; all workers find the same."""
        running.error = str(failure)
        if self.world.rank == 0:
            tell_end(running.attempt, step, running.error)

    def _give(self, step: int, microbatches: Sequence[Microbatch]) -> None:
        """Have every arm that goes on take a step."""
        optimiser = self.settings.optimiser
        warmup = round(optimiser.warmup_epochs * self.epoch_steps)
        rate = learning_rate(step, self.steps, warmup, optimiser.learning_rate)
        began = time.perf_counter()
        fed = [self.inputs.prepare(microbatch, step // self.epoch_steps) for microbatch in microbatches]
        if copied := self.inputs.uploads.done():
            self.loader.hold(copied)
        self.loader.timers.copy += time.perf_counter() - began
        self.given.append(Given(step, rate, [self._step_of(running, step, fed, rate) for running in self.arms]))

    def _step_of(self, running: RunningArm, step: int, fed: Sequence[Fed], rate: float) -> Readback | None:
        if running.error:
            return None
        running.arm.begin_step()
        seeds = [draw_one("dropout", self.plan.seed, "", step, one.microbatch) for one in fed]
        running.arm.add(fed, seeds, self.world)
        try:
            return running.arm.begin_update(self.world, rate)
        except ArmFailed as failure:
            self._end(running, step, failure)
            return None

    def _take(self, telemetry: Telemetry, left: int) -> None:
        """Read the numbers of the steps given, oldest first, until so many are left; rank 0 tells them."""
        while len(self.given) > left:
            given = self.given.popleft()
            weight, losses = float(self.settings.batch), list[float | None]()
            for running, numbers in zip(self.arms, given.numbers, strict=True):
                loss = None
                if numbers and not running.error:
                    try:
                        loss, weight = running.arm.end_update(numbers)
                    except ArmFailed as failure:
                        self._end(running, given.step, failure)
                losses.append(loss)
            self._count_undecodable(given.step, weight)
            if self.world.rank == 0:
                norms = [running.arm.gradient_norm for running in self.arms]
                telemetry.step(given.step, given.step // self.epoch_steps, given.rate, losses, norms)
                fed, total = given.step + 1, self.steps
                self.report(fed * self.settings.batch, total * self.settings.batch, "images")

    def _count_undecodable(self, step: int, weight: float) -> None:
        """Stop the run when more images than the limit allows have turned out undecodable; `weight` of a batch has
        not."""
        self.undecodable += self.settings.batch - weight
        seen = (step + 1) * self.settings.batch
        allowed = self.plan.undecodable_limit * max(seen, self.epoch_steps * self.settings.batch)
        if self.undecodable > allowed:
            raise UserError(
                f"{self.undecodable:.0f} of {seen} images could not be decoded (holes-*.jsonl names them)",
                where=self.plan.data,
                expected=f"at most {self.plan.undecodable_limit:.2%} of an epoch (run.undecodable_limit)",
            )

    def _end_epoch(self, epoch: int) -> list[dict[str, Any] | None]:
        """Evaluate the arms that go on; returns the curve that each arm has of this epoch, if it goes on."""
        going = [running for running in self.arms if not running.error]
        evaluated = self.objective.evaluate([running.arm for running in going], self.world)
        for running, columns in zip(going, evaluated, strict=True):
            running.curves.append(finite({**epoch_curve(epoch, running.arm.counts), **columns}))
            running.arm.counts = np.zeros_like(running.arm.counts)
        return [None if running.error else running.curves[-1] for running in self.arms]

    def _snapshots(self, step: int) -> list[Snapshot]:
        """Copies of the arms that go on, for their checkpoints."""
        return [
            Snapshot.of(
                running.arm,
                running.attempt,
                step,
                {"curves": [*running.curves], "lineage": running.lineage, "undecodable": self.undecodable},
                running.memory,
                self._best_step(running) == step,
            )
            for running in self.arms
            if not running.error
        ]

    def outcome(self, running: RunningArm) -> ArmOutcome:
        """The facts of an arm for its record."""
        facts = {
            "steps": self.steps,
            "steps_per_epoch": self.epoch_steps,
            "dropped_per_epoch": self.schedule.dropped_per_epoch,
            "undecodable": round(self.undecodable),
            "lineage": running.lineage,
            "final": running.curves[-1] if running.curves else None,
            "best": self._best(running),
        }
        return ArmOutcome(running.arm.name, facts, running.error)

    def _best(self, running: RunningArm) -> dict[str, Any] | None:
        """The epoch with the best validation accuracy, and where the arm's checkpoint of it lies."""
        best, step = best_epoch(running.curves), self._best_step(running)
        if not best:
            return None
        accuracy = best["validation_accuracy"]
        checkpoint = f"{BEST}/{checkpoint_name(step)}"
        return {"epoch": best["epoch"], "step": step, "validation_accuracy": accuracy, "checkpoint": checkpoint}
