"""`nml-ray submit` refuses what cannot run there before anything is sent, and says what it cannot know."""

from pathlib import Path

import pytest
import yaml

from nml_ray.cli import fitting
from nml_ray.cli.main import call
from nml_ray.cluster import registry
from nml_ray.data.shards import write_tar
from nml_ray.storage import patience
from nml_ray.storage.patience import Patience
from nml_ray.study import refusals
from tests.dashboard import dashboard
from tests.object_store import Bucket, Fault
from tests.submitted import code_directory

JOB = {
    "name": "wide",
    "data": {"icons": {}},
    "noise": {"ratios": [0]},
    "pretrain": {"batch": 64, "microbatch": 8, "encoder": {"width": 8, "size": 32}},
    "run": {"workers": 4},
}
SWEPT = {
    **JOB,
    "name": "swept",
    "heads": {"sweep": [{"head": "linear_probe"}]},
    "sweep": {"search": {"pretrain.epochs": [1, 2]}, "metric": "heads.score"},
}
SENDS = ("PUT", "POST")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = code_directory(tmp_path / "code")
    (directory / "wide.yaml").write_text(yaml.safe_dump(JOB))
    (directory / "swept.yaml").write_text(yaml.safe_dump(SWEPT))
    monkeypatch.chdir(directory)
    return directory


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error."""
    status = call(["submit", *arguments])
    output, errors = capsys.readouterr()
    assert (status, output) == (2, "") and errors.count("\n") == 1, errors
    assert registry.known() == []
    return errors


def at(address: str, storage: object) -> None:
    Path("lab.yaml").write_text(f"{{kind: address, address: '{address}', storage: '{storage}'}}")


def test_a_gpu_that_this_machine_lacks(code, capsys, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("nml_ray.cluster.size._OTHER_DRIVERS", ())
    for more in ([], ["--inline"]):
        errors = refused(capsys, "wide.yaml", "--cluster", "local", "--set", "run.device=cuda", *more)
        assert (
            "wide.yaml" in errors and "1 GPU each" in errors and "0 GPUs" in errors and "a machine with more" in errors
        )
    assert not (code / "runs").exists()


def test_a_stage_that_does_not_exist(code, capsys) -> None:
    assert "no stage 'hads' in this job" in refused(capsys, "job.yaml", "--cluster", "local", "--until", "hads")
    errors = refused(capsys, "swept.yaml", "--cluster", "local", "--until", "pretrain")
    assert "a sweep has no single stage" in errors


def test_data_that_is_not_there_and_storage_that_cannot_be_written(code, capsys, tmp_path) -> None:
    given = "data={shards: {pretrain: /no/data}}"
    assert "'/no/data' is no directory" in refused(capsys, "wide.yaml", "--cluster", "local", "--set", given)
    (tmp_path / "file").touch()
    place = str(tmp_path / "file/runs")
    assert "--storage: storage" in refused(capsys, "wide.yaml", "--cluster", "local", "--storage", place)


def test_a_disk_that_is_too_small(code, capsys, monkeypatch) -> None:
    monkeypatch.setattr(refusals, "checkpoint_bytes", lambda job, parameters, arms: parameters * 10**12)
    assert "checkpoints and encoders take up to" in refused(capsys, "wide.yaml", "--cluster", "local")


def test_a_running_cluster_without_room_on_storage_that_is_seen(code, capsys, bucket: Bucket) -> None:
    asked = list[str]()
    with dashboard([{"CPU": 2}, {"CPU": 4}], asked=asked) as address:
        at(address, bucket.at("runs"))
        errors = refused(capsys, "wide.yaml", "--cluster", "lab.yaml")
        assert "room for 3 (nodes: 1 with 2 CPUs, 1 with 4 CPUs)" in errors
        assert "more nodes or larger ones on the cluster (run.wait_minutes waits for them)" in errors
    assert not [one for one in asked if one.startswith(SENDS)]


@pytest.mark.long
def test_what_the_clusters_machines_may_know_better_is_said_and_sent(code, capsys, bucket: Bucket, monkeypatch) -> None:
    """The stand-in takes no job, so that it is the sending which fails."""
    monkeypatch.setattr(refusals, "_BRIEFLY", Patience(first=0.01, most=0.02, total=0.05))
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=0.01, most=0.02, total=0.05))

    def sent(*arguments: str) -> list[str]:
        asked = list[str]()
        with dashboard([{"CPU": 2}], asked=asked) as address:
            text = Path("lab.yaml").read_text().splitlines() if Path("lab.yaml").exists() else [""]
            at(address, text[0].partition("storage: '")[2].rstrip("'}") or "/far/runs")
            assert call(["submit", "wide.yaml", "--cluster", "lab.yaml", *arguments]) == 2
        assert [one for one in asked if one.startswith(SENDS)]
        return capsys.readouterr().err.splitlines()

    room, _ = sent()  # whether it is made already, only storage there tells
    assert room.startswith("nml-ray: room: not now, unless it is made already: wide.yaml")
    data, room, _ = sent("--set", "data={shards: {pretrain: /far/data}}")
    assert (
        data == ("nml-ray: stages: not looked at: data.shards.pretrain = /far/data is not on this machine")
        and "room" in room
    )
    bucket.faults.spoil = lambda method, path: Fault(status=403)
    at("http://x", bucket.at("runs"))
    storage, room, _ = sent()
    assert storage.startswith("nml-ray: storage: not from here, perhaps from the cluster's machines: ")
    assert "unless it is made already" in room
    bucket.faults.spoil = lambda method, path: None
    (waits,) = [line for line in sent("--set", "run.wait_minutes=5") if "room" in line]  # for nodes that come
    assert "not now" in waits


def test_a_sweep_whose_trials_have_no_room(code, capsys, bucket: Bucket) -> None:
    with dashboard([{"CPU": 2}]) as address:
        at(address, bucket.at("runs"))
        assert "room for 1 (nodes: 1 with 2 CPUs)" in refused(capsys, "swept.yaml", "--cluster", "lab.yaml")


@pytest.mark.long
def test_published_weights_may_lie_in_another_machines_cache(code, capsys, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(code / "no-cache"))
    job = {
        "name": "hub",
        "data": {"icons": {}},
        "encoders": [{"name": "transformers:nobody/nothing", "pooling": "cls"}],
        "extract": {},
    }
    (code / "hub.yaml").write_text(yaml.safe_dump(job))
    assert "the weights of transformers:nobody/nothing are not on this machine" in refused(
        capsys, "hub.yaml", "--cluster", "local"
    )
    with dashboard([{"CPU": 2}]) as address:
        at(address, "/far/runs")
        assert call(["plan", "hub.yaml", "--cluster", "lab.yaml"]) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("stages: not told") and "are not on this machine" in first
    job["encoders"] = [{"name": "small_resnet", "size": 32, "weights": "weights.pth"}]  # is not sent either
    (code / "hub.yaml").write_text(yaml.safe_dump(job))
    with dashboard([{"CPU": 2}]) as address:
        at(address, "/far/runs")
        assert "weights: weights.pth: cannot be read" in refused(capsys, "hub.yaml", "--cluster", "lab.yaml")


def test_data_is_not_indexed_for_a_look(code, capsys) -> None:
    (code / "tars").mkdir()
    write_tar(code / "tars/x-0.tar", [("k0", {"png": b"image", "cls": b"0"})])
    given = "data={shards: {pretrain: tars}}"
    assert call(["plan", "wide.yaml", "--cluster", "local.yaml", "--set", given]) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith("data.shards.pretrain = tars is not indexed, see `nml-ray data index`")
    assert [path.name for path in (code / "tars").iterdir()] == ["x-0.tar"]


def test_code_that_a_job_server_does_not_take(code, capsys, monkeypatch) -> None:
    monkeypatch.setattr(fitting, "_MOST_ZIPPED", 10_000)
    asked = list[str]()
    with dashboard([{"CPU": 8}], asked=asked) as address:
        at(address, "/far/runs")
        assert "as a zip, and a job server takes 100 MiB; expected code.exclude" in refused(
            capsys, "wide.yaml", "--cluster", "lab.yaml"
        )
    assert not [one for one in asked if one.startswith(SENDS)]
