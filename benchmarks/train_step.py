"""What Ray Train adds to a step of the training loop: the same loop under Ray Train and under torchrun, in turns.

    .venv/bin/python benchmarks/train_step.py    about fifteen minutes; writes results/train_step.json and .md

The demo's small ResNet on the icons, batch 256, on one and on two workers, each with one thread that computes and one
that decodes. A run under Ray (`train_on_ray`) and one under torchrun (gloo) are started at once and then take turns,
block by block (see turns.py); the first steps of a block are not counted. Of each block: CPU-seconds of the training
processes with all their threads, for a step. The interval is Student's, of the log ratios of the blocks next to each
other. Runs are started several times, as a process keeps its luck with memory for all its blocks. What Ray's other
processes use beside them is given as CPU-seconds a second. Both runs must end with the same bits.
"""

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from tempfile import mkdtemp
from typing import Any
from unittest import mock

import psutil

from benchmarks.measure import Goal, parsed, parser, save, spread, table
from benchmarks.training import ICONS, Used, burnt, family, group_plan, icons, keep_compiled
from benchmarks.turns import Blocks, Cost
from nml_ray import session
from nml_ray.analysis.statistics import t_quantile
from nml_ray.data.dataset import Dataset
from nml_ray.pretrain.plan import GroupPlan

NAME = "train_step"
ARMS = ("ray", "torchrun")
BATCH = 256
WORKER = Path(__file__).with_name("train_step_worker.py")


@dataclass(frozen=True)
class Launch:
    """One pair of runs: its blocks, and the CPU-seconds a second of Ray's processes beside the training ones."""

    ray: list[Cost]
    torchrun: list[Cost]
    beside: dict[str, float]

    @property
    def pairs(self) -> list[tuple[Cost, Cost]]:
        """Blocks that ran next to each other."""
        return list(zip(self.ray, self.torchrun, strict=True))


def ratio_interval(logs: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of ratios, and its 95 % t interval."""
    middle = mean(logs)
    half = t_quantile(0.975, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


@contextlib.contextmanager
def under_torchrun(plan: GroupPlan, blocks: Blocks) -> Iterator[subprocess.Popen[bytes]]:
    """A run under torchrun, in the background; inside it goes on."""
    told = Path(blocks.directory) / "torchrun-plan.json"
    told.write_text(json.dumps({"plan": asdict(plan), "blocks": asdict(blocks)}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={blocks.workers}"]
    process = subprocess.Popen([*command, str(WORKER), str(told)])
    try:
        yield process
        if process.wait():
            raise RuntimeError(f"the run under torchrun ended with code {process.returncode}")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def under_ray(plan: GroupPlan, blocks: Blocks, storage: Path) -> None:
    """A run of ours, whose workers take turns."""
    from nml_ray.pretrain import trainer
    from nml_ray.pretrain.capacity import Workers

    def in_turns(config: dict[str, Any]) -> dict[str, Any]:  # travels by value; the worker's trainer is untouched
        from benchmarks.turns import taking_turns
        from nml_ray.pretrain import trainer

        with taking_turns(blocks, "ray"):
            return trainer._worker(config)

    with mock.patch.object(trainer, "_worker", in_turns):
        trainer.train_on_ray(plan, Workers(blocks.workers, blocks.workers), str(storage))


class Beside(threading.Thread):
    """What Ray's processes use beside the training ones, from before the first block to before the last."""

    def __init__(self, blocks: Blocks, torchrun: int) -> None:
        super().__init__(daemon=True)
        self._blocks, self._torchrun = blocks, torchrun
        self.cpu_per_second: dict[str, float] = {}

    def run(self) -> None:
        """Look twice."""
        blocks, last = self._blocks, self._blocks.count - 1
        self._await(blocks.before(blocks.arms[0], 0))
        began, before = time.perf_counter(), self._look()
        self._await(blocks.before(blocks.arms[last % 2], last))
        seconds, used = time.perf_counter() - began, burnt(before, self._look())
        self.cpu_per_second = {what: cpu / seconds for what, cpu in used.items() if what != "RayTrainWorker"}

    def _await(self, files: Sequence[Path]) -> None:
        while not all(file.exists() for file in files):
            time.sleep(0.1)

    def _look(self) -> dict[int, Used]:
        torchrun = psutil.Process(self._torchrun)
        others = {self._torchrun, *(child.pid for child in torchrun.children(recursive=True))}
        return {pid: used for pid, used in family().items() if pid not in others}


def launch(data: Path, directory: Path, blocks: Blocks) -> Launch:
    """Both runs, from start to end."""
    steps = len(Dataset.open(data)) // BATCH
    epochs = -(-(blocks.count * blocks.steps + 1) // steps)
    recipe = {
        "encoder": ICONS,
        "epochs": epochs,
        "batch": BATCH,
        "microbatch": BATCH // 2,
        "optimiser": {"learning_rate": 0.01},
    }
    plans = {name: group_plan(directory / name, data, ["0.3"], recipe, checkpoint_steps=1 << 30) for name in ARMS}
    with under_torchrun(plans["torchrun"], blocks) as torchrun:
        beside = Beside(blocks, torchrun.pid)
        beside.start()
        under_ray(plans["ray"], blocks, directory / "storage")
        beside.join()
    left, right = (Path(plans[name].arms[0].attempt) / "encoder.safetensors" for name in ARMS)
    if left.read_bytes() != right.read_bytes():
        raise RuntimeError("the runs under Ray and under torchrun ended with different bits")
    costs = {name: [blocks.cost(name, block) for block in range(blocks.count)] for name in ARMS}
    return Launch(costs["ray"], costs["torchrun"], beside.cpu_per_second)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    made = parser(__doc__, launches=(3, 1), rounds=(10, 2), steps=(24, 3), skipped=(4, 1))
    options = parsed(made, arguments)
    data, measured = icons(options.data, options.quick), dict[int, list[Launch]]()
    directory = Path(mkdtemp(dir=options.data))
    keep_compiled(options.data)
    session.start(cpus=4)
    try:
        for number_of in range(options.launches):
            for workers in (1, 2):
                place = directory / f"{workers}-{number_of}"
                place.mkdir()
                blocks = Blocks(str(place), ARMS, workers, options.rounds, options.steps, options.skipped)
                measured.setdefault(workers, []).append(launch(data, place, blocks))
    finally:
        session.stop()
        shutil.rmtree(directory)
    report(options.out, measured)


def report(out: Path, measured: dict[int, list[Launch]]) -> None:
    """Write tables and goals."""
    rows, goals, intervals = [], [], {}
    for workers, launches in measured.items():
        pairs = [pair for one in launches for pair in one.pairs]
        cpu = ratio_interval([math.log(ray.cpu / other.cpu) for ray, other in pairs])
        clock = ratio_interval([math.log(ray.seconds / other.seconds) for ray, other in pairs])
        each = [mean([math.log(ray.cpu / other.cpu) for ray, other in one.pairs]) for one in launches]
        intervals[workers] = {"cpu": cpu, "seconds": clock, "cpu_by_launch": [math.exp(value) for value in each]}
        beside = [sum(one.beside.values()) for one in launches]
        rows.append(
            [
                str(workers),
                spread([1000 * ray.cpu for ray, _ in pairs]),
                spread([1000 * other.cpu for _, other in pairs]),
                interval_words(cpu),
                ", ".join(f"{math.exp(value):.3f}" for value in each),
                interval_words(clock),
                spread(beside),
            ]
        )
        goals.append(Goal(f"upper end of the ratio's 95 % interval, {workers} worker(s)", cpu[2], 1.05, at_least=False))
    head = [
        "workers",
        "CPU ms a step under Ray: median (lowest..highest)",
        "under torchrun",
        "ratio, 95 % interval",
        "ratio by launch",
        "ratio of seconds on the clock",
        "CPU-seconds a second of Ray's other processes",
    ]
    facts = (
        "CPU ms are those of all training processes together. Both runs of each launch ended with the same bits."
        f" Load of the machine at the end: {os.getloadavg()[0]:.1f}."
    )
    figures = {
        "launches": {workers: [asdict(one) for one in launches] for workers, launches in measured.items()},
        "intervals": intervals,
    }
    save(NAME, out, figures, [table(head, rows), facts], goals)


def interval_words(interval: tuple[float, float, float]) -> str:
    """A ratio with its interval."""
    middle, low, high = interval
    return f"{middle:.3f} ({low:.3f}..{high:.3f})"


if __name__ == "__main__":
    main()
