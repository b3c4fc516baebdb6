"""How large a cluster is."""

import json
from math import inf
from pathlib import Path

import pytest

from nml_ray.cluster import size as sizes
from nml_ray.cluster.config import cluster_of, read_cluster
from nml_ray.cluster.job_server import JobServer
from nml_ray.cluster.size import gpus_here, of_nodes, size_of_cluster
from nml_ray.config.cores import whole_cores
from nml_ray.config.errors import UserError
from tests.dashboard import dashboard

CLUSTERS = Path(__file__).parents[2] / "cluster"


def test_slurm_and_kuberay_say_it_in_their_files() -> None:
    slurm = {"kind": "slurm", "directory": "/x", "time": "1:00:00", "nodes": 2, "gpus_per_node": 4}
    size = size_of_cluster(cluster_of({**slurm, "cpus_per_node": 8}))
    assert size and size.nodes == ({"CPU": 8, "GPU": 4},) * 2
    size = size_of_cluster(cluster_of(slurm))  # CPUs are not said: all of a node's
    assert size and size.nodes == ({"CPU": inf, "GPU": 4},) * 2
    kuberay = {"kind": "kuberay", "image": "i"}
    groups = [{"name": "a", "cpus": 2, "replicas": 1, "most": 3}, {"name": "b", "cpus": 4, "gpus": 1}]
    size = size_of_cluster(cluster_of({**kuberay, "workers": groups}))
    assert size and size.nodes == ({"CPU": 2, "GPU": 0},) * 3 + ({"CPU": 4, "GPU": 1},)
    size = size_of_cluster(cluster_of({**kuberay, "head": {"name": "head", "cpus": 3}}))
    assert size and size.nodes == ({"CPU": 3, "GPU": 0},)


def test_a_launchers_document_says_what_it_may_grow_to() -> None:
    def of(name: str):
        found = size_of_cluster(read_cluster(CLUSTERS / f"launcher_{name}.yaml")[0])
        assert found
        return found

    gcp = of("gcp")
    head, gpu = {"CPU": 4, "GPU": 0}, {"CPU": 8, "GPU": 1}
    assert (gcp.nodes, gcp.most) == ((head, *(head,) * 4, *(gpu,) * 4), 5)
    assert of("aws").nodes[0] == {"CPU": inf, "GPU": inf}  # Ray finds out what such a machine has
    assert of("on_premise").nodes == ({"CPU": inf, "GPU": inf},) * 3


def test_this_machine() -> None:
    size = size_of_cluster(cluster_of({"kind": "local"}))
    assert size and size.nodes == ({"CPU": whole_cores(), "GPU": gpus_here()},)


def test_gpus_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "_OTHER_DRIVERS", (tmp_path / "kfd",))
    monkeypatch.setattr(sizes, "_DRIVER", tmp_path / "gpus")
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    assert gpus_here({}) == 2
    visible = {"0": 1, "0,1,2": 2, "": 0, "-1": 0, "GPU-8f": 1}
    assert {text: gpus_here({"CUDA_VISIBLE_DEVICES": text}) for text in visible} == visible
    (tmp_path / "kfd").touch()
    assert gpus_here({}) == inf


def test_a_running_cluster_tells_it() -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0, "memory": 1e9}, {"CPU": 2.0}]
    with dashboard(nodes) as address:
        told = JobServer(address).nodes()
    assert told == nodes
    assert of_nodes(tuple(told)).now and "run.wait_minutes" in of_nodes(()).enlarge


def test_one_that_does_not_tell_it_is_told() -> None:
    with dashboard([], json.dumps({"data": {}})) as address, pytest.raises(UserError, match="does not say what its"):
        JobServer(address).nodes()
