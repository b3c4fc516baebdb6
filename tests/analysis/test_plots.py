"""Figures: complete, deterministic, themed, and without a trace in matplotlib's global state."""

import dataclasses
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from sample_study import arms as sample_arms  # type: ignore[import-not-found]
from sample_study import curves

from nml_ray.analysis import plots, training_plots
from nml_ray.analysis.svg import HEAD_COLOURS, Palette

ARMS = sample_arms(ratios=("0", "0.1", "0.3"))
ONE_SEED = sample_arms(ratios=("0", "0.1", "0.3"), seeds=(0,))


def draw_all(arms):
    palette = plots.palette_of(arms)
    return [
        plots.accuracy(arms, "ood", palette),
        plots.noise_effect(arms, "test", palette),
        plots.gain(arms, "ood", palette),
        plots.measure(arms, "test", "raw", "sve", palette),
        plots.spectrum(arms, "ood", "raw", palette),
        plots.spectrum(arms, "test", "raw", palette, relative=True),
        plots.space(arms, "test", "raw", "sve", palette),
        plots.space(arms, "ood", "raw", "lsvr", palette),
        *(training_plots.curve(arms, which, palette) for which in training_plots.CURVES),
    ]


@pytest.fixture(scope="module")
def drawn():
    return draw_all(ARMS)


def test_every_figure_is_small_well_formed_svg_with_a_name(drawn):
    for plot in drawn:
        root = ElementTree.fromstring(plot.svg)
        assert root.tag.endswith("svg") and root.get("role") == "img" and root.get("aria-label") == plot.title
        assert "width" not in root.attrib
        assert 2_000 < len(plot.svg) < 40_000
        assert "<style" not in plot.svg and "<script" not in plot.svg


def test_no_clock_random_id_or_font_file_enters_a_figure(drawn):
    again = draw_all(ARMS)
    assert [plot.svg for plot in again] == [plot.svg for plot in drawn]
    assert not any("font-family" in plot.svg or "<dc:date" in plot.svg for plot in drawn)


def test_ids_are_unique_over_all_figures_of_a_page(drawn):
    ids = [found for plot in drawn for found in re.findall(r' id="([^"]+)"', plot.svg)]
    assert len(ids) == len(set(ids))
    for plot in drawn:
        assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", plot.svg)) <= set(re.findall(r' id="([^"]+)"', plot.svg))


def test_every_colour_follows_the_theme(drawn):
    for plot in drawn:
        bare = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", plot.svg)
        assert set(re.findall(r"#[0-9a-f]{6}\b", bare)) == set(), plot.name


def test_light_and_dark_have_the_same_variables_and_tell_entries_apart():
    palette = Palette([f"head{i}" for i in range(6)], [f"0.{i}" for i in range(1, 9)])
    for dark in (False, True):
        colours = palette.variables(dark)
        assert set(colours) == set(palette.variables(not dark))
        assert len(set(colours.values())) == len(colours)
    assert len(HEAD_COLOURS) == len(plots.MARKERS)


def test_tick_labels_keep_the_digits_that_tell_them_apart():
    arms = sample_arms(ratios=("0.2", "0.3"), seeds=(0,))  # SVE 4.844 and 4.857
    plot = plots.measure(arms, "test", "raw", "sve", plots.palette_of(arms))
    ticks = re.findall(r">(4\.\d+)</text>", plot.svg)
    assert len(ticks) > 3 and len(set(ticks)) == len(ticks)


def test_points_show_each_seed_and_the_mean():
    several, one = plots.accuracy(ARMS, "ood", plots.palette_of(ARMS)), draw_all(ONE_SEED)[0]
    marks = [len(re.findall("<use", plot.svg)) for plot in (several, one)]
    ticks = 3
    assert marks == [ticks + 4 * 3 * (1 + 2), ticks + 4 * 3]


def test_what_was_not_measured_gives_no_figure():
    palette = plots.palette_of(ARMS)
    clean = sample_arms(ratios=("0",))
    assert plots.noise_effect(clean, "test", palette) is None
    assert training_plots.curve(clean, "fitted", palette) is None
    assert plots.space(ARMS, "train", "raw", "sve", palette) is None
    assert plots.measure(ARMS, "train", "raw", "sve", palette) is None
    assert plots.spectrum(clean, "test", "raw", palette, relative=True) is None


def test_a_study_of_one_ratio_still_has_its_figure():
    assert plots.accuracy(sample_arms(ratios=("0.1",)), "test", plots.palette_of(ARMS)) is not None


@pytest.mark.parametrize("epochs", [1, 2, 3, 30])
def test_epochs_are_whole_ticks_inside_the_axis(epochs):
    arms = [dataclasses.replace(arm, curves=curves(arm.ratio, arm.seed, epochs)) for arm in ARMS]
    plot = training_plots.curve(arms, "clean", plots.palette_of(arms))
    ticks = re.findall(r"text-anchor: middle[^>]*>([^<]+)</text>", plot.svg)
    found = [int(tick) for tick in ticks if tick != "epoch"]
    assert found and found == sorted(set(found)) and found[0] >= 1 and found[-1] <= epochs


def test_a_single_epoch_is_points_side_by_side():
    arms = [dataclasses.replace(arm, curves=arm.curves[:1]) for arm in ONE_SEED]
    plot = training_plots.curve(arms, "loss", plots.palette_of(arms))
    marks = re.findall(r'<use [^>]*x="([^"]+)" y="([^"]+)"', plot.svg)
    floor = max(float(y) for _, y in marks)
    points = {x for x, y in marks if float(y) < floor}
    assert len(points) == 3  # a place for each ratio


def test_ratios_too_close_to_label_are_spaced_evenly():
    assert plots.positions(["0", "0.1", "0.3"]) == {"0": 0.0, "0.1": 10.0, "0.3": 30.0}
    assert plots.positions(["0", "0.01", "0.5"]) == {"0": 0.0, "0.01": 1.0, "0.5": 2.0}


@pytest.mark.long
def test_global_settings_stay_and_pyplot_is_never_imported():
    before = dict(matplotlib.rcParams)
    draw_all(ONE_SEED)
    assert dict(matplotlib.rcParams) == before
    code = "import sys, nml_ray.analysis.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
