"""The points that a sweep tries: the same ones at every time, and how values decide which come next."""

import pytest

from nml_ray.sweep.config import SweepSettings
from nml_ray.sweep.search import Asked, searcher

RATE = {"log_uniform": [0.001, 1]}


def settings(**changes):
    return SweepSettings.model_validate({"search": {"a.rate": RATE, "b": [1, [2]]}, "kind": "random", **changes})


def played(sweep, value, count=0):
    """Every round of a sweep whose trials come to `value(asked)`."""
    source, rounds = searcher(sweep), []
    while asked := source.ask(count or sweep.round):
        rounds.append(asked)
        for one in asked:
            source.tell(one, value(one))
    return rounds


def points(rounds):
    return [dict(one.point) for asked in rounds for one in asked]


def test_a_grid_is_all_combinations_in_order():
    sweep = settings(kind="grid", search={"x": [1, 2], "y": ["a", "b", "a"]})
    found = played(sweep, lambda asked: 0.0)
    assert len(found) == 1
    assert points(found) == [{"x": x, "y": y} for x in (1, 2) for y in ("a", "b")]


def test_more_random_trials_only_add_some_and_a_field_more_changes_no_other():
    few, many = (points(played(settings(trials=count), lambda asked: 0.0)) for count in (5, 12))
    assert many[:5] == few and len({str(point) for point in many}) == 12
    wider = settings(trials=5, search={"c": {"integers": [1, 9]}, "a.rate": RATE, "b": [1, [2]]})
    assert [{k: v for k, v in point.items() if k != "c"} for point in points(played(wider, lambda asked: 0.0))] == few
    other = settings(trials=5, seed=1)
    assert points(played(other, lambda asked: 0.0)) != few


def test_equal_random_points_are_one():
    assert sorted(p["b"] for p in points(played(settings(trials=50, search={"b": [3, 1, 2]}), lambda a: 0.0))) == [
        1,
        2,
        3,
    ]


def test_rounds_are_as_large_as_said():
    sweep = settings(trials=5, max_concurrent=2)
    assert [[one.number for one in asked] for asked in played(sweep, lambda asked: 0.0)] == [[0, 1], [2, 3], [4]]


HALVING = {"field": "epochs", "epochs": [1, 3, 9], "factor": 3}


def test_the_best_third_goes_on_and_one_reaches_the_end():
    sweep = settings(trials=9, asha=HALVING, max_concurrent=9)
    rounds = played(sweep, lambda asked: asked.point["a.rate"])
    best = sorted(rounds[0], key=lambda asked: -asked.point["a.rate"])
    assert [len(asked) for asked in rounds] == [9, 3, 1]
    assert [one.number for one in rounds[1]] == [one.number for one in best[:3]]
    assert rounds[2] == [Asked(best[0].number, {**best[0].point, "epochs": 9}, 2)]
    assert {one.point["epochs"] for one in rounds[1]} == {3}


def test_it_goes_on_as_soon_as_the_best_is_known_and_never_twice():
    rounds = played(settings(trials=20, asha=HALVING), lambda asked: asked.point["a.rate"])
    assert {len(asked) for asked in rounds[:-3]} == {4}
    runs = [(one.number, one.rung) for asked in rounds for one in asked]
    assert len(runs) == len(set(runs)) and {number for number, _ in runs} == set(range(20))
    first = next(place for place, asked in enumerate(rounds) if any(one.rung for one in asked))
    assert any(one.rung == 0 for asked in rounds[first:] for one in asked)
    assert [rung for _, rung in runs].count(2) >= 1


def test_fewer_trials_than_the_factor_still_end_at_the_last_rung_and_failures_are_not_ranked():
    sweep = settings(trials=2, asha=HALVING, mode="min")
    rounds = played(sweep, lambda asked: None if asked.number == 0 else 1.0)
    assert [(one.number, one.rung) for asked in rounds for one in asked] == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert played(sweep, lambda asked: None)[1:] == []


def test_optuna_learns_and_is_told_the_same_anew():
    pytest.importorskip("optuna")
    sweep = settings(kind="optuna", trials=40, seed=3)

    def value(asked):
        return None if asked.number == 5 else -abs(asked.point["a.rate"] - 0.1)

    rounds = played(sweep, value)
    assert [len(asked) for asked in rounds] == [4] * 10
    assert played(sweep, value) == rounds
    rates = [point["a.rate"] for point in points(rounds)]
    distances = [abs(rate - 0.1) for rate in rates]
    assert sum(distances[20:]) < sum(distances[:20])
    assert all(point["b"] in (1, [2]) for point in points(rounds))
    assert played(settings(kind="optuna", trials=40, seed=4), value) != rounds
