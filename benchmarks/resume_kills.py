"""Runs that are killed at random instants, against undisturbed ones: equal weights, curves and feeding logs to the bit.

    .venv/bin/python benchmarks/resume_kills.py    an hour on two cores; writes results/resume_kills.json and .md

In process: SIGKILL of the run, five times over, each time run again. Under Ray Train with 1, 2 and 3 workers: SIGKILL
of one of the workers, which Ray starts again, and in every other run of the driver too, which is run again at once.
Supervised and CLIP take turns: tiny icons, two undecodable; two noise arms that share the workers; a checkpoint every
few steps, committed behind the loop; weight average, validation and best checkpoint. A kill waits for the first step, a
checkpoint being written, the end of an epoch, the export, or a random number of images, then for a random moment more;
where it really fell is read from what lies there afterwards. Undisturbed runs are in process for one worker, under Ray
for more. Every finished run is a line of DATA/resume_kills/runs.jsonl; started again, the script makes what is missing.
"""

import hashlib
import json
import operator
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pyarrow import parquet

from benchmarks.kills import KINDS, Disturbed, Kill, Kind, finish, start
from benchmarks.measure import Goal, parsed, parser, save, table
from nml_ray.data.icons import source
from nml_ray.data.shards import Sample, write_shards
from nml_ray.pretrain.audit import audit_run
from nml_ray.pretrain.fed import FedLog
from nml_ray.storage.atomic import read_json
from nml_ray.study.audits import runs_of_study
from nml_ray.study.stages.shards import samples

NAME = "resume_kills"
IMAGES, VALIDATED, BROKEN = 384, 64, (100, 300)
EPOCHS, BATCH = 4, 64
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "supervised": {"noise": {"kind": "symmetric"}, "pretrain": {}},
    "clip": {
        "noise": {"kind": "caption_swap"},
        "pretrain": {
            "objective": "clip",
            "clip": {
                "text": {"dim": 16, "buckets": 256},
                "zero_shot": {"split": "pretrain_validation", "templates": ["{}", "{} icon"]},
            },
        },
    },
}


@dataclass(frozen=True)
class Case:
    """One disturbed run; `workers` is 0 in process. `seed` draws its kills."""

    objective: str
    workers: int
    seed: int

    @property
    def words(self) -> str:
        """How the case is named."""
        return f"{self.objective}-{self.workers or 'inline'}-{self.seed}"


def write_data(root: Path) -> None:
    """Cuts of the icons, with two images that cannot be decoded."""
    every, classes = list(samples("pretrain")), source.classes("pretrain")
    chosen = every[:: len(every) // IMAGES][:IMAGES]
    broken = [replace(sample, image=b"broken") if n in BROKEN else sample for n, sample in enumerate(chosen)]
    validated: list[Sample] = every[7 :: len(every) // VALIDATED][:VALIDATED]
    for split, cut in (("pretrain", broken), ("pretrain_validation", validated)):
        write_shards(cut, root / split, samples_per_shard=64, classes=classes)


def job(objective: str, data: Path) -> dict[str, Any]:
    """The job file of an objective."""
    own = OBJECTIVES[objective]
    return {
        "name": objective,
        "data": {"shards": {split: str(data / split) for split in ("pretrain", "pretrain_validation")}},
        "noise": {"ratios": ["0", "0.3"], **own["noise"]},
        "pretrain": {
            "encoder": {"name": "small_resnet", "width": 4, "channels": 1, "size": 32},
            "epochs": EPOCHS,
            "batch": BATCH,
            "microbatch": 16,
            "average": {"decay": 0.9},
            **own["pretrain"],
        },
        "run": {"checkpoint_steps": 4, "undecodable_limit": 0.05, "trackers": []},
    }


def command(case: Case, root: Path) -> list[str]:
    """The command line of a case but for its storage."""
    how = ["--set", f"run.workers={case.workers}"] if case.workers else ["--inline"]
    return [sys.executable, "-m", "nml_ray", "run", str(root / f"{case.objective}.yaml"), *how]


def kills_of(case: Case) -> list[Kill]:
    """What a case suffers, in the order of the run.

    In process each kind once; under Ray a worker at one of the kinds, and in every other run the driver at another.
    """
    draw = random.Random(f"{case}")
    if not case.workers:
        return [_kill(kind, draw) for kind in KINDS]
    first = KINDS[(case.seed + case.workers) % len(KINDS)]
    kills = [replace(_kill(first, draw), victim="worker")]
    if case.seed % 2:
        other = draw.choice([kind for kind in KINDS if kind != first])
        kills.append(_kill(other, draw))
    return sorted(kills, key=lambda kill: KINDS.index(kill.kind))


def _kill(kind: Kind, draw: random.Random) -> Kill:
    skip = {"commit": 6, "epoch": 2}.get(kind, 1)
    return Kill(kind, draw.uniform(0, 0.1), 0.6 * draw.random(), draw.randrange(skip))


def result_of(storage: Path) -> dict[str, Any]:
    """What is compared of each arm's run: digests of its weights, its curves, and a digest of what it was fed."""
    found = {}
    for path in sorted((storage / "pretrain").glob("*/record.json")):
        record = read_json(path)
        attempt = path.parent / record["attempt"]
        log = FedLog.open(path.parent, record["lineage"], record["steps"])
        columns = [list(vars(rows).values()) for rows in log.parts(0, record["steps"])]
        joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
        order = np.lexsort((joined[1], joined[0]))
        found[record["stage"]] = {
            "weights": {
                str(file.relative_to(attempt)): _digest(file) for file in sorted(attempt.rglob("*.safetensors"))
            },
            "curves": parquet.read_table(attempt / "curves.parquet").to_pylist(),
            "fed": hashlib.sha256(b"".join(column[order].tobytes() for column in joined)).hexdigest(),
            "holes": {f"{step}/{place}": asdict(lines[0]) for (step, place), lines in sorted(log.holes.items())},
        }
    return found


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def audit(storage: Path, objective: str) -> list[str]:
    """What `nml-ray audit` finds wrong; nothing where it holds."""
    runs = runs_of_study(storage / "studies" / objective)
    reports = [audit_run(run) for run in runs.runs]
    unheld = [f"{report.name}: {finding}" for report in reports for finding in report.findings]
    unheld += [f"{report.name} does not hold" for report in reports if not report.holds]
    unheld += [f"{report.name} has no ledger" for report in reports if report.ledger is None]
    return [*unheld, *(f"{name} is not finished" for name in runs.unfinished)]


def undisturbed(case: Case, root: Path) -> dict[str, Any]:
    """The result that a case must have; made once, in process for one worker."""
    alone = replace(case, workers=case.workers if case.workers > 1 else 0)
    storage = root / f"undisturbed-{case.objective}-{alone.workers or 1}"
    kept = storage.with_suffix(".json")
    if not kept.exists():
        shutil.rmtree(storage, ignore_errors=True)
        finish(start(command(alone, root), storage), storage)
        if wrong := audit(storage, case.objective):
            raise RuntimeError(f"the audit of the undisturbed run does not hold: {wrong}")
        kept.write_text(json.dumps(result_of(storage), indent=1))
    return json.loads(kept.read_text())


def disturbed(case: Case, root: Path) -> dict[str, Any]:
    """Run a case; its line of the results. What differs from the undisturbed run stays on the disk."""
    expected, storage = undisturbed(case, root), root / case.words
    shutil.rmtree(storage, ignore_errors=True)
    storage.with_suffix(".log").unlink(missing_ok=True)
    kills, began = kills_of(case), time.time()
    run = Disturbed(command(case, root), storage, BATCH, IMAGES // BATCH * BATCH * EPOCHS)
    run.run(kills, random.Random(f"{case}").randrange)
    records = [read_json(path) for path in sorted((storage / "pretrain").glob("*/record.json"))]
    made = result_of(storage)
    line = {
        **asdict(case),
        "kills": [{**asdict(kill), "fell": fell} for kill, fell in zip(kills, run.fell, strict=True)],
        "lineages": [[(entry["attempt"], entry["from_step"]) for entry in record["lineage"]] for record in records],
        "attempts": max(
            len(list(path.parent.glob("attempt-*"))) for path in (storage / "pretrain").glob("*/record.json")
        ),
        "differs": [
            f"{arm}: {part}" for arm in expected for part in expected[arm] if made[arm][part] != expected[arm][part]
        ],
        "audit": audit(storage, case.objective),
        "seconds": round(time.time() - began, 1),
    }
    if not line["differs"] and not line["audit"]:
        shutil.rmtree(storage)
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, write and print."""
    made = parser(__doc__, inline=(20, 2), ray=(5, 1))
    made.add_argument("--report", action="store_true", help="run nothing, write what the runs so far have shown")
    options = parsed(made, arguments)
    root = options.data / NAME
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "supervised.yaml").exists():
        write_data(root / "data")
        for objective in OBJECTIVES:
            (root / f"{objective}.yaml").write_text(yaml.safe_dump(job(objective, root / "data")))
    counts = {0: options.inline, 1: options.ray, 2: options.ray, 3: options.ray}
    cases = [
        Case(list(OBJECTIVES)[(seed + workers) % 2], workers, seed)
        for seed in range(max(counts.values()))
        for workers, count in counts.items()
        if seed < count
    ]
    _save(_made(cases, root, None if options.report else disturbed), counts, options.out)


def _made(
    cases: Sequence[Case], root: Path, make: Callable[[Case, Path], dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """The lines of all cases, each made unless an earlier call has; without `make` those that there are."""
    kept = root / "runs.jsonl"
    known = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    lines = []
    for case in cases:
        line = next((one for one in known if asdict(case).items() <= one.items()), None)
        if line is None and make:
            line = make(case, root)
            with open(kept, "a") as file:
                file.write(json.dumps(line) + "\n")
            print(case.words, [kill["fell"] for kill in line["kills"]], line["differs"], line["audit"], flush=True)
        if line:
            lines.append(line)
    return lines


def _save(lines: Sequence[dict[str, Any]], counts: Mapping[int, int], out: Path) -> None:
    rows, goals = [], []
    for workers, wanted in filter(operator.itemgetter(1), counts.items()):
        of = [line for line in lines if line["workers"] == workers]
        hit = [[kill for kill in line["kills"] if kill["fell"]] for line in of]
        same = [not line["differs"] for line in of]
        clean = [not line["audit"] for line in of]
        drivers = sum(kill["victim"] == "driver" for kills in hit for kill in kills)
        words = f"Ray, {workers} worker{'s' * (workers > 1)}" if workers else "in process"
        counted = (len(of), sum(map(len, hit)), drivers, sum(map(_resumes, of)))
        rows.append([words, *map(str, counted), *(f"{sum(held)} of {len(of)}" for held in (same, clean))])
        good = sum(all(three) for three in zip(hit, same, clean, strict=True))
        goals.append(Goal(f"{words}: runs that were hit, with equal bits and a clean audit", good, wanted))
    fell = Counter((line["workers"] > 0, kill["fell"].rpartition(", ")[2]) for line in lines for kill in line["kills"])
    places = sorted({place for _, place in fell if place})
    head = [
        "",
        "runs",
        "kills that hit",
        "of the run's own process",
        "resumes from a checkpoint",
        "equal bits",
        "clean",
    ]
    where = [
        [words, *(str(fell[ray, place]) for place in places)] for words, ray in (("in process", False), ("Ray", True))
    ]
    save(NAME, out, {"runs": lines}, [table(head, rows), table(["where kills fell", *places], where)], goals)


def _resumes(line: Mapping[str, Any]) -> int:
    """How often the arm that ended with the longest lineage was resumed from a checkpoint."""
    return max(len(lineage) for lineage in line["lineages"]) - 1


if __name__ == "__main__":
    main()
