"""`nml-ray plan JOB --cluster CLUSTER` refuses what cannot work there."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.storage import patience
from nml_ray.storage.patience import Patience
from tests.dashboard import dashboard
from tests.submitted import code_directory

SLURM = (
    'kind: slurm\ndirectory: {0}/slurm\ntime: "60"\nnodes: 2\ncpus_per_node: 4\ngpus_per_node: 1\ngpu_hour_price: 2\n'
)


FAR = """
name: far
data: {shards: {pretrain: /far/x}}
noise: {ratios: [0]}
pretrain: {batch: 64}
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = code_directory(tmp_path / "code")
    (directory / "lab.yaml").write_text(SLURM.format(tmp_path))
    monkeypatch.chdir(directory)
    return directory


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = call(["plan", *arguments, "--cluster", "lab.yaml"])
    output, errors = capsys.readouterr()
    return status, output, errors


def test_a_relative_storage_is_refused_with_the_fix(code, capsys) -> None:
    status, _, errors = planned(capsys, "demo")
    assert status == 2 and "storage 'runs' is relative" in errors and "--storage" in errors


def test_more_workers_than_there_is_room_for_are_refused(code, capsys, tmp_path) -> None:
    settings = (
        "--set",
        "run.workers=3",
        "--set",
        "threads=3",
        "--set",
        "pretrain.microbatch=64",
        "--storage",
        str(tmp_path / "runs"),
    )
    status, _, errors = planned(capsys, "demo", *settings)
    assert status == 2 and "room for 2 (nodes: 2 with 4 CPUs)" in errors and errors.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_what_fits_is_told_with_its_cost(code, capsys, tmp_path) -> None:
    with dashboard([{"CPU": 16, "GPU": 1}]) as address:
        (code / "lab.yaml").write_text(f"{{kind: address, address: '{address}', gpu_hour_price: 2}}")
        storage = ("--storage", str(tmp_path / "runs"))
        assert call(["run", "demo", "--inline", "--until", "shards", *storage]) == 0
        capsys.readouterr()
        status, output, errors = planned(capsys, "demo", "--set", "run.device=cuda", "--gpu", "H100", *storage)
        assert (status, errors) == (0, "")
        assert "pretrain/symmetric-0/seed-0    unknown" in output and "1 cached" in output
        *_, last = output.splitlines()
        told = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
        assert told["code"].endswith("of at most 100MiB")
        assert told["storage"] == f"{tmp_path}/runs lies on the cluster's machines, and is not looked at from here"
        assert f"cluster: Ray {metadata.version('ray')} at {address}: asks for no token" in output
        for kind in ("pre-training", "extraction", "heads"):
            assert " USD (" in told[f"GPU-hours of {kind}"]
        assert told["GPU-hours in all"].endswith(" USD")
        assert "GPU-hours are those of one H100 at 30% of its peak, as if nothing were made already" in output
        assert last.startswith("decoding: ") and "run.decode_threads=" in last and "nml-ray doctor" in last
        status, _, errors = planned(capsys, "demo", "--set", "run.device=cuda", "--gpu", "Z9", *storage)
        assert status == 2 and "--gpu: GPU 'Z9'; expected one of B200" in errors


def test_a_processor_has_no_gpu_hours_and_its_disk_is_looked_at(code, capsys) -> None:
    (code / "lab.yaml").write_text("kind: local")
    status, output, errors = planned(capsys, "demo")
    assert (status, errors) == (0, "")
    told = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
    assert told["storage"] == f"{code}/runs can be written" and told["GPU-hours"] == "none, run.device is cpu"
    assert told["disk"].startswith("checkpoints and encoders take up to ")
    assert not (code / "runs").exists()


def test_a_cluster_that_does_not_answer_is_refused(code, capsys) -> None:
    (code / "lab.yaml").write_text("{kind: address, address: 'http://127.0.0.1:9', storage: /far/runs}")
    status, known, errors = planned(capsys, "demo")
    assert "17 stages: " in known
    assert status == 2 and "http://127.0.0.1:9: nothing listens there" in errors and errors.count("\n") == 1


def test_data_on_the_clusters_machines_leaves_the_stages_open(code, capsys) -> None:
    with dashboard([{"CPU": 1}]) as address:
        (code / "lab.yaml").write_text(f"{{kind: address, address: '{address}', storage: /far/runs}}")
        (code / "far.yaml").write_text(FAR)
        status, output, errors = planned(capsys, "far.yaml")
        assert (status, errors) == (0, "")
        first, *_ = output.splitlines()
        assert (
            first == "stages: not told, for they depend on data: data.shards.pretrain = /far/x is not on this machine"
        )
        assert "warning: room: not now, unless it is made already: far.yaml" in output
        status, _, errors = planned(capsys, "far.yaml", "--until", "pretrane")
        assert status == 2 and "did you mean 'pretrain'?" in errors


def test_an_object_store_that_does_not_answer_is_refused(code, capsys, monkeypatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=0.01, most=0.02, total=0.1))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "not-a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("XDG_CACHE_HOME", str(code / "cache"))
    url = "s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http"
    for words in (["plan", "demo", "--storage", url], ["gc", "--storage", url]):
        status = call(words)
        _, errors = capsys.readouterr()
        assert status == 2 and "cannot be reached, tried" in errors and errors.count("\n") == 1


def test_the_plan_of_the_demo_for_a_cluster_needs_no_torch(code) -> None:
    words = ["plan", "demo", "--cluster", "local"]
    told = f"from nml_ray.cli.main import call; import sys; print(call({words}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def test_the_disk_that_a_sweep_takes_is_told(code, capsys) -> None:
    (code / "lab.yaml").write_text("kind: local")
    status, output, _ = planned(capsys, "sweep_random")
    assert status == 0 and "disk: checkpoints and encoders take up to " in output
