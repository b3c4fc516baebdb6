"""The parts of the report page: which figures and tables each has, and how to read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nml_ray.analysis import plots, statistics, sweep_plots, tables, task_tables
from nml_ray.analysis.headline import samples_of
from nml_ray.analysis.plots import Plot
from nml_ray.analysis.results import ArmResult, StudyResult, TaskResult
from nml_ray.analysis.svg import Palette
from nml_ray.analysis.tables import Table
from nml_ray.analysis.training_plots import CURVES, curve
from nml_ray.analysis.wording import head_label, ratio_label


@dataclass(frozen=True)
class Shown:
    """A figure or a table with the caption that says how to read it."""

    what: Plot | Table
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page. `reading` says how to read all its figures.

    `legend` is "heads", "tuned" (all but the first), "spaces" (the heads whose Z was measured), "ratios", "encoders" or
    "" and explains their colours.
    """

    anchor: str
    title: str
    lead: str
    figures: Sequence[Shown] = ()
    tables: Sequence[Shown] = ()
    legend: str = ""
    reading: str = ""


def legends(arms: Sequence[ArmResult], palette: Palette) -> Mapping[str, list[tuple[str, str, str]]]:
    """Colour (CSS), marker and label of every head, ratio and given encoder."""
    marks = {
        head: (palette.css(colour), plots.MARKERS[i % len(plots.MARKERS)], head_label(head))
        for i, (head, colour) in enumerate(plots.space_colours(palette).items())
    }
    heads = [marks[head] for head in palette.head]
    return {
        "heads": heads,
        "tuned": heads[1:],
        "spaces": [marks[space] for space in statistics.spaces(arms)],
        "ratios": [(palette.css(colour), "", ratio_label(ratio)) for ratio, colour in palette.ratio.items()],
        "encoders": [(palette.css(colour), "", name) for name, colour in palette.encoder.items()],
    }


def sections(result: StudyResult, palette: Palette) -> list[Section]:
    """The parts of the page for which the study has data, in order."""
    arms, given, samples = statistics.trained(result.arms), statistics.given(result.arms), samples_of(result)
    found = [
        *(_scores(arms, samples, palette) if statistics.methods(arms) else ()),
        *(_features(arms, palette) if tables.measured(arms) else ()),
        *(_spaces(arms, palette) if statistics.spaces(arms) else ()),
        *(_spectra(arms, palette) if tables.measured(arms) else ()),
        *(_training(arms, palette) if any(arm.curves for arm in arms) else ()),
        *(_given(given, samples, palette) if given else ()),
        *(_tasks(result.tasks) if result.tasks else ()),
        *_fractions(result),
        *_sweep(result, palette),
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


def _places(places: Sequence[tuple[str, str]]) -> tuple[list[str], str]:
    """The test splits measured (or the first split), and the transform that figures show."""
    transform = places[0][1]
    by_split = [split for split, one in places if one == transform]
    chosen = [split for split in (statistics.IN_DOMAIN, statistics.OUT_OF_DOMAIN) if split in by_split]
    return chosen or by_split[:1], transform


def _features(arms: Sequence[ArmResult], palette: Palette) -> list[Section]:
    chosen, transform = _places(tables.measured(arms))
    inside, outside = chosen[0], chosen[-1]
    sve = "Singular value entropy: higher means that variance is spread over more directions."
    lsvr = (
        "Largest singular value ratio, −ln of the first one's share: higher means a weaker dominant direction. Both "
        "can rise at once: the first direction weakens, the rest share what it loses."
    )
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
        )
    ]


def _spaces(arms: Sequence[ArmResult], palette: Palette) -> list[Section]:
    chosen, transform = _places(tables.measured_spaces(arms))
    several = len(statistics.seeds(arms)) > 1
    unchanged = "linear_probe" in statistics.spaces(arms) and statistics.FEATURES not in statistics.spaces(arms)
    return [
        Section(
            "heads",
            "What the heads did to the feature space",
            "SVE and LSVR of Z, the features as each head hands them to its classifier, over the whole split (the "
            "paper's Figure 5 b and d)."
            + (" The linear probe changes nothing: its line is the encoder's own features." if unchanged else ""),
            [
                *_shown(plots.space(arms, chosen[0], transform, "sve", palette)),
                *_shown(plots.space(arms, chosen[-1], transform, "lsvr", palette)),
            ],
            _space_tables(arms, several),
            "spaces",
            f"Figures show the transform {transform}. How high a line lies shows what the head did to the space; a "
            "flat one no longer tells the noise ratios apart. NMTune is meant to lift SVE (more directions count) and "
            "to lower LSVR (one direction leads); the paper found both with ImageNet-1K, with YFCC15M only the first. "
            + (
                "Head seeds are averaged inside each pre-training seed; small marks are single pre-training seeds, "
                "whiskers 95 % intervals that may leave the panel."
                if several
                else "Each mark is the one pre-training seed, head seeds averaged."
            ),
        )
    ]


def _space_tables(arms: Sequence[ArmResult], several: bool) -> list[Shown]:
    """A table for each transform; the captions say what they are and that heads and encoder share them."""
    interval = ", mean ± half of the 95 % interval over pre-training seeds" if several else ""
    captions = {
        "raw": "Z, the features as each head hands them to its classifier, measured in nats"
        f"{interval}. Transform raw: values as they are, like those of the encoder's features above.",
        "official": "The same under the transform official, again like the encoder's features above: rows "
        "L2-normalised, then centred within each row, as in the authors' code. Where the two tables order the heads "
        "differently, the lengths and means of the feature vectors make the difference.",
    }
    transforms = dict.fromkeys(transform for _, transform in tables.measured_spaces(arms))
    return [Shown(tables.space_table(arms, transform), captions[transform]) for transform in transforms]


def _spectra(arms: Sequence[ArmResult], palette: Palette) -> list[Section]:
    chosen, transform = _places(tables.measured(arms))
    whole = "Share of the sum that each singular value has, on log axes."
    relative = "The same shares divided by those of the clean encoder of the same seed, where differences show."
    return [
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
    one_epoch = max(len(arm.curves) for arm in arms) == 1
    clean, flipped = ("filled", "hollow") if one_epoch else ("solid", "dashed")
    captions = {
        "loss": f"Cross-entropy against the label given: clean samples {clean}, flipped {flipped}. A wide gap: the "
        "wrong labels are not fitted.",
        "clean": "Against the label given, which for these samples is the data set's own.",
        "fitted": "Against the wrong label given. Rising: noise is being learnt by heart.",
        "recovered": "Against the data set's own label, never shown for these samples. Rising: the classes are learnt "
        "in spite of the noise.",
        "zero-shot": "An image belongs to the class whose name, in prompts, is closest to it.",
    }
    if any(arm.kind == "caption_swap" for arm in arms):  # captions stand for labels
        captions |= {
            "loss": f"Contrastive loss within the batch: own captions {clean}, swapped {flipped}. A wide gap: the "
            "wrong captions are not fitted.",
            "clean": "The own caption is the closest to the image of all in the batch.",
            "fitted": "The wrong caption given is the closest of the batch. Rising: noise is being learnt by heart.",
        }
    return [
        Section(
            "training",
            "Pre-training, clean and flipped samples apart",
            "Measured on the training batches as they were fed, augmented, before each update."
            + (" Bold: mean over seeds; faint: single seeds." if len(statistics.seeds(arms)) > 1 else ""),
            [shown for which in CURVES for shown in _shown(curve(arms, which, palette), captions[which])],
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
            [
                *([Shown(tables.measure_table(arms), "SVE and LSVR in nats.")] if places else ()),
                *(_space_tables(arms, several=False) if statistics.spaces(arms) else ()),
            ],
            "encoders",
        ),
    ]


def _tasks(tasks: Sequence[TaskResult]) -> list[Section]:
    metrics = "; ".join(f"{task.title}: {task.metric.replace('_', ' ')}" for task in tasks)
    chosen = [task_tables.counted(tasks, split) for split in task_tables.splits_of(tasks)]
    averaged = ", ".join(f"{len(own)} task{'s' * (len(own) != 1)}" for own in chosen)
    shown = [Shown(task_tables.task_table(tasks), f"Each task's own metric, times 100. {metrics}.")]
    noise, gains = task_tables.noise_table(tasks), task_tables.gain_table(tasks)
    if noise.rows:
        shown.append(Shown(noise, "Differences to the clean encoder of the same seed, times 100."))
    if gains.columns:
        shown.append(Shown(gains, "Gain over the first head on the same features, paired within a seed, times 100."))
    if len(tasks) > 1 and len(task_tables.heads_of(tasks)) > 1:
        caption = "Mean rank of each head among all on the same encoder, over tasks: 1 is best, equal scores share one."
        shown.append(Shown(task_tables.rank_table(tasks), caption))
    return [
        Section(
            "tasks",
            "Downstream tasks",
            "The same encoders on every task. Out of domain is the mean over a task's sets of other domains. Means and "
            f"ranks are taken within each pre-training seed, over the tasks that count for a domain ({averaged}).",
            tables=shown,
        )
    ]


def _fractions(result: StudyResult) -> list[Section]:
    arms = [arm for own in (result.arms, *(task.arms for task in result.tasks)) for arm in own]
    if not any(arm.fractions for arm in arms):
        return []
    table = task_tables.fraction_table(result)
    lead = "Heads fitted on a part of the training samples: the same share of every class, smaller parts inside larger."
    return [Section("fractions", "By data fraction", lead, tables=[Shown(table, "Times 100.")])]


def _sweep(result: StudyResult, palette: Palette) -> list[Section]:
    if result.sweep is None:
        return []
    sweep, failed = result.sweep, sum(trial.value is None for trial in result.sweep.trials)
    figures = [
        shown for name in sweep_plots.fields(sweep) for shown in _shown(sweep_plots.against(sweep, name, palette))
    ]
    lead = f"All {len(sweep.trials)} trials by {sweep.metric}; the rest of this page is the best of them, chosen by it."
    lost = f" {failed} failed and are not shown; trials.parquet says why." if failed else ""
    rungs = " Small: stopped early, or gone on to more epochs." if any(trial.rung for trial in sweep.trials) else ""
    reading = f"Filled: the best.{rungs}{lost}"
    return [Section("sweep", "The sweep that chose this", lead, figures, reading=reading)]
