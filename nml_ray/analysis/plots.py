"""The figures of a study, each one panel as SVG text (see `svg`): colour tells heads apart, or noise ratios."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nml_ray.analysis import statistics
from nml_ray.analysis.results import ArmResult
from nml_ray.analysis.spectrum import shares
from nml_ray.analysis.statistics import CLEAN, Estimate
from nml_ray.analysis.svg import INK, MUTED, PAPER, Palette, label, panel, to_svg
from nml_ray.analysis.wording import in_sentence, number, ratio_label, split_label

MARKERS = ("o", "s", "D", "^", "v", "P")
SPECTRUM_POINTS = 96
NOISE_AXIS = "wrong labels in pre-training"


@dataclass(frozen=True)
class Plot:
    """One figure: `svg` to inline, `title` in words (also its accessible name)."""

    name: str
    title: str
    svg: str


def palette_of(arms: Sequence[ArmResult]) -> Palette:
    """One colour for each head, ratio and given encoder of the study."""
    encoders = [arm.kind for arm in statistics.given(arms)]
    return Palette(statistics.methods(arms), statistics.ratios(statistics.trained(arms)), encoders)


def positions(ratios: Sequence[str]) -> dict[str, float]:
    """Where ratios stand on the axis: at their percentage, or evenly where labels would collide."""
    places = [float(Decimal(ratio) * 100) for ratio in ratios]
    gaps = [b - a for a, b in itertools.pairwise(places)]
    if not gaps or min(gaps) < 0.07 * (places[-1] - places[0]):
        places = [float(i) for i in range(len(ratios))]
    return dict(zip(ratios, places, strict=True))


def _noise_axis(axes: Axes, places: Mapping[str, float], y: str) -> None:
    evenly = any(place != float(Decimal(ratio) * 100) for ratio, place in places.items()) and len(places) > 1
    label(axes, NOISE_AXIS + (" (evenly spaced)" if evenly else ""), y)
    axes.set_xticks(list(places.values()), [ratio_label(ratio) for ratio in places])
    span = _span(places)
    axes.set_xlim(min(places.values()) - 0.07 * span, max(places.values()) + 0.07 * span)


def _span(places: Mapping[str, float]) -> float:
    return (max(places.values()) - min(places.values())) or 2.0


def _limits(axes: Axes, series: Sequence[Mapping[str, Estimate]], scale: float, zero: bool) -> None:
    """Room for all points; very wide intervals may leave the panel, lest they flatten what was measured."""
    found = [estimate for one in series for estimate in one.values()]
    values = [scale * value for estimate in found for value in estimate.by_seed.values()]
    low, high = (min(*values, 0.0), max(*values, 0.0)) if zero else (min(values), max(values))
    span = (high - low) or max(abs(high) * 0.02, 1e-3)
    bottom = max(min(scale * estimate.low for estimate in found), low - 0.4 * span)
    top = min(max(scale * estimate.high for estimate in found), high + 0.4 * span)
    axes.set_ylim(min(bottom, low) - 0.08 * span, max(top, high) + 0.08 * span)


def _against_noise(
    name: str,
    title: str,
    y: str,
    series: Mapping[str, Mapping[str, Estimate]],
    colours: Mapping[str, str],
    palette: Palette,
    scale: float = 100,
    digits: int = 0,
    zero: bool = False,
) -> Plot | None:
    """Mean line, one small point a seed, and the interval: a band for one series, whiskers for several side by side."""
    series = {key: points for key, points in series.items() if points}
    if not series:
        return None
    ratios = sorted({ratio for points in series.values() for ratio in points}, key=Decimal)
    places = positions(ratios)
    figure, axes = panel()
    _noise_axis(axes, places, y)
    _limits(axes, list(series.values()), scale, zero)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, decimals(axes, digits))))
    if zero:
        axes.axhline(0, color=MUTED, linewidth=1)
    step = _span(places) * min(0.018, 0.05 / len(series))
    for i, (key, points) in enumerate(series.items()):
        shift = (i - (len(series) - 1) / 2) * step
        _draw(axes, places, points, colours[key], MARKERS[list(colours).index(key) % 6], shift, scale, len(series) == 1)
    return Plot(name, title, to_svg(figure, name, title, palette))


def decimals(axes: Axes, least: int) -> int:
    """Enough decimals to tell the ticks apart."""
    ticks = axes.get_yticks()
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    exact = next(digits for digits in range(9) if digits == 8 or abs(round(step, digits) - step) < 1e-6 * step)
    return max(least, exact)


def _draw(
    axes: Axes,
    places: Mapping[str, float],
    points: Mapping[str, Estimate],
    colour: str,
    marker: str,
    shift: float,
    scale: float,
    band: bool,
) -> None:
    xs = [places[ratio] + shift for ratio in points]
    means = [scale * point.mean for point in points.values()]
    lows = [scale * point.low for point in points.values()]
    highs = [scale * point.high for point in points.values()]
    several = any(point.seeds > 1 for point in points.values())
    if several and band:
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.14, linewidth=0)
    elif several:
        axes.vlines(xs, lows, highs, color=colour, linewidth=1.1, alpha=0.4)
    if several:
        dots = [(x, scale * value) for x, p in zip(xs, points.values(), strict=True) for value in p.by_seed.values()]
        axes.plot(*zip(*dots, strict=True), linestyle="", marker=marker, color=colour, markersize=2.6, alpha=0.6)
    edge: dict[str, Any] = {"markeredgecolor": PAPER, "markeredgewidth": 0.8}
    axes.plot(xs, means, color=colour, linewidth=1.7, marker=marker, markersize=5.5, **edge)


def _points(
    arms: Sequence[ArmResult], measured: Callable[[str], Estimate | None], without: str = ""
) -> dict[str, Estimate]:
    found = {ratio: measured(ratio) for ratio in statistics.ratios(arms) if ratio != without}
    return {ratio: value for ratio, value in found.items() if value is not None}


def accuracy(arms: Sequence[ArmResult], split: str, palette: Palette) -> Plot | None:
    """Accuracy (%) of each head against noise ratio on one split."""
    series = {
        head: _points(arms, lambda ratio, head=head: statistics.score(arms, ratio, head, split))  # type: ignore[misc]
        for head in statistics.methods(arms)
    }
    title = f"{split_label(split)}: accuracy of each head"
    return _against_noise(f"accuracy-{split}", title, "accuracy, %", series, palette.head, palette)


def noise_effect(arms: Sequence[ArmResult], split: str, palette: Palette) -> Plot | None:
    """Difference to the clean arm in points, paired within each pre-training seed, for each head."""
    series = {
        head: _points(arms, lambda ratio, head=head: statistics.ratio_difference(arms, ratio, head, split), CLEAN)  # type: ignore[misc]
        for head in statistics.methods(arms)
    }
    title = f"{split_label(split)}: change against the clean encoder"
    name = f"effect-{split}"
    return _against_noise(name, title, "points against clean", series, palette.head, palette, zero=True)


def gain(arms: Sequence[ArmResult], split: str, palette: Palette, baseline: str = "linear_probe") -> Plot | None:
    """What each tuned head gains over the baseline on the same features, in points."""
    series = {
        head: _points(arms, lambda ratio, head=head: statistics.head_difference(arms, ratio, head, baseline, split))  # type: ignore[misc]
        for head in statistics.methods(arms)
        if head != baseline
    }
    title = f"{split_label(split)}: gain over the {in_sentence(baseline)}"
    name = f"gain-{split}"
    return _against_noise(name, title, "points gained", series, palette.head, palette, zero=True)


def measure(arms: Sequence[ArmResult], split: str, transform: str, name: str, palette: Palette) -> Plot | None:
    """SVE or LSVR (natural log) of one split's features against noise ratio."""
    points = _points(arms, lambda ratio: statistics.measure(arms, ratio, split, transform, name))
    title = f"{split_label(split)}: {name.upper()}"
    series, colours = {name: points}, {name: INK}
    return _against_noise(f"{name}-{split}-{transform}", title, name.upper(), series, colours, palette, 1, 2)


def space(arms: Sequence[ArmResult], split: str, transform: str, name: str, palette: Palette) -> Plot | None:
    """SVE or LSVR (natural log) of one split's Z under each head against noise ratio (paper, Fig. 5 b and d)."""
    series = {
        one: _points(
            arms,
            lambda ratio, one=one: statistics.space_measure(arms, ratio, one, split, transform, name),  # type: ignore[misc]
        )
        for one in statistics.spaces(arms)
    }
    title = f"{split_label(split)}: {name.upper()} under each head"
    colours = space_colours(palette)
    return _against_noise(f"space-{name}-{split}-{transform}", title, name.upper(), series, colours, palette, 1, 2)


def space_colours(palette: Palette) -> dict[str, str]:
    """The heads' colours, and one for the encoder's own features."""
    return {**palette.head, statistics.FEATURES: INK}


def _kept(count: int, most: int) -> list[int]:
    """Places of at most `most` of `count` singular values, evenly spaced on a log axis."""
    return sorted({round(count ** (i / (most - 1))) - 1 for i in range(most)})


def spectrum(
    arms: Sequence[ArmResult], split: str, transform: str, palette: Palette, relative: bool = False
) -> Plot | None:
    """Shares of the singular values on log axes: the mean over seeds, and each seed as a faint line.

    `relative`: each divided by the clean arm's of the same seed. Given encoders have one line each, by name.
    """
    noise = bool(statistics.trained(arms))
    found = {
        (arm.ratio if noise else arm.kind, arm.seed): shares(one.singular_values).tolist()
        for arm in arms
        for one in arm.spectra
        if (one.split, one.transform) == (split, transform)
    }
    if relative:
        found = _against_clean(found)
    if not found:
        return None
    figure, axes = panel()
    colours = palette.ratio if noise else palette.encoder
    _spectrum_axes(axes, relative)
    for key in [key for key in colours if any(key == one for one, _ in found)]:
        runs = [values for (one, _), values in sorted(found.items()) if one == key]
        mean = [math.fsum(values) / len(values) for values in zip(*runs, strict=True)]
        for values, width, alpha in [*((run, 0.7, 0.3) for run in runs if len(runs) > 1), (mean, 1.7, 1.0)]:
            most = SPECTRUM_POINTS if values is mean else SPECTRUM_POINTS // 2
            kept = [i for i in _kept(len(values), most) if values[i] > (0 if relative else 1e-9)]
            style: dict[str, Any] = {"color": colours[key], "linewidth": width, "alpha": alpha}
            axes.plot([i + 1 for i in kept], [values[i] for i in kept], **style)
    name = f"spectrum-{split}-{transform}" + ("-relative" if relative else "") + ("" if noise else "-given")
    title = f"{split_label(split)}: singular values" + (", against clean" if relative else "")
    return Plot(name, title, to_svg(figure, name, title, palette))


Spectra = dict[tuple[str, int], list[float]]


def _against_clean(found: Spectra) -> Spectra:
    return {
        (ratio, seed): [a / b if b > 0 else math.nan for a, b in zip(values, found[CLEAN, seed], strict=True)]
        for (ratio, seed), values in found.items()
        if (CLEAN, seed) in found and ratio != CLEAN
    }


def _spectrum_axes(axes: Axes, relative: bool) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    label(axes, "singular value, by rank", "share, divided by the clean encoder's" if relative else "share of the sum")
    if relative:
        axes.axhline(1, color=MUTED, linewidth=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, decimals(axes, 1))))
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def encoders(arms: Sequence[ArmResult], split: str, palette: Palette) -> Plot | None:
    """Accuracy (%) of each head on each given encoder: the mean as a large mark, each head seed as a small one."""
    figure, axes = panel()
    heads = list(palette.head)
    drawn = False
    for place, arm in enumerate(arms):
        for i, head in enumerate(heads):
            values = [
                100 * one.scores[split]["accuracy"]
                for one in arm.heads
                if statistics.method_of(one) == head and split in one.scores
            ]
            x = place + (i - (len(heads) - 1) / 2) * min(0.16, 0.8 / len(heads))
            style: dict[str, Any] = {"color": palette.head[head], "marker": MARKERS[i % len(MARKERS)], "linestyle": ""}
            if values:
                axes.plot([x] * len(values), values, markersize=2.6, alpha=0.6, **style)
                axes.plot([x], [math.fsum(values) / len(values)], markersize=6.5, markeredgecolor=PAPER, **style)
            drawn = drawn or bool(values)
    if not drawn:
        return None
    label(axes, "", "accuracy, %")
    axes.margins(y=0.15)
    axes.set_xticks(range(len(arms)), [_short(arm.kind) for arm in arms])
    axes.set_xlim(-0.6, len(arms) - 0.4)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, decimals(axes, 0))))
    name, title = f"encoders-{split}", f"{split_label(split)}: accuracy of each head"
    return Plot(name, title, to_svg(figure, name, title, palette))


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
