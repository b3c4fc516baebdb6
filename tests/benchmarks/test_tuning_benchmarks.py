"""The measurements of extraction and of whole tunings run, at sizes that show nothing but that."""

import json
import math

import numpy as np
import pytest

from benchmarks import extraction, tuning, tuning_views
from benchmarks.measure import Cost
from benchmarks.tuning import Round, millis
from benchmarks.tuning_views import Spread

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def quick(module, data, out):
    module.main(["--quick", "--data", str(data), "--out", str(out)])
    result = json.loads((out / f"{module.NAME}.json").read_text())
    assert {"command", "date", "machine", "versions"} <= set(result)
    return result


def test_extraction(data, tmp_path):
    result = quick(extraction, data, tmp_path)
    assert [goal["limit"] for goal in result["goals"]] == [0.85, 0.85]
    for arms in result["rounds"].values():
        assert all(cost["cpu"] > 0 for costs in arms.values() for cost in costs)


def test_tuning(data, tmp_path):
    result = quick(tuning, data, tmp_path)
    assert list(result["gain"]) == ["1", "2", "4", "8", "60"]
    cached_twice_and_more = list(result["gain"].values())[1:]
    assert sorted(cached_twice_and_more, reverse=True) == cached_twice_and_more
    assert not list(data.glob("tuning-*"))


def test_an_image_and_epoch_bears_its_share_of_the_extraction():
    costs = Round((Cost(0, 64.0), Cost(0, 64.0)), Cost(0, 30.0), Cost(0, 1.92), Cost(0, 0.96))
    found = millis(costs, photos=100)  # of which a step of 64 takes one batch
    assert found.reference == 1000
    assert found.view == 150
    assert found.head == pytest.approx(1) and found.head_one_view == pytest.approx(0.5)
    assert found.ours(2) == pytest.approx(1 + 2 * 150 / 30)
    assert found.gain(1) == pytest.approx(1000 / 5.5)


def test_tuning_views(data, tmp_path):
    result = quick(tuning_views, data, tmp_path)
    assert list(result["accuracies"]) == ["1", "2", "4", "8", "60"]
    for by_split in result["accuracies"].values():
        assert all(0 <= share <= 100 for shares in by_split.values() for share in shares)
    assert "every epoch anew" in (tmp_path / "tuning_views.md").read_text()


def test_the_error_of_a_mean():
    found = Spread.of(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2 and found.error == pytest.approx(1 / math.sqrt(3))
