"""A study whose storage is on an object store: the bits of a local one, and nothing lost with the machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.data.shards import Sample, write_shards
from nml_ray.storage import remote
from tests.object_store import Bucket, Fault
from tests.small_images import picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

JOB = """
name: small
data:
  shards: {{pretrain: "{data}/pretrain", train: "{data}/train", validation: "{data}/train", test: "{data}/test"}}
noise: {{ratios: [0, 0.25]}}
pretrain:
  epochs: 3
  batch: 16
  microbatch: 8
  encoder: {{name: small_resnet, width: 4, size: 16}}
extract: {{batch: 16}}
heads: {{seeds: [0], sweep: [{{head: linear_probe, search: {{learning_rate: [0.1]}}}}]}}
run: {{storage: "{storage}", scratch: "{scratch}", checkpoint_steps: 2, trackers: []}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    for split, first in (("pretrain", 0), ("train", 100), ("test", 200)):
        samples = [Sample(f"{split}{i}", picture(first + i, "png", (20, 18)), "png", i % 4) for i in range(48)]
        write_shards(samples, directory / split, samples_per_shard=12, classes=["a", "b", "c", "d"])
    return directory


def job(tmp_path: Path, data: Path, storage: object, scratch: str) -> str:
    file = tmp_path / f"{scratch}.yaml"
    file.write_text(JOB.format(data=data, storage=storage, scratch=tmp_path / scratch))
    return str(file)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    here = tmp_path_factory.mktemp("local")
    assert call(["run", job(here, data, here / "runs", "none"), "--inline"]) == 0
    return here / "runs"


ENDINGS = {
    "pretrain": (".safetensors", "curves.parquet"),
    "extract": (".features.arrow", ".sums.npz"),
    "heads": ("results.json",),
    "ledger": ("ledger.parquet",),
}


def left(root: Path) -> dict[str, bytes]:
    """What defines the results below a storage, by artifact."""
    found = {}
    for file in root.glob("*/*/record.json"):
        attempt = file.parent / json.loads(file.read_bytes())["attempt"]
        for path in attempt.rglob("*"):
            if path.name.endswith(ENDINGS.get(file.parts[-3], ())) and "best" not in path.parts:
                found["/".join((*file.parts[-3:-1], path.relative_to(attempt).as_posix()))] = path.read_bytes()
    return found


def working_root(tmp_path: Path, scratch: str) -> Path:
    (root,) = (tmp_path / scratch).iterdir()
    return root


def names(bucket: Bucket) -> list[str]:
    try:
        return [one.name for one in remote.objects(bucket.at("runs"))]
    except remote.NotThere:
        return []


def test_the_same_as_on_a_disk_and_once(bucket: Bucket, data, undisturbed, tmp_path, capsys, monkeypatch):
    """Through a store that is busy now and then."""
    turn = [0]

    def spoil(method: str, path: str) -> Fault | None:
        turn[0] += 1
        return (Fault(503), Fault(keep=20))[turn[0] % 2] if turn[0] % 40 < 2 else None

    bucket.faults.spoil = spoil
    first = job(tmp_path, data, bucket.at("runs"), "one")
    assert call(["run", first, "--inline"]) == 0
    bucket.faults.spoil = lambda method, path: None
    assert left(working_root(tmp_path, "one")) == left(undisturbed)
    left_there = names(bucket)
    assert not any("/bundles/checkpoints/" in name for name in left_there)
    assert {"studies/small/report.html", "studies/small/job.yaml", "studies/small/stages.json"} <= set(left_there)
    for scratch in ("one", "two"):  # the same machine, and one that has nothing
        again = job(tmp_path, data, bucket.at("runs"), scratch)
        capsys.readouterr()
        bucket.faults.asked.clear()
        assert call(["run", again, "--inline"]) == 0
        assert {n for n in names(bucket) if "/attempt-" in n} == {n for n in left_there if "/attempt-" in n}
        assert not any(method in ("PUT", "POST") and "/studies/" not in path for method, path in bucket.faults.asked)
    assert not list(working_root(tmp_path, "two").glob("extract/*/attempt-*")), "brought for nothing"
    assert call(["plan", again]) == 0
    said = capsys.readouterr().out
    assert "to do" not in said and f"storage: s3://{bucket.name}/runs" in said and "never spoil it" in said
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert call(["audit", f"s3://{bucket.name}/runs/studies/small"]) == 0
    assert call(["report", "small", "--storage", f"s3://{bucket.name}/runs"]) == 0
    record = next(name for name in left_there if name.startswith("pretrain/") and name.endswith("/record.json"))
    assert call(["audit", f"s3://{bucket.name}/runs/{record.removesuffix('/record.json')}"]) == 0
    with pytest.raises(SystemExit):
        raise SystemExit(call(["report", "large", "--storage", f"s3://{bucket.name}/runs"]))
    assert "no study 'large'" in capsys.readouterr().err
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(b"not-a-secret" in data or b"not-a-key" in data for data in written)


def kill_once(command: list[str], bucket: Bucket, sign: str, artifacts: int) -> None:
    """Start a run and kill it as soon as so many artifacts have an object with that in its name."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if len({name.split("/")[1] for name in names(bucket) if sign in name}) >= artifacts:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.05)
    raise AssertionError(f"the run ended ({process.returncode}) before there was {sign}")


@pytest.mark.kill
def test_killed_and_gone_with_its_machine(bucket: Bucket, data, undisturbed, tmp_path, monkeypatch):
    signs = {"one": ("/bundles/checkpoints/step-", 2), "two": ("/bundles/shards/", 1)}
    for scratch, (sign, artifacts) in signs.items():
        file = job(tmp_path, data, bucket.at("runs"), scratch)
        kill_once([sys.executable, "-m", "nml_ray", "run", file, "--inline"], bucket, sign, artifacts)
        shutil.rmtree(tmp_path / scratch)
    assert call(["run", job(tmp_path, data, bucket.at("runs"), "three"), "--inline"]) == 0
    root = working_root(tmp_path, "three")
    assert left(root) == left(undisturbed)
    for record in root.glob("pretrain/*/record.json"):
        begun, resumed = json.loads(record.read_bytes())["lineage"]
        assert begun["from_step"] == 0 and 0 < resumed["from_step"] <= 9
    extracted = [json.loads(file.read_bytes()) for file in root.glob("extract/*/*/.files.json")]
    assert any("attempt-0001" in at for files in extracted for _, _, at in files.values()), "shards of the killed run"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert call(["audit", f"s3://{bucket.name}/runs/studies/small"]) == 0
