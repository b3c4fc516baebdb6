"""Tables of a study: the one in the shape of the paper's (Table 1, Fig. 1), paired differences, measures, long rows."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nml_ray.analysis import statistics
from nml_ray.analysis.results import ArmResult, HeadScore
from nml_ray.analysis.spectrum import shares
from nml_ray.analysis.statistics import CLEAN, Estimate, Verdict
from nml_ray.analysis.wording import SPLITS, head_label, in_sentence, ratio_label, split_label, with_interval

Samples = Mapping[str, int]
MEASURES = {"sve": "SVE", "lsvr": "LSVR"}


@dataclass(frozen=True)
class Table:
    """Rows of estimates under two levels of column headings.

    `groups` are the upper headings with the number of columns each spans. Values are multiplied by `scale` and
    written with `digits` decimals. A cell of None was not measured. `judged`: cells are differences that may be told
    from nothing or not.
    """

    corner: str
    groups: Sequence[tuple[str, int]]
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Estimate | None]]]
    scale: float = 100
    digits: int = 1
    judged: bool = False

    def text(self, cell: Estimate | None) -> str:
        """One cell as text: "52.3 ± 1.2", "52.3" with one seed, "" where not measured."""
        return "" if cell is None else with_interval(cell, self.scale, self.digits, signed=self.judged)

    def tone(self, cell: Estimate | None) -> str:
        """ "up" or "down" for a difference that stands out, "unclear" for one that does not, "" for plain values."""
        if cell is None or not self.judged:
            return ""
        if statistics.verdict(cell) in (Verdict.CLEAR, Verdict.BEYOND_SAMPLING):
            return "up" if cell.mean > 0 else "down"
        return "unclear"

    def flat_columns(self) -> list[str]:
        """The column headings in one level: "In domain, MLP"."""
        spans = [group for group, width in self.groups for _ in range(width)]
        return [", ".join(part for part in pair if part) for pair in zip(spans, self.columns, strict=True)]


def rows_of(arms: Sequence[ArmResult]) -> list[tuple[str, str, list[ArmResult]]]:
    """Label, ratio and arms of each row: a noise ratio, or one of a study's given encoders."""
    noise, given = statistics.trained(arms), statistics.given(arms)
    rows = [(ratio_label(ratio), ratio, noise) for ratio in statistics.ratios(noise)]
    return rows + [(arm.kind, arm.ratio, [arm]) for arm in given]


def _corner(arms: Sequence[ArmResult]) -> str:
    return "Noise" if statistics.trained(arms) else "Encoder"


def paper_table(arms: Sequence[ArmResult], samples: Samples, metric: str = "accuracy") -> Table:
    """Rows: noise ratio (or given encoder). Columns: head x {in domain, out of domain}. Percent, mean and interval."""
    heads, splits = statistics.methods(arms), statistics.splits(arms)
    rows = [
        (
            label,
            [
                statistics.score(some, ratio, head, split, metric, samples.get(split))
                for split in splits
                for head in heads
            ],
        )
        for label, ratio, some in rows_of(arms)
    ]
    return _by_split(_corner(arms), splits, [head_label(head) for head in heads], rows)


def noise_table(arms: Sequence[ArmResult], samples: Samples) -> Table:
    """What each ratio did to each head: difference to the clean arm, paired within a seed, in percentage points."""
    heads, splits = statistics.methods(arms), statistics.splits(arms)
    rows = [
        (
            ratio_label(ratio),
            [
                statistics.ratio_difference(arms, ratio, head, split, samples=samples.get(split))
                for split in splits
                for head in heads
            ],
        )
        for ratio in statistics.ratios(arms)
        if ratio != CLEAN
    ]
    return _by_split("Noise", splits, [head_label(head) for head in heads], rows, judged=True)


def gain_table(arms: Sequence[ArmResult], samples: Samples) -> Table:
    """What NMTune gains over each plain head on the same features, paired within a seed, in percentage points."""
    tuned = [head for head in statistics.methods(arms) if head.startswith("nmtune")]
    bases = [base for head in ("linear_probe", "mlp") if (base := statistics.first_of(arms, head))]
    places = [(split, base) for split in statistics.splits(arms) for base in bases]
    rows = [
        (
            label,
            [
                statistics.head_difference(some, ratio, head, base, split, samples=samples.get(split))
                for split, base in places
                for head in tuned
            ],
        )
        for label, ratio, some in rows_of(arms)
    ]
    groups = [(f"{split_label(split)}, over {in_sentence(base)}", len(tuned)) for split, base in places if tuned]
    columns = [head_label(head) for _ in places for head in tuned]
    return Table(_corner(arms), groups, columns, rows, judged=True)


def measure_table(arms: Sequence[ArmResult]) -> Table:
    """SVE and LSVR (natural log) of each split and transform, for each ratio or given encoder.

    Of the splits only the two test splits, where there are any.
    """
    places = [place for place in measured(arms) if place[0] in SPLITS] or measured(arms)
    rows = [
        (
            label,
            [
                statistics.measure(some, ratio, split, transform, name)
                for split, transform in places
                for name in MEASURES
            ],
        )
        for label, ratio, some in rows_of(arms)
    ]
    several = len({transform for _, transform in places}) > 1
    groups = [
        (f"{split_label(split)} ({transform})" if several else split_label(split), 2) for split, transform in places
    ]
    return Table(_corner(arms), groups, list(MEASURES.values()) * len(places), rows, scale=1, digits=3)


def space_table(arms: Sequence[ArmResult], transform: str) -> Table:
    """SVE in domain and LSVR out of domain (nats) of Z under every head, by noise ratio or given encoder."""
    splits = {split for split, one in measured_spaces(arms) if one == transform}
    places = [(split, name) for split, name in (("test", "sve"), ("ood", "lsvr")) if split in splits]
    spaces = statistics.spaces(arms)
    rows = [
        (
            label,
            [
                statistics.space_measure(some, ratio, space, split, transform, name)
                for split, name in places
                for space in spaces
            ],
        )
        for label, ratio, some in rows_of(arms)
    ]
    groups = [(f"{split_label(split)}, {MEASURES[name]}", len(spaces)) for split, name in places]
    return Table(_corner(arms), groups, [head_label(space) for space in spaces] * len(places), rows, 1, 3)


def measured_spaces(arms: Sequence[ArmResult]) -> list[tuple[str, str]]:
    """The (split, transform) pairs that Z was measured in, raw first, the test split before out of domain."""
    known = {
        (split, transform)
        for arm in arms
        for score in arm.heads
        for split, transforms in score.spectra.items()
        for transform in transforms
    }
    return sorted(known, key=lambda pair: (pair[1] != "raw", pair[1], pair[0] != "test", pair[0]))


def measured(arms: Sequence[ArmResult]) -> list[tuple[str, str]]:
    """The (split, transform) pairs that have spectra: raw first, test and out of domain before the others."""
    known = {(spectrum.split, spectrum.transform) for arm in arms for spectrum in arm.spectra}
    order = {"test": 0, "ood": 1, "raw": 0}
    return sorted(known, key=lambda pair: (order.get(pair[1], 9), pair[1], order.get(pair[0], 9), pair[0]))


def _by_split(
    corner: str,
    splits: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Estimate | None]]],
    judged: bool = False,
) -> Table:
    groups = [(split_label(split), len(columns)) for split in splits]
    return Table(corner, groups, [*columns] * len(splits), rows, judged=judged)


def to_text(table: Table) -> str:
    """Aligned columns for a terminal."""
    spans = [group for group, width in table.groups for _ in range(width)]
    shown = ["" if i and spans[i - 1] == name else name for i, name in enumerate(spans)]
    body = [[label, *map(table.text, cells)] for label, cells in table.rows]
    lines = [["", *shown], [table.corner, *table.columns], *body]
    widths = [max(len(line[i]) for line in lines[1:]) for i in range(len(lines[1]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def to_markdown(table: Table) -> str:
    """A Markdown table with one level of headings."""
    head = [table.corner, *table.flat_columns()]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    lines += [[label, *map(table.text, cells)] for label, cells in table.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def to_csv(table: Table) -> str:
    """Of each cell mean, half width, standard error by the size of the test set (binomial), and seeds, in the table's
    unit, for other programs to read."""
    columns = table.flat_columns()
    rows: list[dict[str, Any]] = []
    for label, cells in table.rows:
        row: dict[str, Any] = {table.corner.lower(): label.replace("\N{NO-BREAK SPACE}", " ")}
        for column, cell in zip(columns, cells, strict=True):
            half = None if cell is None else cell.half_width
            row[column] = "" if cell is None else round(cell.mean * table.scale, 6)
            row[f"{column}, half width"] = "" if half is None else round(half * table.scale, 6)
            error = None if cell is None else cell.sampling
            row[f"{column}, test set error"] = "" if error is None else round(error * table.scale, 6)
            row[f"{column}, seeds"] = 0 if cell is None else cell.seeds
        rows.append(row)
    return rows_to_csv(rows)


def rows_to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV (RFC 4180, but with plain newlines) of rows that share their keys; "" for no rows."""
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def arm_facts(arm: ArmResult) -> dict[str, Any]:
    """What says in a row of CSV which arm it is of."""
    return {"kind": arm.kind, "ratio": arm.ratio, "realised": arm.realised, "seed": arm.seed}


def score_facts(score: HeadScore) -> dict[str, Any]:
    """What says in a row of CSV which head it is of."""
    return {"head": statistics.method_of(score), "head_seed": score.head_seed}


def score_rows(arms: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """One row for each arm, head, head seed, split and metric; values are shares."""
    return [
        {
            **arm_facts(arm),
            **score_facts(score),
            "split": split,
            "metric": metric,
            "value": value,
            "settings": json.dumps(dict(score.settings), sort_keys=True),
        }
        for arm in arms
        for score in arm.heads
        for split, metrics in score.scores.items()
        for metric, value in metrics.items()
    ]


def spectrum_rows(arms: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """One row for each singular value, largest first; `share` is sigma_i / sum sigma."""
    rows = []
    for arm in arms:
        for spectrum in arm.spectra:
            values = spectrum.singular_values
            place = {**arm_facts(arm), "split": spectrum.split, "transform": spectrum.transform}
            rows += [
                {**place, "index": i + 1, "singular_value": value, "share": float(share)}
                for i, (value, share) in enumerate(zip(values, shares(values), strict=True))
            ]
    return rows


def measure_rows(arms: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """One row for each spectrum: SVE and LSVR (natural log) and the number of samples.

    `head` and `head_seed` are empty for the encoder's own features; with a head the row is of its Z.
    """
    return [row for arm in arms for row in (*_own_measures(arm), *_head_measures(arm))]


def _own_measures(arm: ArmResult) -> list[dict[str, Any]]:
    return [
        {
            **arm_facts(arm),
            "head": "",
            "head_seed": "",
            "split": spectrum.split,
            "transform": spectrum.transform,
            "samples": spectrum.count,
            "sve": spectrum.sve,
            "lsvr": spectrum.lsvr,
        }
        for spectrum in arm.spectra
    ]


def _head_measures(arm: ArmResult) -> list[dict[str, Any]]:
    return [
        {
            **arm_facts(arm),
            "head": statistics.method_of(score),
            "head_seed": score.head_seed,
            "split": split,
            "transform": transform,
            "samples": found["count"],
            "sve": found["sve"],
            "lsvr": found["lsvr"],
        }
        for score in arm.heads
        for split, transforms in score.spectra.items()
        for transform, found in transforms.items()
    ]


def curve_rows(arms: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """One row for each epoch of each arm; flipped columns are empty for an arm without flipped samples."""
    return [{**arm_facts(arm), **vars(curve)} for arm in arms for curve in arm.curves]
