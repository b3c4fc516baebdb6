"""What a trial of a sweep costs beside its own work: our Tune shell against Tune as it comes, trials that do nothing.

    python benchmarks/sweep_overhead.py    about five minutes; writes results/sweep_overhead.json and .md

One Ray with two CPUs, in which the two take turns; each is 64 trials whose function writes one small file. Ours is
`sweep.tune.run_trials`: a few worker processes take one trial after the other. The other is a `Tuner` with its
defaults, a new process for each trial, without output and loggers as ours is. It takes minutes, so once.

One more trial costs what 64 take more than two, shared out. Seconds are those of the clock: Ray starts and ends
processes beside a sweep's own, so that CPU-seconds of all of them say little.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.measure import Goal, interleaved, median, parsed, parser, save, spread, table
from benchmarks.training import keep_compiled
from nml_ray import session
from nml_ray.sweep.trials import Trial

NAME = "sweep_overhead"
CPUS = 2


def ours(directory: Path, trials: int) -> float:
    """A sweep of ours."""
    from nml_ray.sweep.tune import run_trials

    target = directory / f"ours-{time.time_ns()}"
    target.mkdir()
    todo = [Trial(f"trial-{number}", f"{number}", {"file": str(target / f"{number}")}) for number in range(trials)]

    def work(trial: Trial) -> None:  # as a local function it travels by value: no module is imported for it
        open(trial.payload["file"], "w").close()

    return _timed(target, trials, lambda: run_trials(todo, work, name=target.name, storage=directory / "ray"))


def default(directory: Path, trials: int) -> float:
    """A sweep of Tune's own."""
    from ray import tune

    target = directory / f"default-{time.time_ns()}"
    target.mkdir()

    def work(config: dict[str, Any]) -> None:
        from ray import tune

        open(os.path.join(config["directory"], str(config["number"])), "w").close()
        tune.report({"value": 0.0})

    tuner = tune.Tuner(
        work,
        param_space={"directory": str(target), "number": tune.grid_search(list(range(trials)))},
        run_config=tune.RunConfig(name=target.name, storage_path=str(directory / "ray"), verbose=0),
    )
    return _timed(target, trials, tuner.fit)


def _timed(target: Path, trials: int, sweep: Callable[[], Any]) -> float:
    began = time.monotonic()
    sweep()
    seconds = time.monotonic() - began
    assert len(list(target.iterdir())) == trials
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, trials=(64, 3), rounds=(3, 1)), arguments)
    options.data.mkdir(parents=True, exist_ok=True)
    directory = Path(mkdtemp(dir=options.data))
    keep_compiled(options.data)
    session.start(cpus=CPUS)
    try:
        ours(directory, 2)  # what Ray starts once for a cluster, and the driver's own imports
        arms = {"ours": lambda: ours(directory, options.trials), "two of ours": lambda: ours(directory, 2)}
        sweeps = interleaved(arms, options.rounds)
        sweeps["Tune's default"] = [default(directory, options.trials)]
    finally:
        session.stop()
        shutil.rmtree(directory)
    report(options.out, sweeps, options.trials)


def report(out: Path, sweeps: dict[str, list[float]], trials: int) -> None:
    """Write tables and goals."""
    mine, two, other = sweeps["ours"], sweeps["two of ours"], sweeps["Tune's default"][0]
    more = [1000 * (many - few) / (trials - 2) for many, few in zip(mine, two, strict=True)]
    rows = [[name, spread(found)] for name, found in sweeps.items()]
    rows.append(["one more trial of ours, milliseconds", spread(more)])
    goals = [
        Goal("times the seconds that Tune's default takes", other / median(mine), 10),
        Goal("milliseconds for one more trial", median(more), 20, at_least=False),
    ]
    loaded = f"Load of the machine at the end: {os.getloadavg()[0]:.1f}."
    head = [f"{trials} trials that do nothing", "seconds: median (lowest..highest)"]
    save(NAME, out, {"rounds": sweeps, "more": more}, [table(head, rows), loaded], goals)


if __name__ == "__main__":
    main()
