"""Figures of pre-training: clean and flipped samples apart, over the epochs."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nml_ray.analysis import statistics
from nml_ray.analysis.plots import Plot, decimals
from nml_ray.analysis.results import ArmResult, EpochCurve
from nml_ray.analysis.svg import Palette, label, panel, to_svg
from nml_ray.analysis.wording import number

CURVES = {
    "loss": ("Loss on clean and on flipped samples", "loss", 1, ("loss_clean", "loss_flipped")),
    "clean": ("Clean samples predicted right", "% of clean samples", 100, ("accuracy_clean",)),
    "fitted": ("Flipped samples: the wrong label predicted", "% of flipped samples", 100, ("accuracy_flipped",)),
    "recovered": ("Flipped samples: the true label predicted", "% of flipped samples", 100, ("recovered_flipped",)),
    "zero-shot": ("Downstream images classified by class names", "% of images", 100, ("zero_shot",)),
}


def curve(arms: Sequence[ArmResult], which: str, palette: Palette) -> Plot | None:
    """One of CURVES over the epochs: the mean over seeds, and each seed as a faint line.

    A second column is dashed. A single epoch gives points side by side, those of a second column hollow.
    """
    title, y, scale, columns = CURVES[which]
    epochs = max((len(arm.curves) for arm in arms), default=0)
    figure, axes = panel()
    drawn = False
    ratios = statistics.ratios(arms)
    for place, ratio in enumerate(ratios):
        shift = 0.08 * (place - (len(ratios) - 1) / 2) if epochs == 1 else 0.0
        for i, column in enumerate(columns):
            runs = [values for arm in arms if arm.ratio == ratio and (values := _column(arm.curves, column, scale))]
            if runs:
                drawn = True
                _draw(axes, runs, palette.ratio[ratio], second=i > 0, shift=shift)
    if not drawn:
        return None
    _epoch_axis(axes, epochs)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, decimals(axes, 0))))
    label(axes, "epoch", y)
    return Plot(f"curve-{which}", title, to_svg(figure, f"curve-{which}", title, palette))


def _draw(axes: Axes, runs: Sequence[Sequence[float]], colour: str, second: bool, shift: float) -> None:
    mean = [math.fsum(step) / len(step) for step in zip(*runs, strict=False)]
    points = len(mean) == 1
    style: dict[str, Any] = {
        "color": colour,
        "linestyle": "" if points else (0, (3, 2)) if second else "-",
        "marker": "o" if points else "",
        "markerfacecolor": "none" if second else colour,
    }
    for values in runs if len(runs) > 1 else ():
        axes.plot(_steps(values, shift), values, linewidth=0.8, alpha=0.35, markersize=3, **style)
    axes.plot(_steps(mean, shift), mean, linewidth=1.7, markersize=6.5, **style)


def _epoch_axis(axes: Axes, epochs: int) -> None:
    ticks = [int(tick) for tick in MaxNLocator(integer=True, min_n_ticks=1).tick_values(1, epochs)]
    axes.set_xticks([tick for tick in ticks if 1 <= tick <= epochs])
    room = 0.5 if epochs == 1 else 0.04 * (epochs - 1)
    axes.set_xlim(1 - room, epochs + room)
    axes.margins(y=0.08)


def _column(curves: Sequence[EpochCurve], column: str, scale: float) -> list[float]:
    """One column of all epochs, scaled; [] where the arm lacks it."""
    values = [getattr(one, column) for one in curves]
    return [] if None in values else [scale * value for value in values]


def _steps(values: Sequence[float], shift: float) -> list[float]:
    return [epoch + shift for epoch in range(1, len(values) + 1)]
