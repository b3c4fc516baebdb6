"""Every measurement of the data plane runs, at sizes that show nothing but that."""

import importlib
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import measure, photos
from nml_ray.data.dataset import Dataset

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def run(name, data, tmp_path, *more):
    importlib.import_module(f"benchmarks.{name}").main(["--quick", "--data", str(data), "--out", str(tmp_path), *more])
    assert "at least" in (text := (tmp_path / f"{name}.md").read_text()) or "at most" in text
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["goals"]
    assert {"command", "date", "machine", "versions"} <= set(result)
    return result


def test_photographs_are_the_same_bytes_again():
    assert photos.photo(5) == photos.photo(5)
    assert photos.photo(5) != photos.photo(5, seed=1)
    with Image.open(io.BytesIO(photos.photo(5))) as image:
        assert image.size == (photos.WIDTH, photos.HEIGHT)
        assert image.format == "JPEG"
        assert image.layer[0][1:3] == (2, 2)  # 4:2:0
    sizes = [len(photos.photo(number)) for number in range(8)]
    assert 50_000 < np.mean(sizes) < 120_000


def test_a_linked_set_has_each_photograph_several_times(data):
    twice = Dataset.open(photos.linked_set(photos.photo_set(data, 24, 1), 2))
    assert len(twice) == 48
    assert len(np.unique(twice.key_hash)) == 48


def test_reading(data, tmp_path):
    result = run("data_reading", data, tmp_path)
    assert min(min(values) for values in result["micros_per_sample"].values()) > 0


def test_pipeline(data, tmp_path):
    result = run("data_pipeline", data, tmp_path)
    for scale in result["scales"].values():
        assert scale["psnr"]["ours"]["median_db"] > 60
        assert scale["psnr"]["ours"]["fifth_percentile_db"] > 53
        assert abs(scale["psnr"]["ours"]["mean_difference"]) < 0.05


def test_resume(data, tmp_path):
    assert len(run("data_resume", data, tmp_path)["seconds"]) == 6


@pytest.mark.slow
def test_memory(data, tmp_path):
    result = run("data_memory", data, tmp_path)
    assert result["four"]["samples"] == 4 * result["one"]["samples"]


@pytest.mark.slow
def test_loader(data, tmp_path):
    result = run("data_loader", data, tmp_path)
    assert {one["images"] for one in result["rounds"]["webdataset, 2 workers"]} == {24}
    assert result["missing"]


def test_rounds_begin_with_another_arm_each_time():
    turn = itertools.count()
    arms = {name: lambda: next(turn) for name in "abc"}
    assert measure.interleaved(arms, 2) == {"a": [0, 5], "b": [1, 3], "c": [2, 4]}


def test_goals_say_whether_they_are_met():
    assert measure.Goal("x", 10.0, 10).met
    assert not measure.Goal("x", 1.06, 1.05, at_least=False).met
    assert measure.ratio([4.0, 6.0, 9.0], [2.0, 2.0, 3.0]) == 3.0


def test_checkpoint_stall(data, tmp_path):
    result = run("checkpoint_stall", data, tmp_path)
    assert all(len(values) == 2 for values in result["seconds"].values())
