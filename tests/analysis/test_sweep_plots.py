"""The figures of a sweep: one for every field in which trials differ, whatever its values are."""

from nml_ray.analysis import sweep_plots
from nml_ray.analysis.plots import palette_of
from nml_ray.analysis.results import SweepFacts, SweepTrial


def sweep(*values, field="rate"):
    trials = [SweepTrial(str(n), {field: value, "same": [1]}, n / 10, best=n == 1) for n, value in enumerate(values)]
    return SweepFacts("heads.accuracy", [*trials, SweepTrial("lost", {field: values[0], "same": [1]}, None)])


def test_fields_in_which_trials_agree_have_no_figure():
    assert sweep_plots.fields(sweep(0.1, 0.2)) == ["rate"]


def test_numbers_over_orders_of_magnitude_stand_on_a_logarithmic_axis():
    plot = sweep_plots.against(sweep(0.001, 0.01, 0.1), "rate", palette_of([]))
    assert plot.title == "heads.accuracy against rate" and ">0.001<" in plot.svg and ">0.1<" in plot.svg
    assert ">0.001<" not in sweep_plots.against(sweep(0.09, 0.1), "rate", palette_of([])).svg


def test_other_values_are_named():
    plot = sweep_plots.against(sweep([0.1], ["0"], "a" * 30), "rate", palette_of([]))
    assert all(name in plot.svg for name in (">[0.1]<", "aaaaaaaa…aaaaaaaa"))
    assert sweep_plots.against(SweepFacts("m", [SweepTrial("0", {"x": 1}, None)]), "x", palette_of([])) is None
