"""Figures of a sweep: what its trials came to, against each field that was searched."""

import json
from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter

from nml_ray.analysis.plots import Plot
from nml_ray.analysis.results import SweepFacts, SweepTrial
from nml_ray.analysis.svg import INK, MUTED, Palette, label, panel, to_svg

_WIDE = 20
"""Highest over lowest value of a field from which on its axis is logarithmic."""


def fields(sweep: SweepFacts) -> list[str]:
    """The fields in which trials differ, in the order in which they were written."""
    names = dict.fromkeys(name for trial in sweep.trials for name in trial.point)
    return [name for name in names if len({json.dumps(trial.point.get(name)) for trial in sweep.trials}) > 1]


def against(sweep: SweepFacts, field: str, palette: Palette) -> Plot | None:
    """Every trial's value against one field; the best is filled, those that were stopped early are small."""
    there = [trial for trial in sweep.trials if trial.value is not None and field in trial.point]
    if not there:
        return None
    figure, axes = panel()
    values = [trial.point[field] for trial in there]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        places = values
        if min(values) > 0 and max(values) > _WIDE * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        names = sorted(set(map(_words, values)))
        places = [names.index(_words(value)) for value in values]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    _draw(axes, there, places)
    axes.margins(y=0.1)
    label(axes, field, sweep.metric)
    title = f"{sweep.metric} against {field}"
    name = f"sweep-{field.replace('.', '-')}"
    return Plot(name, title, to_svg(figure, name, title, palette))


def _draw(axes: Any, trials: Sequence[SweepTrial], places: Sequence[Any]) -> None:
    top = max(trial.rung for trial in trials)
    for trial, place in zip(trials, places, strict=True):
        style = {"color": INK if trial.best else MUTED, "markersize": 7 if trial.rung == top else 4}
        axes.plot([place], [trial.value], marker="o", markerfacecolor=INK if trial.best else "none", **style)


def _words(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 18 else text[:8] + "…" + text[-8:]
