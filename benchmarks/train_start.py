"""What our part of a training run's start costs: `fit()` called to the first step, against a `fit()` that does nothing.

    .venv/bin/python benchmarks/train_start.py    about ten minutes; writes results/train_start.json and .md

One Ray, in which the two take turns. Ours is `train_on_ray` with the demo's recipe on the icons (one arm,
TensorBoard): it counts until the first step has ended, which `progress.json` tells, a little later than the step's
start. The other is a `TorchTrainer.fit()` with the same workers, whose function notes that its first line runs. One
worker on the CPU. Beside the seconds on the clock stand the CPU-seconds that all of Ray's processes and this one have
used by then: on a machine with other work they are what can be compared. Compiled modules are kept, as in an installed
Python.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp

from benchmarks.measure import Goal, interleaved, median, parsed, parser, save, spread, table
from benchmarks.training import ICONS, burnt, family, group_plan, icons, keep_compiled
from nml_ray import session
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.storage.artifact import PROGRESS

NAME = "train_start"
LOOK = 0.02  # seconds between two looks for the file
REST = 3.0  # seconds for the last run's processes to end


@dataclass(frozen=True)
class Start:
    """Seconds on the clock, and CPU-seconds of the processes, until something began."""

    seconds: float
    by_process: Mapping[str, float]

    @property
    def cpu(self) -> float:
        """CPU-seconds of all processes."""
        return sum(self.by_process.values())


class Watched:
    """Waits in a thread for a file of another process, from the moment that it is made."""

    def __init__(self, file: Path) -> None:
        self._file, self._start, self._used = file, time.time(), (family(), time.process_time())
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._result = Start(0, {})
        self._thread.start()

    def _wait(self) -> None:
        while not self._file.exists():
            time.sleep(LOOK)
        at = self._file.stat().st_mtime
        children, own = self._used
        self._result = Start(at - self._start, {**burnt(children, family()), "this process": time.process_time() - own})

    def result(self) -> Start:
        """What it took; call it once the file must be there."""
        self._thread.join(timeout=10)
        if self._thread.is_alive():
            raise RuntimeError(f"{self._file} was never written")
        return self._result


def ours(directory: Path, make: Callable[[Path], GroupPlan]) -> Start:
    """A run of ours; it goes on to its end."""
    from nml_ray.pretrain.capacity import Workers
    from nml_ray.pretrain.trainer import train_on_ray

    time.sleep(REST)
    plan = make(directory / f"store-{time.time_ns()}")
    watched = Watched(Path(plan.arms[0].attempt) / PROGRESS)
    train_on_ray(plan, Workers(), str(directory / "ray"))
    return watched.result()


def trivial(directory: Path, cpus: int) -> Start:
    """A run of Ray Train that does nothing."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    def noting(config: dict[str, str]) -> None:  # as a local function it travels by value: no module is imported for it
        open(config["file"], "w").close()

    time.sleep(REST)
    name = f"trivial-{time.time_ns()}"
    file = directory / name
    watched = Watched(file)
    TorchTrainer(
        noting,
        train_loop_config={"file": str(file)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(
            name=name, storage_path=str(directory / "ray"), logging_config=LoggingConfig(log_level="WARNING")
        ),
    ).fit()
    return watched.result()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, rounds=(8, 1)), arguments)
    data = icons(options.data, options.quick)
    directory = Path(mkdtemp(dir=options.data))
    recipe = {"encoder": ICONS, "epochs": 1, "batch": 256, "optimiser": {"learning_rate": 0.01}}

    def make(root: Path) -> GroupPlan:
        return group_plan(root, data, ["0.3"], recipe, trackers=("tensorboard",))

    keep_compiled(options.data)
    session.start(cpus=2)
    try:
        cpus = make(directory / "first").cpus
        trivial(directory, cpus)  # what Ray starts once for a cluster, and the driver's own imports
        ours(directory, make)
        arms: dict[str, Callable[[], Start]] = {
            "ours": lambda: ours(directory, make),
            "trivial": lambda: trivial(directory, cpus),
        }
        starts = interleaved(arms, options.rounds)
    finally:
        session.stop()
        shutil.rmtree(directory)
    report(options.out, starts)


def report(out: Path, starts: dict[str, list[Start]]) -> None:
    """Write tables and goals."""
    pairs = list(zip(starts["ours"], starts["trivial"], strict=True))
    more = {
        "seconds": [ours.seconds - trivial.seconds for ours, trivial in pairs],
        "cpu": [ours.cpu - trivial.cpu for ours, trivial in pairs],
    }
    rows = [
        [name, spread([start.seconds for start in values]), spread([start.cpu for start in values])]
        for name, values in starts.items()
    ]
    rows.append(["difference", spread(more["seconds"]), spread(more["cpu"])])
    head = ["from `fit()` to the first step", "seconds: median (lowest..highest)", "CPU-seconds of all processes"]
    goals = [
        Goal("seconds more than a trivial run", median(more["seconds"]), 3, at_least=False),
        Goal("CPU-seconds more than a trivial run", median(more["cpu"]), 3, at_least=False),
    ]
    rounds = {name: [asdict(start) for start in values] for name, values in starts.items()}
    facts = f"{where(starts)} Load of the machine at the end: {os.getloadavg()[0]:.1f}."
    save(NAME, out, {"rounds": rounds, "more": more}, [table(head, rows), facts], goals)


def where(starts: dict[str, list[Start]]) -> str:
    """CPU-seconds by process, in words."""
    told = []
    for name, values in starts.items():
        kinds = sorted({kind for value in values for kind in value.by_process})
        spent = {kind: median([value.by_process.get(kind, 0) for value in values]) for kind in kinds}
        words = ", ".join(f"{kind} {cpu:.2f}" for kind, cpu in spent.items() if cpu >= 0.05)
        told.append(f"CPU-seconds of {name}, medians by process: {words}.")
    return " ".join(told)


if __name__ == "__main__":
    main()
