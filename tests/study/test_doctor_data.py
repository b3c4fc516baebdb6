"""The doctor reads a data set on an object store as the job would: through the job's cache."""

from pathlib import Path

from nml_ray.data.reader import ShardReader
from nml_ray.data.shards import Sample, write_shards
from nml_ray.study.doctor.examine import _data, _downstream, _samples
from nml_ray.study.job import Job
from tests.object_store import Bucket
from tests.small_images import picture


def test_the_cache_of_the_job(bucket: Bucket, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    samples = [Sample(f"{i}", picture(i, "png"), "png", i % 2) for i in range(4)]
    write_shards(samples, tmp_path / "tars", samples_per_shard=2, classes=["a", "b"])
    url = str(bucket.put(tmp_path / "tars", "tars"))
    document = {
        "name": "x",
        "data": {"shards": {"pretrain": url, "train": url}},
        "noise": {"ratios": ["0"]},
        "pretrain": {"batch": 2},
        "run": {"shard_cache": str(tmp_path / "own"), "shard_cache_size": "7MB"},
    }
    job = Job.model_validate(document)
    for data in (None, url):
        with _data(job, data, print) as dataset:
            assert dataset is not None and len(ShardReader(dataset).read(0))
            assert dataset.files.cache.directory == tmp_path / "own" and dataset.files.cache.limit == 7_000_000
    assert _samples(job, "train") == 4
    assert list((tmp_path / "own" / "files").iterdir()) and not (tmp_path / "user").exists()
    with _data(None, url, print) as dataset:
        assert dataset is not None and dataset.files.cache.directory == tmp_path / "user/nml_ray/shards"
    with _data(None, str(tmp_path / "tars"), print) as dataset:
        assert dataset is not None and not dataset.files.remote


def test_images_of_tasks_count_once_each(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in {"train": 6, "test": 3, "other": 2}.items():
        samples = [Sample(f"{name}{i}", picture(i, "png"), "png", i % 2) for i in range(count)]
        write_shards(samples, tmp_path / "task_data" / name, samples_per_shard=4, classes=["a", "b"])
    for name in ("one", "two"):
        sets = {"one": "test: test\nood: {o: other}", "two": "test: other\nood: {o: test}"}
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\ntrain: train\n{sets[name]}\n")
    tasks = {"name": "x", "encoders": [{"name": "small_resnet"}], "tasks": ["one.yaml", "two.yaml"], "heads": {}}
    assert _downstream(Job.model_validate(tasks)) == 6 + 3 + 2
    place = str(tmp_path / "task_data/train")
    beside = {"data": {"shards": dict.fromkeys(("train", "validation", "test"), place)}}
    assert _downstream(Job.model_validate({**tasks, **beside})) == 3 * 6 + 11
    assert _downstream(Job.model_validate({**tasks, **beside, "tasks": []})) == 3 * 6
