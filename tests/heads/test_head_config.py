"""Head settings: presets, what a sweep expands to, and mistakes in it."""

import pytest
from pydantic import ValidationError

from nml_ray.config.document import parse
from nml_ray.config.errors import UserError
from nml_ray.config.validate import validate
from nml_ray.heads.config import HeadEntry, HeadsSettings, NMTune, head_setting, parse_setting


def test_presets_differ_where_the_paper_and_its_code_do() -> None:
    paper, official = head_setting("nmtune"), head_setting("nmtune", "official")
    assert isinstance(paper, NMTune) and isinstance(official, NMTune)
    assert (paper.mse_weight, paper.cov_weight, paper.svd_weight, paper.top_k) == (0.01, 0.01, 0.01, 1)
    assert (official.mse_weight, official.cov_weight, official.svd_weight, official.top_k) == (1.0, 0.04, 0.001, 5)
    assert not paper.batch_norm and not paper.residual and paper.views == "one" and paper.mse_norm == "paper"
    assert official.batch_norm and official.residual and official.views == "pair" and official.mse_norm == "official"
    for setting in (paper, official):
        assert (setting.learning_rate, setting.weight_decay) == (1e-3, 1e-4)
        assert (setting.batch, setting.epochs, setting.ratio, setting.layers) == (64, 30, 4, 1)


def test_linear_probe_defaults() -> None:
    probe = head_setting("linear_probe")
    assert (probe.learning_rate, probe.weight_decay, probe.standardise) == (0.1, 0.0, False)


def test_plain_data_reads_back_as_the_same_setting() -> None:
    for head, preset in (("linear_probe", "paper"), ("mlp", "official"), ("nmtune", "official")):
        setting = head_setting(head, preset, epochs=3)
        assert parse_setting(setting.model_dump(mode="json")) == setting


def test_a_search_expands_to_every_combination_in_one_order() -> None:
    entry = HeadEntry.model_validate(
        {"head": "nmtune", "fixed": {"epochs": 2}, "search": {"top_k": [1, 5], "learning_rate": [0.01, 0.001]}}
    )
    found = [(s.learning_rate, s.top_k, s.epochs) for s in entry.expand() if isinstance(s, NMTune)]
    assert found == [(0.01, 1, 2), (0.01, 5, 2), (0.001, 1, 2), (0.001, 5, 2)]
    swapped = HeadEntry.model_validate(
        {"head": "nmtune", "fixed": {"epochs": 2}, "search": {"learning_rate": [0.01, 0.001], "top_k": [1, 5]}}
    )
    assert swapped.expand() == entry.expand()


def test_values_are_typed_so_that_spelling_does_not_matter() -> None:
    entry = HeadEntry.model_validate(
        {"head": "mlp", "search": {"learning_rate": ["0.10", 0.1, "1e-2"]}, "fixed": {"residual": "true"}}
    )
    assert entry.search == {"learning_rate": [0.1, 0.01]} and entry.fixed == {"residual": True}
    assert HeadEntry.model_validate(entry.model_dump(mode="json")) == entry


def test_a_setting_named_by_two_entries_is_fitted_once() -> None:
    settings = HeadsSettings.model_validate(
        {"sweep": [{"head": "mlp"}, {"head": "mlp", "search": {"learning_rate": [0.001, 0.01]}}]}
    )
    assert [setting.learning_rate for setting in settings.expand()] == [0.001, 0.01]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"head": "linear_probe", "search": {"top_k": [1]}}, "linear_probe has no field 'top_k'"),
        ({"head": "mlp", "search": {"learning_rat": [1]}}, "did you mean 'learning_rate'"),
        ({"head": "mlp", "search": {"learning_rate": 0.1}}, "expected a list of values"),
        ({"head": "mlp", "search": {"learning_rate": []}}, "expected a list of values"),
        ({"head": "mlp", "search": {"learning_rate": [-1]}}, "learning_rate = -1: Input should be greater than 0"),
        ({"head": "mlp", "fixed": {"epochs": 0}}, "greater than or equal to 1"),
        ({"head": "mlp", "fixed": {"head": "nmtune"}}, "has no field 'head'"),
        ({"head": "mlp", "fixed": {"epochs": 2}, "search": {"epochs": [2]}}, "both"),
        ({"head": "tree"}, "linear_probe"),
    ],
)
def test_mistakes_are_named(entry: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HeadEntry.model_validate(entry)


def test_a_mistake_in_a_job_file_is_told_with_its_line() -> None:
    sweep = "sweep:\n  - head: mlp\n    search:\n      learning_rate:\n        - 0.1\n        - -2\n"
    with pytest.raises(UserError, match=r"job.yaml:6: learning_rate = -2: Input should be greater than 0"):
        validate(HeadsSettings, parse(sweep, "job.yaml"))


DRAWN = {"head": "mlp", "search": {"learning_rate": {"log_uniform": [0.001, 0.1]}, "layers": [1, 2]}}


def test_draws_are_the_same_at_every_time_and_more_of_them_only_add_some():
    few, many = (HeadEntry.model_validate({**DRAWN, "trials": trials}).expand() for trials in (4, 12))
    assert many[:4] == few and len(many) == 12
    assert {setting.layers for setting in many} == {1, 2}
    assert all(0.001 <= setting.learning_rate <= 0.1 for setting in many)
    turned = {**DRAWN, "search": dict(reversed(DRAWN["search"].items())), "trials": 4}
    assert HeadEntry.model_validate(turned).expand() == few
    assert HeadEntry.model_validate({**DRAWN, "trials": 4, "seed": 1}).expand() != few


def test_what_is_hashed_of_a_search_reads_back_and_knows_of_draws_only_where_there_are_some():
    drawn = HeadsSettings.model_validate({"sweep": [{**DRAWN, "trials": 4}]})
    assert HeadsSettings.model_validate(drawn.hashed()) == drawn
    assert drawn.hashed()["sweep"][0]["search"]["learning_rate"] == {"log_uniform": [0.001, 0.1]}
    assert set(HeadsSettings().hashed()["sweep"][0]) == {"head", "preset", "fixed", "search"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "learning_rate is a range to draw from: say how often"),
        ({"trials": 3, "search": {}}, "nothing is searched"),
        ({"trials": 3, "search": {"learning_rat": {"uniform": [0.1, 1]}}}, "did you mean 'learning_rate'"),
        ({"trials": 3, "search": {"learning_rate": {"uniform": [-1, 1]}}}, "learning_rate = -1.0"),
        ({"trials": 3, "search": {"learning_rate": {"uniform": [1, 0]}}}, "not below HIGH"),
        ({"trials": 3, "search": {"learning_rate": []}}, "expected a list of values"),
        ({"trials": 3, "search": {"batch": {"uniform": [8, 16]}}}, "batch takes whole numbers: use integers"),
        ({"trials": 3, "search": {"layers": {"log_uniform": [1, 2]}}}, "layers takes whole numbers: use integers"),
        ({"trials": 3, "search": {"epochs": {"uniform": [1.5, 8.5]}}}, "epochs takes whole numbers: use integers"),
        (
            {"head": "nmtune", "trials": 3, "search": {"top_k": {"uniform": [1, 3]}}},
            "top_k takes whole numbers: use integers",
        ),
    ],
)
def test_mistakes_in_draws_are_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        HeadEntry.model_validate({**DRAWN, **changes})
