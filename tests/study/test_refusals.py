"""What a cluster or its storage has no room for is refused with the fix."""

from pathlib import Path

import pytest

from nml_ray.cluster.config import cluster_of
from nml_ray.cluster.size import size_of_cluster
from nml_ray.config.document import Document
from nml_ray.config.errors import UserError
from nml_ray.config.validate import validate
from nml_ray.storage import patience
from nml_ray.storage.location import Location
from nml_ray.storage.patience import Patience
from nml_ray.study import refusals
from nml_ray.study.job import Job
from nml_ray.study.refusals import checkpoint_bytes, gpu_hours, refuse_disk, refuse_room, refuse_storage
from tests.object_store import Bucket, Fault

ENLARGE = "nodes"


def job_of(**run) -> tuple[Job, Document]:
    document = Document(
        "job.yaml",
        {
            "name": "s",
            "data": {"icons": {}},
            "noise": {"ratios": ["0", "0.1", "0.2"]},
            "pretrain": {"seeds": [0, 1], "batch": 64, "microbatch": 4},
            "extract": {},
            "heads": {"sweep": [{"head": "linear_probe"}]},
            "run": run,
        },
    )
    return validate(Job, document), document


def room(nodes, kinds=("pretrain", "extract", "heads"), **run) -> list[str]:
    return refuse_room(*job_of(**run), nodes, ENLARGE, kinds)


def test_workers_live_on_one_node_each() -> None:
    assert room([{"CPU": 4}], workers=2) == ["room: 2 runs of pre-training, up to 1 at a time"]
    with pytest.raises(UserError) as refused:
        room([{"CPU": 3}, {"CPU": 1}], workers=2)
    assert str(refused.value) == (
        "job.yaml: pre-training takes 2 process(es) that need 2 CPUs each, on one node; the cluster has"
        " room for 1 (nodes: 1 with 3 CPUs, 1 with 1 CPU); expected more nodes in the cluster file, or less"
        " run.workers, threads or run.decode_threads"
    )


def test_only_what_is_to_do_counts() -> None:
    assert room([{"CPU": 1}], kinds=("heads",), workers=2) == []
    with pytest.raises(UserError, match=r"extraction takes 1 .* need 2 CPUs"):
        room([{"CPU": 1}], kinds=("extract",))


def test_gpus_count_where_they_are_asked_for() -> None:
    nodes = [{"CPU": 8, "GPU": 2}] * 2
    assert room(nodes, workers=4, device="cuda") == ["room: 2 runs of pre-training, up to 1 at a time"]
    with pytest.raises(UserError, match=r"2 CPUs and 1 GPU each.*room for 4 \(nodes: 2 with 8 CPUs and 2 GPUs\)"):
        room(nodes, workers=5, device="cuda")
    with pytest.raises(UserError, match=r"extraction .* 3 GPUs each"):
        room(nodes, kinds=("extract",), device="cuda", extract_gpus=3)
    assert room(nodes, kinds=("extract",), device="cuda", extract_gpus=0.1) == []
    with pytest.raises(UserError, match=r"fitting heads .*run.head_device: cpu"):
        room([{"CPU": 8}], kinds=("heads",), head_device="cuda")


def test_fewer_workers_than_wished_and_trials_side_by_side_are_said() -> None:
    assert room([{"CPU": 6}], workers=[2, 8])[0] == "room: pre-training gets 3 of up to 8 workers"
    assert room([{"CPU": 8}], arms="sweep") == ["room: 6 runs of pre-training, up to 4 at a time"]
    assert room([{"CPU": 8}], arms_per_worker=2) == ["room: 4 runs of pre-training, up to 4 at a time"]


def test_the_size_of_a_cluster() -> None:
    slurm = {"kind": "slurm", "directory": "/x", "time": "1:00:00", "nodes": 2, "gpus_per_node": 4}
    size = size_of_cluster(cluster_of({**slurm, "cpus_per_node": 8}))
    assert size and size.nodes == ({"CPU": 8, "GPU": 4},) * 2
    size = size_of_cluster(cluster_of(slurm))  # CPUs are not said: all of a node's
    assert size and room(size.nodes, workers=8, device="cuda")
    with pytest.raises(UserError, match=r"room for 8 \(nodes: 2 with 4 GPUs\)"):
        room(size.nodes, ("pretrain",), workers=16, device="cuda")
    kuberay = {"kind": "kuberay", "image": "i"}
    groups = [{"name": "a", "cpus": 2, "replicas": 1, "most": 3}, {"name": "b", "cpus": 4, "gpus": 1}]
    size = size_of_cluster(cluster_of({**kuberay, "workers": groups}))
    assert size and size.nodes == ({"CPU": 2, "GPU": 0},) * 3 + ({"CPU": 4, "GPU": 1},)
    size = size_of_cluster(cluster_of({**kuberay, "head": {"name": "head", "cpus": 3}}))
    assert size and size.nodes == ({"CPU": 3, "GPU": 0},)
    assert size_of_cluster(cluster_of({"kind": "local"})) is None


def test_storage_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    refuse_storage(Location("", str(tmp_path / "new/runs")), "--storage")
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--storage: storage .*file/runs cannot be written .*; expected a directory"):
        refuse_storage(Location("", str(tmp_path / "file/runs")), "--storage")


@pytest.mark.long
def test_an_object_store_is_written_to(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_BRIEFLY", Patience(first=0.01, most=0.02, total=0.5))
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=0.01, most=0.02, total=0.5))
    refuse_storage(bucket.at("runs"), "--storage")
    assert [method for method, path in bucket.faults.asked if "writable-" in path and method == "DELETE"]
    bucket.faults.spoil = lambda method, path: Fault(status=403) if method in ("PUT", "POST") else None
    with pytest.raises(UserError, match=r"--storage: storage cannot be written: .*credentials"):
        refuse_storage(bucket.at("runs"), "--storage")


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    assert refuse_disk(tmp_path / "runs", 1000, "--storage").startswith(
        "disk: checkpoints and encoders take up to 1 kB"
    )
    with pytest.raises(UserError, match=r"--storage: .* take up to 1e\+09 GB.* free; expected .*nml-ray gc"):
        refuse_disk(tmp_path / "runs", 10**18, "--storage")


def test_bytes_of_checkpoints_and_hours() -> None:
    job, _ = job_of(keep_checkpoints=2)
    weights = 4 * 1000
    state = 2 * weights  # AdamW keeps two values for each weight
    assert checkpoint_bytes(job, 1000, 6) == 3 * 3 * (weights + state) + 6 * weights
    sweep, _ = job_of(arms="sweep")
    assert checkpoint_bytes(sweep, 1000, 6) == 6 * 3 * (weights + state) + 6 * weights
    # ResNet-50 for 90 epochs of ImageNet, at 30 % of an A100's 16-bit peak
    assert gpu_hours(90 * 1.28e6, 8.2e9, 1, 312e12) == pytest.approx(8.41, abs=0.01)
