"""How large a cluster is, as its file says."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from nml_ray.cluster.config import AnyCluster, KubeRayCluster, SlurmCluster


@dataclass(frozen=True)
class Size:
    """The nodes on which work is placed, each with what it has by Ray's names (CPU inf: not said), and what in the
    cluster file makes it larger."""

    nodes: tuple[Mapping[str, float], ...]
    enlarge: str


def size_of_cluster(cluster: AnyCluster) -> Size | None:
    """The cluster when it is as large as it may grow; None of kinds whose file does not say it."""
    if isinstance(cluster, SlurmCluster):
        node = {"CPU": float(cluster.cpus_per_node or inf), "GPU": float(cluster.gpus_per_node)}
        return Size((node,) * cluster.nodes, "nodes, cpus_per_node and gpus_per_node")
    if isinstance(cluster, KubeRayCluster):
        groups = cluster.workers or (cluster.head,)  # beside workers the head takes none of the work
        nodes = [
            {"CPU": float(group.cpus), "GPU": float(group.gpus)}
            for group in groups
            for _ in range(group.most or group.replicas if cluster.workers else 1)
        ]
        return Size(tuple(nodes), "cpus, gpus and replicas (or most) of its workers")
    return None
