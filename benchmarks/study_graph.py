"""What the study graph costs: planning, running again what is finished, and each stage beyond the work it does.

    python benchmarks/study_graph.py            about two minutes; no Ray
    python benchmarks/study_graph.py --quick    shows that it works

Studies are real jobs on a few tiny images: noise ratios times seeds, each pre-trained, extracted, measured and with
heads. Their artifacts are finished with nothing in them. Each figure is the median of processes of their own.
"""

import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import Goal, median, number, parsed, parser, save, spread, table

STAGES_EACH = 4  # of a ratio and seed: pretrain, extract, spectrum, heads
SEEDS = 10

PLAN = r"""
import json, re, sys, time
begun = time.perf_counter()
from pathlib import Path
from nml_ray.study.job import read_job
from nml_ray.study.execute import plan_job
loaded, cpu = time.perf_counter(), time.process_time()
planned = plan_job(read_job(Path(sys.argv[1]), ())[0])[1]
ended, cpu = time.perf_counter(), time.process_time() - cpu
rss = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # ru_maxrss outlives exec
took = {"seconds": ended - loaded, "cpu": cpu, "with_imports": ended - begun}
print(json.dumps({**took, "rss": rss, "stages": len(planned)}))
"""

RUN = """
import io, json, sys, time
begun = time.perf_counter()
from pathlib import Path
from nml_ray.study.execute import execute
from nml_ray.study.job import read_job
from nml_ray.study.progress import PlainDisplay
loaded, cpu = time.perf_counter(), time.process_time()
job = read_job(Path(sys.argv[1]), ())[0]
done = execute(job, PlainDisplay(io.StringIO()), inline=sys.argv[2] == "inline")
ended, cpu = time.perf_counter(), time.process_time() - cpu
assert not done.outcome.made and not done.outcome.failures
took = {"seconds": ended - loaded, "cpu": cpu, "with_imports": ended - begun}
print(json.dumps({**took, "stages": len(done.outcome.artifacts)}))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the two files."""
    sizes = {"rounds": (5, 1), "finished": (1000, 40), "planned": (10_000, 80), "trivial": (300, 20)}
    options = parsed(parser(__doc__, **sizes), arguments)
    with TemporaryDirectory(prefix="study-graph-") as directory:
        root = Path(directory)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(root / "compiled")  # all of it, as after an installation
        data = tiny_data(root / "data")
        large = write_job(root / "large", data, options.planned)
        again = write_job(root / "again", data, options.finished)
        finish_all(again)
        command("plan", str(again))
        command("run", str(again))
        figures: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            took = {
                "plan": python(PLAN, large),
                "run": python(RUN, again, "ray"),
                "run --inline": python(RUN, again, "inline"),
                "nml-ray run": command("run", str(again)),
                "nml-ray plan, large": command("plan", str(large)),
                "nml-ray --help": command("--help"),
                "nml-ray plan demo": command("plan", "demo", "--storage", str(root / "none")),
                "python -c pass": python("print('{}')"),
                "graph, inline": per_stage(root / "a", options.trivial, "inline"),
                "graph, side by side": per_stage(root / "b", options.trivial, "threads"),
                "direct": per_stage(root / "c", options.trivial, "direct"),
            }
            for name, found in took.items():
                figures.setdefault(name, []).append(found)
    report(options.out, figures)


def tiny_data(root: Path) -> Path:
    """Sets of 32 images of 8 by 8."""
    from PIL import Image

    from nml_ray.data.shards import Sample, write_shards

    for place, split in enumerate(("pretrain", "train", "validation", "test")):
        samples = []
        for n in range(32):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (n, place, 0)).save(file, "png")
            samples.append(Sample(f"{split}{n}", file.getvalue(), "png", n % 4))
        write_shards(samples, root / split, samples_per_shard=32, classes=["a", "b", "c", "d"])
    return root


def write_job(directory: Path, data: Path, stages: int) -> Path:
    """A job file whose study has about so many stages."""
    directory.mkdir()
    count = max(1, round(stages / (STAGES_EACH * SEEDS)))
    job = {
        "name": "many",
        "data": {"shards": {split: str(data / split) for split in ("pretrain", "train", "validation", "test")}},
        "noise": {"ratios": [f"0.{n:04d}" for n in range(count)]},
        "pretrain": {"seeds": list(range(SEEDS)), "epochs": 1, "batch": 16, "encoder": {"name": "small_resnet"}},
        "spectrum": {},
        "heads": {"seeds": [0, 1, 2], "sweep": [{"head": "linear_probe"}, {"head": "nmtune"}]},
        "run": {"storage": str(directory / "runs")},
    }
    (directory / "job.yaml").write_text(json.dumps(job))
    return directory / "job.yaml"


def finish_all(file: Path) -> None:
    """Finish every artifact of a job, with the record that a run leaves and no files."""
    from nml_ray.study.execute import plan_job, store_of
    from nml_ray.study.job import read_job
    from nml_ray.study.record import machine, versions

    job = read_job(file, ())[0]
    store, known = store_of(job), {"versions": versions(), "machine": machine()}
    for name, one in plan_job(job)[1].items():
        if one.state == "to do":
            facts = {"stage": name, "version": one.stage.version, "settings": dict(one.stage.settings), **known}
            store.attempt(one.stage.kind, one.digest, **facts).finish()


def children() -> float:
    """CPU-seconds of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def python(code: str, *arguments: object) -> dict[str, Any]:
    """What a process printed, and the seconds and CPU-seconds of the whole of it."""
    begun, cpu = time.perf_counter(), children()
    words = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    own = json.loads(done.stdout.splitlines()[-1])
    return {**own, "process": time.perf_counter() - begun, "process_cpu": children() - cpu}


def command(*words: str) -> dict[str, Any]:
    """The seconds and CPU-seconds of a command."""
    begun, cpu = time.perf_counter(), children()
    subprocess.run([sys.executable, "-m", "nml_ray", *words], check=True, capture_output=True)
    return {"process": time.perf_counter() - begun, "process_cpu": children() - cpu}


def make_nothing(tasks: Sequence[Any], context: Any) -> None:
    """The stage whose work is nothing but to leave an artifact."""
    for task in tasks:
        (task.attempt.path / "result").write_text("")
        task.attempt.finish()


def per_stage(root: Path, stages: int, how: str) -> dict[str, Any]:
    """Seconds a stage of stages that do nothing, eight after each other: by the graph or by calling the function."""
    from nml_ray.storage.artifact import Store
    from nml_ray.study.graph import ordered
    from nml_ray.study.job import RunSettings
    from nml_ray.study.plan import plan
    from nml_ray.study.progress import PlainDisplay
    from nml_ray.study.runner import run
    from nml_ray.study.stage import Resources, Stage, digests
    from nml_ray.study.task import Context, Task

    with TemporaryDirectory(dir=root.parent) as directory:
        store = Store(Path(directory))
        nodes = lambda: [{"CPU": 4}]  # noqa: E731
        context = Context(store, how != "threads", 1, RunSettings(), lambda: None, lambda: None, nodes)
        one = Resources(1, 0, 1)
        made = [
            Stage(str(n), "k", 1, {"n": n}, f"{__name__}:make_nothing", {"x": str(n - 1)} if n % 8 else {}, "", one)
            for n in range(stages)
        ]
        begun = time.perf_counter()
        if how == "direct":
            known = digests(ordered(made))
            for stage in made:
                make_nothing([Task(stage, {}, store.attempt(stage.kind, known[stage.name]))], context)
        else:
            planned = plan(made, lambda kind, digest: store.artifact(kind, digest) is not None)
            assert len(run(planned, context, PlainDisplay(io.StringIO())).made) == stages
        return {"seconds": (time.perf_counter() - begun) / stages}


def report(out: Path, figures: dict[str, list[dict[str, Any]]]) -> None:
    """The tables and goals."""

    def of(name: str, what: str) -> list[float]:
        return [found[what] for found in figures[name]]

    planned, finished = figures["plan"][0]["stages"], figures["run"][0]["stages"]
    rows = [
        [words, *(spread(of(name, what)) for what in ("seconds", "cpu", "with_imports"))]
        for name, words in (
            ("plan", f"planning {planned:,} stages"),
            ("run", f"running {finished:,} finished stages again"),
            ("run --inline", "the same, inline"),
        )
    ]
    commands = ["nml-ray run", "nml-ray plan, large", "nml-ray --help", "nml-ray plan demo", "python -c pass"]
    shown = {"nml-ray run": f"`nml-ray run`, {finished:,} finished stages"}
    shown["nml-ray plan, large"] = f"`nml-ray plan`, {planned:,} stages"
    inline, beside, direct = (of(name, "seconds") for name in ("graph, inline", "graph, side by side", "direct"))
    extra = {
        name: [1000 * (a - b) for a, b in zip(one, direct, strict=True)]
        for name, one in (("inline", inline), ("side by side", beside))
    }
    stage_rows = [
        ["called directly", spread([1000 * one for one in direct]), ""],
        ["by the graph, inline", spread([1000 * one for one in inline]), spread(extra["inline"])],
        ["by the graph, side by side", spread([1000 * one for one in beside]), spread(extra["side by side"])],
    ]
    goals = [
        Goal(f"seconds to run {finished:,} finished stages again", median(of("run", "seconds")), 2, False),
        Goal(f"seconds to plan {planned:,} stages", median(of("plan", "seconds")), 5, False),
        Goal("MB that planning them takes at most", median(of("plan", "rss")), 500, False),
        Goal("ms of the graph for each stage", max(map(median, extra.values())), 50, False),
        Goal("seconds of `nml-ray --help`", median(of("nml-ray --help", "process")), 0.4, False),
        Goal("seconds of `nml-ray plan demo`", median(of("nml-ray plan demo", "process")), 1, False),
    ]
    tables = [
        table(["", "seconds", "CPU-seconds", "seconds with imports"], rows),
        table(
            ["command", "seconds", "CPU-seconds"],
            [[shown.get(n, f"`{n}`"), spread(of(n, "process")), spread(of(n, "process_cpu"))] for n in commands],
        ),
        table(["a stage that does nothing", "ms", "ms more"], stage_rows),
        f"Planning took {number(max(of('plan', 'rss')))} MB at most.",
    ]
    save("study_graph", out, {"figures": figures}, tables, goals)


if __name__ == "__main__":
    main()
