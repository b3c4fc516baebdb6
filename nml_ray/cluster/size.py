"""How large a cluster is: as its file says, as this machine is, or as a running one tells."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from nml_ray.cluster.config import AnyCluster, KubeRayCluster, LauncherCluster, LocalCluster, SlurmCluster
from nml_ray.config.cores import whole_cores

_MOST_WORKERS = 2  # of Ray's launcher, where the document does not say it
_DRIVER = Path("/proc/driver/nvidia/gpus")
_OTHER_DRIVERS = (Path("/dev/kfd"), Path("/dev/dxg"))  # AMD's, and those that a Windows hands to its Linux


@dataclass(frozen=True)
class Size:
    """The nodes on which work is placed, each with what it has by Ray's names (inf: not known).

    Attributes:
        nodes: when it is as large as it may grow.
        enlarge: what gives it more room, for messages.
        most: of the nodes that there are at once; all when None.
        now: whether these are the nodes at present: nobody says whether there may be more.
    """

    nodes: tuple[Mapping[str, float], ...]
    enlarge: str
    most: int | None = None
    now: bool = False


def size_of_cluster(cluster: AnyCluster) -> Size | None:
    """The cluster as its file says, or this machine; None where only the cluster itself can tell."""
    if isinstance(cluster, LocalCluster):
        return Size(({"CPU": float(whole_cores()), "GPU": gpus_here()},), "a machine with more")
    if isinstance(cluster, SlurmCluster):
        node = {"CPU": float(cluster.cpus_per_node or inf), "GPU": float(cluster.gpus_per_node)}
        return Size((node,) * cluster.nodes, "more nodes, cpus_per_node and gpus_per_node in the cluster file")
    if isinstance(cluster, KubeRayCluster):
        groups = cluster.workers or (cluster.head,)  # beside workers the head takes none of the work
        nodes = [
            {"CPU": float(group.cpus), "GPU": float(group.gpus)}
            for group in groups
            for _ in range(group.most or group.replicas if cluster.workers else 1)
        ]
        return Size(tuple(nodes), "more cpus, gpus and replicas (or most) of its workers in the cluster file")
    if isinstance(cluster, LauncherCluster):
        return _of_document(cluster.ray)
    return None


def of_nodes(nodes: tuple[Mapping[str, float], ...]) -> Size:
    """A cluster that runs, by what its nodes have."""
    return Size(nodes, "more nodes or larger ones on the cluster (run.wait_minutes waits for them)", now=True)


def _of_document(document: Mapping[str, Any]) -> Size | None:
    """What a launcher's document may grow to."""
    provider, types = document["provider"], document.get("available_node_types", {})
    if provider["type"] == "local":
        machine = {"CPU": inf, "GPU": inf}
        return Size((machine,) * (1 + len(provider["worker_ips"])), "more worker_ips in the cluster file")
    if not types:
        return None
    most = int(document.get("max_workers", _MOST_WORKERS))
    finds_out = provider["type"] == "aws"
    nodes = [_resources(types[document["head_node_type"]], finds_out)]
    for one in types.values():
        nodes += [_resources(one, finds_out)] * min(most, int(one.get("max_workers", most)))
    return Size(tuple(nodes), "more max_workers and resources of the node types in the cluster file", most + 1)


def _resources(node_type: Mapping[str, Any], finds_out: bool) -> Mapping[str, float]:
    """Ray itself finds out what AWS's machines have; elsewhere what is said counts."""
    given = node_type.get("resources") or {}
    gpus = inf if finds_out or not given else 0.0
    return {"CPU": float(given.get("CPU", inf)), "GPU": float(given.get("GPU", gpus))}


def gpus_here(environment: Mapping[str, str] = os.environ) -> float:
    """GPUs of this machine that CUDA_VISIBLE_DEVICES leaves, without asking torch; inf where it is not known."""
    if any(path.exists() for path in _OTHER_DRIVERS):
        return inf
    count = float(len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else _listed())
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    named = [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1", "NoDevFiles")]
    return min(count, float(len(named)))


def _listed() -> int:
    """GPUs that NVIDIA's own tool lists; 0 where there is none."""
    if not (tool := shutil.which("nvidia-smi")):
        return 0
    try:
        done = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
