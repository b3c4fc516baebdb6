"""What the measurements of the data plane share: options, interleaved rounds, medians, ratios, a table, two files."""

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from nml_ray.study.record import machine, versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
DATA = ROOT / "build/benchmarks"
PACKAGES = ("simplejpeg", "torchvision", "webdataset", "mosaicml-streaming", "pillow")

Figures = TypeVar("Figures")


@dataclass(frozen=True)
class Goal:
    """What a row of the table is held to: `measured` at least (or at most) `limit`."""

    what: str
    measured: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def line(self) -> str:
        """The goal in words."""
        bound = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else "MISSED"
        return f"* {self.what}: **{number(self.measured)}**, {bound} {number(self.limit)}: {verdict}"


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and CPU-seconds of this process, all its threads together."""

    seconds: float
    cpu: float


def timed(work: Callable[[], object]) -> Cost:
    """What a piece of work costs."""
    seconds, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - seconds, time.process_time() - cpu)


def parser(description: str | None, **sizes: tuple[int, int]) -> argparse.ArgumentParser:
    """Options that every script has; `sizes` are option=(default, size with --quick)."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--data", type=Path, default=DATA, help="where photographs are made, once")
    made.add_argument("--out", type=Path, default=RESULTS, help="where the results are written")
    made.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script works, measures nothing")
    for name, (default, quick) in sizes.items():
        made.add_argument(f"--{name}", type=int, help=f"default {default}, with --quick {quick}")
    made.set_defaults(sizes=sizes)
    return made


def parsed(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, sizes filled in."""
    options = made.parse_args(arguments)
    for name, (default, quick) in options.sizes.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else default)
    return options


def interleaved(arms: Mapping[str, Callable[[], Figures]], rounds: int) -> dict[str, list[Figures]]:
    """Every round runs each arm once, beginning one further each time: what drifts, drifts for all of them."""
    names = list(arms)
    results: dict[str, list[Figures]] = {name: [] for name in names}
    for turn in range(rounds):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            results[name].append(arms[name]())
    return results


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(statistics.median(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the rounds' ratios: each round's two arms ran one soon after the other."""
    return median([a / b for a, b in zip(above, below, strict=True)])


def number(value: float) -> str:
    """Three digits, no exponent."""
    if abs(value) < 0.001:
        return f"{value:.0f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The median, and the lowest and highest in brackets."""
    return f"{number(median(values))} ({number(min(values))}..{number(max(values))})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def save(
    name: str,
    out: Path,
    figures: Mapping[str, Any],
    tables: Sequence[str],
    goals: Sequence[Goal],
    script: str = "",
) -> None:
    """Write NAME.json and NAME.md, and print the latter; `script` is what made them, where it is not called NAME."""
    used = {**versions(), **{package: metadata.version(package) for package in PACKAGES if _installed(package)}}
    words = ["PATH" if os.path.isabs(word) else word for word in sys.argv[1:]]
    command = shlex.join(["python", f"benchmarks/{script or name}.py", *words])
    facts = {
        "command": command,
        "date": date.today().isoformat(),
        "machine": machine(),
        "load_at_end": os.getloadavg()[0],
        "versions": used,
        "goals": [{**vars(goal), "met": goal.met} for goal in goals],
    }
    where = machine()
    listed = ", ".join(f"{package} {version}" for package, version in used.items() if package in {"python", *SHOWN})
    about = f"`{command}` on {where['cpus']} cores of {where['processor']}, {facts['date']}; {listed}."
    lines = "\n".join(goal.line() for goal in goals)
    text = "\n\n".join([*tables, *([lines] if lines else []), about]) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({**facts, **figures}, indent=1) + "\n")
    (out / f"{name}.md").write_text(text)
    print(text)


SHOWN = ("torch", "torchvision", "pillow", "simplejpeg", "webdataset", "mosaicml-streaming")


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
