"""The report page: one self-contained HTML file that opens from disk, and the same numbers as CSV beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from nml_ray.analysis import plots, statistics, tables
from nml_ray.analysis.headline import cards, headline, samples_of
from nml_ray.analysis.plots import Plot
from nml_ray.analysis.results import ArmResult, StudyResult
from nml_ray.analysis.svg import Palette
from nml_ray.analysis.tables import Table
from nml_ray.analysis.wording import head_label, ratio_label
from nml_ray.config.errors import UserError

__all__ = ["headline", "render", "write_report"]


@dataclass(frozen=True)
class Shown:
    """A figure or a table with the caption that says how to read it."""

    what: Plot | Table
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page. `reading` says how to read all its figures.

    `legend` is "heads", "tuned" (all but the first), "ratios" or "" and explains their colours.
    """

    anchor: str
    title: str
    lead: str
    figures: Sequence[Shown] = ()
    tables: Sequence[Shown] = ()
    legend: str = ""
    reading: str = ""


def write_report(result: StudyResult, directory: Path) -> list[Path]:
    """Write report.html and the CSV files of what the study holds; return their paths.

    scores.csv, paper_table.csv, differences.csv, gains.csv, measures.csv, spectra.csv and curves.csv; files without
    rows are left out.

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
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        if text:
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
    return [directory / name for name, text in written.items() if text]


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


def legends(arms: Sequence[ArmResult], palette: Palette) -> Mapping[str, list[tuple[str, str, str]]]:
    """Colour (CSS), marker and label of every head and of every ratio."""
    heads = [
        (palette.css(colour), plots.MARKERS[i % len(plots.MARKERS)], head_label(head))
        for i, (head, colour) in enumerate(palette.head.items())
    ]
    return {
        "heads": heads,
        "tuned": heads[1:],
        "ratios": [(palette.css(colour), "", ratio_label(ratio)) for ratio, colour in palette.ratio.items()],
        "encoders": [(palette.css(colour), "", name) for name, colour in palette.encoder.items()],
    }


def sections(result: StudyResult, palette: Palette) -> list[Section]:
    """The parts of the page for which the study has data, in order."""
    arms, given, samples = statistics.trained(result.arms), statistics.given(result.arms), samples_of(result)
    found = [
        *(_scores(arms, samples, palette) if statistics.methods(arms) else ()),
        *(_features(arms, palette) if tables.measured(arms) else ()),
        *(_training(arms, palette) if any(arm.curves for arm in arms) else ()),
        *(_given(given, samples, palette) if given else ()),
    ]
    return [section for section in found if section.figures or section.tables]


def _shown(plot: Plot | None, caption: str = "") -> list[Shown]:
    return [Shown(plot, caption)] if plot else []


def _scores(arms: Sequence[ArmResult], samples: Mapping[str, int], palette: Palette) -> list[Section]:
    several = len(statistics.seeds(arms)) > 1
    spread = (
        "Large marks are means over pre-training seeds, small ones single seeds; whiskers are 95 % intervals of the "
        "mean and may leave the panel."
        if several
        else "Each mark is the one pre-training seed, head seeds averaged."
    )
    splits = statistics.splits(arms)
    base = statistics.first_of(arms, "linear_probe")
    noise, gains = tables.noise_table(arms, samples), tables.gain_table(arms, samples)
    judged = (
        "Coloured: stands out, by the interval over seeds, or with one seed by the sampling error of the test set. Of "
        "cells without any effect about one in twenty would, too."
    )
    return [
        Section(
            "accuracy",
            "Accuracy against noise",
            "Frozen features of each encoder, heads fitted on clean downstream labels. If noise in pre-training did "
            "harm, lines fall to the right.",
            [shown for split in splits for shown in _shown(plots.accuracy(arms, split, palette))],
            [
                Shown(
                    tables.paper_table(arms, samples),
                    "The table in the shape of the paper's: accuracy in percent"
                    + (", mean ± half of the 95 % interval over pre-training seeds." if several else "."),
                )
            ],
            "heads",
            f"{spread} Axes do not begin at zero.",
        ),
        Section(
            "noise",
            "What noise did",
            "Each noisy encoder against the clean one of the same seed, which shares its initialisation, its order of "
            "samples and its augmentation. Below zero: noise did harm.",
            [shown for split in splits for shown in _shown(plots.noise_effect(arms, split, palette))],
            [Shown(noise, f"Difference to the clean encoder in percentage points. {judged}")] if noise.rows else [],
            "heads",
            f"Paired differences in percentage points. {spread}",
        ),
        Section(
            "repair",
            "What NMTune repaired",
            "Each tuned head against the linear probe on the same features. Gain is not yet repair: a head that gains "
            "as much on the clean encoder (0 %) has lifted it, not mended what noise did. Repair shows as a line that "
            "rises to the right.",
            [shown for split in splits if base for shown in _shown(plots.gain(arms, split, palette, base))],
            [Shown(gains, f"Gain in percentage points on the same features. {judged}")] if gains.columns else [],
            "tuned",
            f"Paired differences in percentage points. {spread}",
        ),
    ]


def _features(arms: Sequence[ArmResult], palette: Palette) -> list[Section]:
    places = tables.measured(arms)
    transform = places[0][1]
    by_split = [split for split, one in places if one == transform]
    chosen = [split for split in (statistics.IN_DOMAIN, statistics.OUT_OF_DOMAIN) if split in by_split] or by_split[:1]
    inside, outside = chosen[0], chosen[-1]
    sve = "Singular value entropy: higher means that variance is spread over more directions."
    lsvr = (
        "Largest singular value ratio, −ln of the first one's share: higher means a weaker dominant direction. Both "
        "can rise at once: the first direction weakens, the rest share what it loses."
    )
    whole = "Share of the sum that each singular value has, on log axes."
    relative = "The same shares divided by those of the clean encoder of the same seed, where differences show."
    return [
        Section(
            "features",
            "The feature space",
            "Singular values of each encoder's features, taken over the whole split (NMTune's regularisers see one "
            "batch at a time). The paper reads in-domain results with SVE and out-of-domain results with LSVR.",
            [
                *_shown(plots.measure(arms, inside, transform, "sve", palette), sve),
                *_shown(plots.measure(arms, outside, transform, "lsvr", palette), lsvr),
            ],
            [
                Shown(
                    tables.measure_table(arms),
                    "SVE and LSVR in nats, by transform of the features; other splits are in measures.csv.",
                )
            ],
        ),
        Section(
            "spectra",
            "Singular value spectra",
            "The numbers behind SVE and LSVR, by noise in pre-training."
            + (" Bold: mean over seeds; faint: single seeds." if len(statistics.seeds(arms)) > 1 else ""),
            [
                shown
                for split in chosen
                for shown in (
                    *_shown(plots.spectrum(arms, split, transform, palette), whole),
                    *_shown(plots.spectrum(arms, split, transform, palette, relative=True), relative),
                )
            ],
            legend="ratios",
        ),
    ]


def _training(arms: Sequence[ArmResult], palette: Palette) -> list[Section]:
    captions = {
        "loss": "Cross-entropy against the label given. A wide gap: the wrong labels are not fitted.",
        "clean": "Against the label given, which for these samples is the data set's own.",
        "fitted": "Against the wrong label given. Rising: noise is being learnt by heart.",
        "recovered": "Against the data set's own label, never shown for these samples. Rising: the classes are learnt "
        "in spite of the noise.",
    }
    return [
        Section(
            "training",
            "Pre-training, clean and flipped samples apart",
            "Measured on the training batches as they were fed, augmented, before each update."
            + (" Bold: mean over seeds; faint: single seeds." if len(statistics.seeds(arms)) > 1 else ""),
            [
                shown
                for which, caption in captions.items()
                for shown in _shown(plots.curve(arms, which, palette), caption)
            ],
            legend="ratios",
        )
    ]


def _given(arms: Sequence[ArmResult], samples: Mapping[str, int], palette: Palette) -> list[Section]:
    places = tables.measured(arms)
    gains = tables.gain_table(arms, samples)
    by_split = [split for split, transform in places if transform == places[0][1]]
    return [
        Section(
            "encoders",
            "Given encoders",
            "Encoders or features that were not pre-trained here: each stands for itself.",
            [shown for split in statistics.splits(arms) for shown in _shown(plots.encoders(arms, split, palette))],
            [
                *(
                    [Shown(tables.paper_table(arms, samples), "Accuracy in percent.")]
                    if statistics.methods(arms)
                    else ()
                ),
                *([Shown(gains, "Gain in percentage points on the same features.")] if gains.columns else ()),
            ],
            "heads",
            "Large marks are means over head seeds, small ones single head seeds. Axes do not begin at zero.",
        ),
        Section(
            "given-spectra",
            "Feature space of the given encoders",
            "Singular values of the features over each whole split, as shares of their sum, on log axes.",
            [shown for split in by_split for shown in _shown(plots.spectrum(arms, split, places[0][1], palette))],
            [Shown(tables.measure_table(arms), "SVE and LSVR in nats.")] if places else [],
            "encoders",
        ),
    ]


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
