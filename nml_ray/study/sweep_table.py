"""All trials of a sweep as one table, and as a few lines for the terminal."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nml_ray.storage.digest import canonical_json
from nml_ray.study.sweep import Swept, TrialOutcome, key_of, said, status
from nml_ray.study.sweep_check import text

TABLE = "trials.parquet"
SHOWN = 12
"""Trials in the terminal's picture."""
_WIDTH = 24

SCHEMA = pa.schema(
    {
        "trial": pa.string(),
        "number": pa.int64(),
        "rung": pa.int64(),
        "point": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "by_epoch": pa.list_(pa.float64()),
        "seconds": pa.float64(),
        "status": pa.string(),
        "reason": pa.string(),
        "artifacts": pa.map_(pa.string(), pa.string()),
        "best": pa.bool_(),
    }
)
"""Beside these a column for every field that is searched, its value as JSON text; `point` is all of them.

For `status` see `sweep.status`; `reason` says why a trial failed. `artifacts` maps a stage to kind/digest.
"""


def write_table(path: Path, swept: Swept) -> None:
    """Write every trial as a row; the file is there whole, or as it was before."""
    fields = list(swept.trials[0].asked.point)
    schema = pa.unify_schemas([SCHEMA, pa.schema([(name, pa.string()) for name in fields])])
    aside = path.with_name(f".{path.name}.aside")
    pq.write_table(pa.Table.from_pylist([_row(trial, swept) for trial in swept.trials], schema), aside)
    os.replace(aside, path)


def _row(trial: TrialOutcome, swept: Swept) -> dict[str, Any]:
    asked = trial.asked
    return {
        "trial": key_of(asked),
        "number": asked.number,
        "rung": asked.rung,
        "point": canonical_json(dict(asked.point)),
        "metric": swept.metric,
        "value": trial.value,
        "by_epoch": list(trial.by_epoch),
        "seconds": trial.seconds,
        "status": status(trial, swept),
        "reason": trial.reason,
        "artifacts": dict(trial.artifacts),
        "best": trial is swept.best,
        **{name: text(value) for name, value in asked.point.items()},
    }


def artifacts_of(table: Path, kind: str) -> list[str]:
    """The digests of a kind that the trials of a table have made, each once."""
    made = [name.split("/") for name in all_artifacts_of(table)]
    return [digest for found, digest in made if found == kind]


def all_artifacts_of(table: Path) -> list[str]:
    """All that the trials of a table have made, as kind/digest, each once."""
    rows = pq.read_table(table, columns=["artifacts"]).to_pylist()
    return list(dict.fromkeys(name for row in rows for _, name in row["artifacts"]))


def summary(swept: Swept, table: Path) -> list[str]:
    """The sweep in a few lines: how many trials, the best, and a picture of the leading ones."""
    kinds = [status(trial, swept) for trial in swept.trials]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    lines = [f"sweep: {len(swept.trials)} trials: {counts}; all in {table}"]
    if swept.best is None:
        return lines
    return [*lines, *picture(swept), f"best by {swept.metric}: trial {said(swept.best.asked)}"]


def picture(swept: Swept) -> list[str]:
    """Leading trials as bars from the worst of all to the best: value, bar, trial and its point."""
    there = [trial for trial in swept.trials if trial.value is not None]
    values = [trial.value or 0.0 for trial in there]
    sign = -1 if swept.larger else 1
    leading = sorted(there, key=lambda trial: (-trial.asked.rung, sign * (trial.value or 0)))[:SHOWN]
    worst, best = (min(values), max(values)) if swept.larger else (max(values), min(values))
    lines = [f"{swept.metric}, the leading {len(leading)} of {len(there)}, bars from {worst:.4g} (the worst)"]
    for trial in leading:
        share = ((trial.value or 0.0) - worst) / (best - worst) if best != worst else 1.0
        bar = "█" * max(1, round(_WIDTH * share))
        lines.append(f"  {trial.value:<8.4g}{bar:<{_WIDTH}}  {_short(said(trial.asked))}")
    return lines


def _short(words: str, width: int = 100) -> str:
    return words if len(words) <= width else words[: width - 3] + "..."
