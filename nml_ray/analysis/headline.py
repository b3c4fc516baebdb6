"""What a study's numbers say, in plain sentences that claim no more than the seeds and the test set allow."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nml_ray.analysis import statistics, task_tables
from nml_ray.analysis.results import ArmResult, StudyResult, TaskResult
from nml_ray.analysis.statistics import CLEAN, Estimate, Verdict, verdict
from nml_ray.analysis.tables import rows_of
from nml_ray.analysis.wording import (
    head_label,
    in_sentence,
    number,
    percent,
    points,
    ratio_label,
    split_label,
    with_interval,
)


@dataclass(frozen=True)
class Card:
    """One key number: what it is, the number, its interval and unit, what it compares, and whether it stands out.

    `tone`: "up", "down", "unclear" or "".
    """

    label: str
    value: str
    unit: str
    detail: str
    yardstick: str = ""
    tone: str = ""


def most_noise(arms: Sequence[ArmResult]) -> str | None:
    """The largest ratio that can be held against a clean arm; None without both."""
    ratios = statistics.ratios(arms)
    return ratios[-1] if len(ratios) > 1 and CLEAN in ratios else None


def baseline(arms: Sequence[ArmResult]) -> str | None:
    """The head others are held against: the linear probe, or the first head of a study without one."""
    return statistics.first_of(arms, "linear_probe") or next(iter(statistics.methods(arms)), None)


def samples_of(result: StudyResult) -> dict[str, int]:
    """Split to its number of samples."""
    return {facts.name: facts.samples for facts in result.data}


def headline(result: StudyResult) -> list[str]:
    """The study in a few plain lines, for the terminal and the top of the report.

    Numbers first, at most two sentences a line: noise (in domain, out of domain), gain and repair, the features, the
    training samples; parts a study lacks are left out. The last line says what the intervals are, or why there are
    none.
    """
    noise = replace(result, arms=statistics.trained(result.arms))
    lines = [
        *_noise_lines(noise),
        *_repair_lines(noise),
        *_measure_line(noise.arms),
        *_fitting_line(noise.arms),
        *_heads_lines(result.arms if most_noise(noise.arms) is None else statistics.given(result.arms)),
        *_task_lines(result.tasks),
        *([f"Without what failed: {', '.join(result.lacking)}."] if result.lacking else []),
    ]
    return [*lines, statistics.about_intervals(noise.arms)] if noise.arms else lines


def judged(difference: Estimate, samples: int | None = None) -> str:
    """What a difference may be taken for, in one sentence."""
    error = "" if difference.sampling is None else f"±\N{NO-BREAK SPACE}{number(196 * difference.sampling, 1)}"
    held = f"{samples:,} test samples" if samples else "the test set"
    return {
        Verdict.CLEAR: f"This stands out over {difference.seeds} pre-training seeds.",
        Verdict.WITHIN_SEEDS: f"{difference.seeds} pre-training seeds cannot tell this from zero.",
        Verdict.BEYOND_SAMPLING: f"This is beyond the sampling error of {held} ({error}), but from one seed.",
        Verdict.WITHIN_SAMPLING: f"This is within the sampling error of {held} ({error}).",
        Verdict.UNKNOWN: "This is from one seed.",
    }[verdict(difference)]


def _noise_lines(result: StudyResult) -> list[str]:
    arms, samples = result.arms, samples_of(result)
    worst, probe = most_noise(arms), baseline(arms)
    if not worst or not probe:
        return []
    lines = []
    for split in statistics.splits(arms):
        count = samples.get(split)
        change = statistics.ratio_difference(arms, worst, probe, split, samples=count)
        before = statistics.score(arms, CLEAN, probe, split)
        after = statistics.score(arms, worst, probe, split)
        if change and before and after:
            lines.append(
                f"{points(change)} points {split_label(split).lower()}: {ratio_label(worst)} wrong labels in "
                f"pre-training moved the {in_sentence(probe)} from {percent(before.mean)} to {percent(after.mean)}. "
                f"{judged(change, count)}"
            )
    return lines


def _repair_lines(result: StudyResult) -> list[str]:
    arms, samples = result.arms, samples_of(result)
    worst, probe, tuned = most_noise(arms), baseline(arms), statistics.first_of(arms, "nmtune")
    if not worst or not probe or not tuned or probe == tuned:
        return []
    lines = []
    for split in statistics.splits(arms):
        count = samples.get(split)
        gain = statistics.head_difference(arms, worst, tuned, probe, split, samples=count)
        reached, before = (statistics.score(arms, worst, head, split) for head in (tuned, probe))
        if gain and reached and before:
            lines.append(
                f"{points(gain)} points {split_label(split).lower()}: on the {ratio_label(worst)} encoder "
                f"{in_sentence(tuned)} reaches {percent(reached.mean)}, the {in_sentence(probe)} "
                f"{percent(before.mean)}. {judged(gain, count)}"
            )
            lines += _beyond_lift(arms, worst, tuned, probe, split, count)
    return lines


def _beyond_lift(
    arms: Sequence[ArmResult], worst: str, tuned: str, probe: str, split: str, count: int | None
) -> list[str]:
    """Gain is not repair: a head that lifts the clean encoder as much has mended nothing that noise did."""
    lift = statistics.head_difference(arms, CLEAN, tuned, probe, split)
    repaired = statistics.gap_change(arms, worst, tuned, probe, split, samples=count)
    if not lift or not repaired:
        return []
    return [
        f"{points(repaired)} points of repair {split_label(split).lower()}: that gain minus the {points(lift)} on the "
        f"clean encoder. {judged(repaired, count)}"
    ]


def _heads_lines(arms: Sequence[ArmResult]) -> list[str]:
    """For encoders that cannot be held against a clean one: their heads side by side."""
    lines = []
    for label, ratio, some in rows_of(arms):
        for split in statistics.splits(some):
            scores = [(head, statistics.score(some, ratio, head, split)) for head in statistics.methods(some)]
            said = ", ".join(f"{head_label(head)} {percent(score.mean)}" for head, score in scores if score)
            of = f"{label} encoder" if statistics.trained(some) else label
            lines.append(f"{of}, {split_label(split).lower()}: {said}.")
    return lines


def _task_lines(tasks: Sequence[TaskResult]) -> list[str]:
    """The means over downstream tasks, for the encoder of the least and of the most noise, or for every given one."""
    labels = [label for label, _, _ in rows_of([arm for task in tasks for arm in task.arms])]
    noise = [label for label in labels if label.endswith("%")]
    shown = [label for label in dict.fromkeys(labels) if label not in noise[1:-1]]
    lines = []
    for split in task_tables.splits_of(tasks):
        count = len(task_tables.counted(tasks, split))
        for label in shown:
            means = [(head, task_tables.mean_over(tasks, label, head, split)) for head in task_tables.heads_of(tasks)]
            said = ", ".join(f"{head_label(head)} {number(100 * mean.mean, 1)}" for head, mean in means if mean)
            if said:
                over = f"{count} task{'s' * (count != 1)}"
                lines.append(f"Mean over {over} {split_label(split).lower()}, {label}: {said}.")
    return lines


def _measure_line(arms: Sequence[ArmResult]) -> list[str]:
    worst = most_noise(arms)
    lines = []
    for split, name in (("test", "sve"), ("ood", "lsvr")):
        change = statistics.measure_difference(arms, worst, split, "raw", name) if worst else None
        before, after = (statistics.measure(arms, ratio, split, "raw", name) for ratio in (CLEAN, worst or CLEAN))
        if worst and change and before and after:
            lines.append(
                f"{name.upper()} {with_interval(change, digits=3, signed=True)} {split_label(split).lower()} "
                f"({number(before.mean, 3)} to {number(after.mean, 3)})"
            )
    return [f"{', '.join(lines)} with {ratio_label(worst)} wrong labels."] if worst and lines else []


def _fitting_line(arms: Sequence[ArmResult]) -> list[str]:
    ratio = statistics.ratios(arms)[-1] if arms else CLEAN
    fitted = statistics.last_epoch(arms, ratio, "accuracy_flipped")
    recovered = statistics.last_epoch(arms, ratio, "recovered_flipped")
    if not fitted or not recovered:
        return []
    return [
        f"{percent(fitted.mean)} of the flipped samples get their wrong label in the last epoch, "
        f"{percent(recovered.mean)} their true one ({ratio_label(ratio)} encoder)."
    ]


def cards(result: StudyResult) -> list[Card]:
    """The key numbers: what noise did in each domain and what NMTune gains there, or how training went."""
    noise = replace(result, arms=statistics.trained(result.arms))
    if not noise.arms:
        return []
    return [*_noise_cards(noise), *_gain_cards(noise)] or _training_cards(noise.arms)


def _noise_cards(result: StudyResult) -> list[Card]:
    arms, samples = result.arms, samples_of(result)
    worst, probe = most_noise(arms), baseline(arms)
    if not worst or not probe:
        return []
    changes = {
        split: statistics.ratio_difference(arms, worst, probe, split, samples=samples.get(split))
        for split in statistics.splits(arms)
    }
    detail = f"{in_sentence(probe)}: {ratio_label(worst)} noise against none"
    return [
        _difference_card(f"{split_label(split)}, noise", change, detail) for split, change in changes.items() if change
    ]


def _gain_cards(result: StudyResult) -> list[Card]:
    arms, samples = result.arms, samples_of(result)
    ratio, probe, tuned = statistics.ratios(arms)[-1], baseline(arms), statistics.first_of(arms, "nmtune")
    if not probe or not tuned or probe == tuned:
        return []
    gains = {
        split: statistics.head_difference(arms, ratio, tuned, probe, split, samples=samples.get(split))
        for split in statistics.splits(arms)
    }
    detail = f"{in_sentence(tuned)} against {in_sentence(probe)}, both at {ratio_label(ratio)} noise"
    return [_difference_card(f"{split_label(split)}, NMTune", gain, detail) for split, gain in gains.items() if gain]


def _training_cards(arms: Sequence[ArmResult]) -> list[Card]:
    ratio = statistics.ratios(arms)[-1]
    titles = {
        "accuracy_clean": "Clean samples learnt",
        "accuracy_flipped": "Wrong labels fitted",
        "recovered_flipped": "True labels predicted all the same",
    }
    values = {column: statistics.last_epoch(arms, ratio, column) for column in titles}
    detail = f"last epoch, {ratio_label(ratio)} noise"
    return [Card(titles[column], number(100 * value.mean, 1), "%", detail) for column, value in values.items() if value]


def _difference_card(title: str, change: Estimate, detail: str) -> Card:
    stands_out = verdict(change) in (Verdict.CLEAR, Verdict.BEYOND_SAMPLING)
    tone = ("up" if change.mean > 0 else "down") if stands_out else "unclear"
    yardstick = {
        Verdict.CLEAR: f"stands out over {change.seeds} seeds",
        Verdict.WITHIN_SEEDS: f"not told from zero by {change.seeds} seeds",
        Verdict.BEYOND_SAMPLING: "beyond test sampling; one seed",
        Verdict.WITHIN_SAMPLING: "within test sampling; one seed",
        Verdict.UNKNOWN: "one seed",
    }[verdict(change)]
    value, _, half = points(change).partition("\N{NO-BREAK SPACE}")
    return Card(title, value, f"{half} points".strip(), detail, yardstick, tone)
