"""The report page: one self-contained HTML file that opens from disk, and the same numbers as CSV beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from nml_ray.analysis import plots, statistics, tables, task_tables
from nml_ray.analysis.headline import cards, headline, samples_of
from nml_ray.analysis.latex import to_latex
from nml_ray.analysis.results import ArmResult, StudyResult
from nml_ray.analysis.sections import legends, sections
from nml_ray.analysis.wording import ratio_label
from nml_ray.config.errors import UserError

__all__ = ["headline", "render", "write_report"]


def write_report(result: StudyResult, directory: Path) -> list[Path]:
    """Write report.html and the CSV files of what the study holds; return their paths.

    scores.csv, paper_table.csv, differences.csv, gains.csv, measures.csv, spectra.csv, curves.csv, task_scores.csv,
    task_table.csv, task_differences.csv, task_gains.csv, task_ranks.csv and fractions.csv; files without rows are left
    out. Beside them tables.tex, tables.md and tables.txt hold all tables of the page.

    Raises:
        UserError: two arms have the same ratio and seed (of different noise kinds): their numbers would be mixed.
    """
    _refuse_mixed(statistics.trained(result.arms))
    arms, samples = result.arms, samples_of(result)
    scored = bool(statistics.methods(arms))
    written = {
        "report.html": render(result),
        "scores.csv": tables.rows_to_csv(tables.score_rows(arms)),
        "paper_table.csv": tables.to_csv(tables.paper_table(arms, samples)) if scored else "",
        "differences.csv": tables.to_csv(tables.noise_table(statistics.trained(arms), samples)) if scored else "",
        "gains.csv": tables.to_csv(tables.gain_table(arms, samples)) if scored else "",
        "measures.csv": tables.rows_to_csv(tables.measure_rows(arms)),
        "spectra.csv": tables.rows_to_csv(tables.spectrum_rows(arms)),
        "curves.csv": tables.rows_to_csv(tables.curve_rows(arms)),
        **_task_files(result),
        **_documents(result),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        if text:
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
    return [directory / name for name, text in written.items() if text]


def _task_files(result: StudyResult) -> dict[str, str]:
    tasks, parts = result.tasks, task_tables.fraction_table(result)
    return {
        "task_scores.csv": tables.rows_to_csv(task_tables.task_rows(tasks)),
        "task_table.csv": tables.to_csv(task_tables.task_table(tasks)) if tasks else "",
        **_task_differences(result),
        "task_ranks.csv": tables.to_csv(task_tables.rank_table(tasks)) if len(tasks) > 1 else "",
        "fractions.csv": tables.to_csv(parts) if parts.rows else "",
    }


def _task_differences(result: StudyResult) -> dict[str, str]:
    noise, gains = task_tables.noise_table(result.tasks), task_tables.gain_table(result.tasks)
    return {
        "task_differences.csv": tables.to_csv(noise) if noise.rows else "",
        "task_gains.csv": tables.to_csv(gains) if gains.columns else "",
    }


def _documents(result: StudyResult) -> dict[str, str]:
    """Every table of the page as LaTeX, as Markdown and for a terminal."""
    shown = [
        (section.title, one.what, one.caption)
        for section in sections(result, plots.palette_of(result.arms))
        for one in section.tables
        if isinstance(one.what, tables.Table)
    ]
    return {
        "tables.tex": "\n".join(to_latex(table, f"{title}. {caption}") for title, table, caption in shown),
        "tables.txt": "\n\n".join(
            f"{title}\n\n{tables.to_text(table)}\n{caption}\n" for title, table, caption in shown
        ),
        "tables.md": "\n".join(
            f"## {title}\n\n{tables.to_markdown(table)}\n{caption}\n" for title, table, caption in shown
        ),
    }


def render(result: StudyResult) -> str:
    """The page as HTML text; equal results give equal text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nml_ray.analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["safe_svg"] = jinja2.utils.markupsafe.Markup
    palette = plots.palette_of(result.arms)
    return environment.get_template("report.html").render(
        result=result,
        summary=summary(result.arms),
        lines=headline(result),
        cards=cards(result),
        sections=sections(result, palette),
        legends=legends(result.arms, palette),
        themes={"light": palette.variables(dark=False), "dark": palette.variables(dark=True)},
        several=len(statistics.seeds(result.arms)) > 1,
        labels=arm_rows(statistics.trained(result.arms)),
        made=made(result.made_from),
    )


def _refuse_mixed(arms: Sequence[ArmResult]) -> None:
    kinds: dict[tuple[str, int], str] = {}
    for arm in arms:
        other = kinds.setdefault((arm.ratio, arm.seed), arm.kind)
        if other != arm.kind:
            raise UserError(
                f"noise {arm.ratio} with seed {arm.seed} is there twice, of kind {other} and of kind {arm.kind}",
                where="report",
                expected="the arms of one kind of noise in one report",
            )


def summary(arms: Sequence[ArmResult]) -> list[str]:
    """What the study holds, in a few words each."""

    def count(number: int, one: str) -> str:
        return f"{number} {one}" + ("" if number == 1 else "s")

    noise, given = statistics.trained(arms), statistics.given(arms)
    heads = statistics.methods(arms)
    head_seeds = {score.head_seed for arm in arms for score in arm.heads}
    return [
        *([count(len(statistics.ratios(noise)), "noise ratio")] if noise else []),
        *([count(len(statistics.seeds(noise)), "pre-training seed")] if noise else []),
        *([count(len(given), "given encoder")] if given else []),
        *([count(len(heads), "head"), count(len(head_seeds), "head seed")] if heads else []),
    ]


def arm_rows(arms: Sequence[ArmResult]) -> list[tuple[str, str, int, str]]:
    """(ratio, kind, seed, realised share of wrong labels) of every arm."""
    return [(ratio_label(arm.ratio), arm.kind, arm.seed, f"{100 * arm.realised:.3f} %") for arm in arms]


@dataclass(frozen=True)
class Made:
    """Origin, laid out for the page: `settings` as YAML text by part, stages summed by kind and one by one."""

    settings: Sequence[tuple[str, str]]
    versions: Sequence[tuple[str, str]]
    machine: Sequence[tuple[str, str]]
    kinds: Sequence[tuple[str, int, str]]
    stages: Sequence[tuple[str, str, str, str]]
    sources: Sequence[Mapping[str, str]]


def made(origin: Mapping[str, Any]) -> Made:
    """`StudyResult.made_from` for the template.

    Keys read, all optional: settings {part: data}, versions {package: text}, machine {what: text}, stages [{name,
    kind, digest, seconds or None where given}], sources [{split, source, licence}].
    """
    stages = origin.get("stages", [])
    kinds: dict[str, list[float]] = {}
    for stage in stages:
        kinds.setdefault(stage["kind"], []).append(stage["seconds"] or 0.0)
    return Made(
        settings=[(part, _plain(data)) for part, data in origin.get("settings", {}).items()],
        versions=[(name, str(text)) for name, text in origin.get("versions", {}).items()],
        machine=[(name.replace("_", " "), _inline(data)) for name, data in origin.get("machine", {}).items()],
        kinds=[(kind, len(times), _seconds(sum(times))) for kind, times in kinds.items()],
        stages=[(one["name"], one["kind"], one["digest"], _seconds(one["seconds"])) for one in stages],
        sources=origin.get("sources", []),
    )


class _Dumper(yaml.SafeDumper):
    """YAML in block style, short lists on one line."""


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    short = not any(isinstance(item, dict | list) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=short)


_Dumper.add_representer(list, _represent_list)


def _plain(data: Any) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100).strip()


def _inline(data: Any) -> str:
    return ", ".join(map(str, data)) if isinstance(data, list | tuple) else str(data)


def _seconds(value: float | None) -> str:
    if not value:
        return "–"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"
