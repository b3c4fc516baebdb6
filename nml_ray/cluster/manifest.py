"""What Kubernetes is given for a job: ConfigMaps with its code, and a RayJob. Pure: plain data in, plain data out.

The RayJob is in KubeRay's K8sJobMode: the driver runs on the head pod as a job of Ray's job server, and a small pod
beside it hands it over, shows its log, and hands it over anew where the head was lost, at most `restarts` times; the
run then goes on from its checkpoint. KubeRay's own retries (`backoffLimit`) would also repeat work that failed by
itself, each time on a new cluster: there are none.

KubeRay makes the token (a Secret) of each cluster and gives it to the pods. The dashboard listens in the pods' network
only, where the operator needs it, and asks for the token.
"""

import base64
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nml_ray.cluster.command import job_command
from nml_ray.cluster.config import KubeRayCluster, Node
from nml_ray.cluster.submission import Submission
from nml_ray.ray_environment import SETTINGS

PART = 900 * 1024  # bytes of the code in a ConfigMap: Kubernetes takes 1 MiB, names and scripts included
PARTS = 12  # ConfigMaps of one job
MANAGED_BY, SUBMISSION = "app.kubernetes.io/managed-by", "nml-ray/submission"
MANAGER = "nml-ray"
SUBMITTER = "ray-job-submitter"  # KubeRay's name for that container

_CODE, _SENT = "/nml/code", "/nml/sent"
_MARGIN = 30  # seconds that a pod has beyond those in which the job reaches its checkpoint
_SMALL = {"cpu": "500m", "memory": "1Gi"}

Manifest = dict[str, Any]


def manifests(cluster: KubeRayCluster, submission: Submission, code: bytes, ray_version: str) -> list[Manifest]:
    """All documents of a job, in the order in which they are sent.

    Args:
        cluster: the cluster file.
        submission: its id becomes the name of everything.
        code: the package as a zip, at most `PART` x `PARTS` bytes.
        ray_version: that of the image.
    """
    parts = [code[start : start + PART] for start in range(0, len(code), PART)]
    maps = [_config_map(f"{submission.id}-code-{number}", submission) for number in range(len(parts))]
    for number, part in enumerate(parts):
        maps[number]["binaryData"] = {_part(number): base64.b64encode(part).decode()}
    scripts = _config_map(f"{submission.id}-scripts", submission)
    scripts["data"] = {"driver.sh": driver_script(cluster, submission), "unpack.sh": _unpack_script(cluster)}
    return [*maps, scripts, _ray_job(cluster, submission, [one["metadata"]["name"] for one in maps], ray_version)]


def driver_script(cluster: KubeRayCluster, submission: Submission) -> str:
    """The script that Ray's job server runs on the head."""
    words = job_command(submission, cluster.python, stop_seconds=cluster.stop_seconds)
    return f"#!/bin/sh\ncd {_CODE} || exit 127\nexec {shlex.join(words)}\n"


def _unpack_script(cluster: KubeRayCluster) -> str:
    python = shlex.quote(cluster.python)
    return f"set -eu\ncat {_SENT}/code.zip.* > /tmp/code.zip\n{python} -m zipfile -e /tmp/code.zip {_CODE}\n"


def _config_map(name: str, submission: Submission) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels(submission)}}


def labels(submission: Submission) -> dict[str, str]:
    """By which all that belongs to a submission is found."""
    return {MANAGED_BY: MANAGER, SUBMISSION: submission.id}


def _part(number: int) -> str:
    return f"code.zip.{number:03d}"


def _ray_job(cluster: KubeRayCluster, submission: Submission, code: Sequence[str], ray_version: str) -> Manifest:
    spec: Manifest = {
        "entrypoint": f"sh {_SENT}/driver.sh",  # without a character that a shell would read: three of them do
        "jobId": submission.id,
        "submissionMode": "K8sJobMode",
        "submitterConfig": {"backoffLimit": cluster.restarts},
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": cluster.keep_minutes * 60,
        "submitterPodTemplate": _submitter(cluster, submission),
        "rayClusterSpec": _ray_cluster(cluster, submission, code, ray_version),
    }
    if cluster.most_hours is not None:
        spec["activeDeadlineSeconds"] = max(1, round(cluster.most_hours * 3600))
    metadata = {"name": submission.id, "labels": labels(submission)}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _ray_cluster(cluster: KubeRayCluster, submission: Submission, code: Sequence[str], ray_version: str) -> Manifest:
    grows = any(_most(group) > group.replicas for group in cluster.workers)
    head: Manifest = {
        "serviceType": "ClusterIP",
        "rayStartParams": {"dashboard-host": "0.0.0.0", **({"num-cpus": "0"} if cluster.workers else {})},
        "template": _pod(cluster, submission, cluster.head, code, "head", grows),
    }
    spec: Manifest = {
        "rayVersion": ray_version,
        "authOptions": {"mode": "token"},
        "headGroupSpec": head,
        "workerGroupSpecs": [
            {
                "groupName": group.name,
                "replicas": group.replicas,
                "minReplicas": group.replicas,
                "maxReplicas": _most(group),
                "rayStartParams": {},
                "template": _pod(cluster, submission, group, code, "worker", False),
            }
            for group in cluster.workers
        ],
    }
    if grows:
        options = {
            "version": "v2",
            "idleTimeoutSeconds": 300,
            "resources": {"requests": _SMALL, "limits": _SMALL},
            "securityContext": _confined(),
        }
        spec |= {"enableInTreeAutoscaling": True, "autoscalerOptions": options}
    return spec


def _most(group: Node) -> int:
    return group.replicas if group.most is None else group.most


def _pod(
    cluster: KubeRayCluster, submission: Submission, node: Node, code: Sequence[str], kind: str, grows: bool
) -> Manifest:
    mounts = [{"name": "code", "mountPath": _CODE}, {"name": "sent", "mountPath": _SENT, "readOnly": True}]
    drain = ["driver", submission.id] if kind == "head" else ["work"]
    container: Manifest = {
        "name": f"ray-{kind}",
        "image": cluster.image,
        "workingDir": _CODE,
        "env": list(_environment(cluster)),
        "envFrom": [{"secretRef": {"name": name}} for name in cluster.secrets],
        "resources": _resources(node),
        "securityContext": _confined(),
        "volumeMounts": [*mounts, *_mounts(cluster)],
        "lifecycle": {
            "preStop": {
                "exec": {"command": [cluster.python, "-m", "nml_ray.cluster.drain", *drain, str(cluster.stop_seconds)]}
            }
        },
    }
    if kind == "head":
        container["ports"] = [
            {"name": "gcs-server", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
        ]
    unpack = {
        "name": "unpack-code",
        "image": cluster.image,
        "command": ["sh", f"{_SENT}/unpack.sh"],
        "resources": {"requests": _SMALL, "limits": _SMALL},
        "securityContext": _confined(),
        "volumeMounts": mounts,
    }
    spec = _pod_spec(cluster) | {
        "initContainers": [unpack],
        "containers": [container],
        "volumes": list(_volumes(cluster, submission, code)),
        "terminationGracePeriodSeconds": cluster.stop_seconds + _MARGIN,
        "nodeSelector": dict(node.node_selector),
        "tolerations": [dict(one) for one in node.tolerations],
    }
    if cluster.service_account:
        spec["serviceAccountName"] = cluster.service_account
    if cluster.service_account or grows:  # the autoscaler, in the head's pod, asks Kubernetes for pods
        del spec["automountServiceAccountToken"]
    return {"metadata": {"labels": labels(submission)}, "spec": spec}


def _submitter(cluster: KubeRayCluster, submission: Submission) -> Manifest:
    container = {
        "name": SUBMITTER,
        "image": cluster.image,
        "resources": {"requests": _SMALL, "limits": _SMALL},
        "securityContext": _confined(),
    }
    spec = _pod_spec(cluster) | {"containers": [container], "restartPolicy": "Never"}
    return {"metadata": {"labels": labels(submission)}, "spec": spec}


def _pod_spec(cluster: KubeRayCluster) -> Manifest:
    user: Manifest = {"runAsUser": cluster.user, "runAsNonRoot": cluster.user != 0}
    return {
        "securityContext": user | {"seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
    }


def _confined() -> Manifest:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _environment(cluster: KubeRayCluster) -> Iterator[Manifest]:
    needed: Mapping[str, str] = {
        "PYTHONPATH": ":".join(filter(None, (_CODE, cluster.environment.get("PYTHONPATH")))),
        "RAY_JOB_STOP_WAIT_TIME_S": str(cluster.stop_seconds + _MARGIN),  # Ray's own 3 are too few for a checkpoint
    }
    passive = {"OMP_WAIT_POLICY": "passive"}  # see execute.set_threads
    for name, value in {**SETTINGS, **passive, **cluster.environment, **needed}.items():
        yield {"name": name, "value": value.replace("$", "$$")}  # Kubernetes would put in another variable at $(NAME)


def _resources(node: Node) -> Manifest:
    amounts = {"cpu": f"{node.cpus:g}", "memory": node.memory.removesuffix("B")}
    if node.gpus:
        amounts["nvidia.com/gpu"] = str(node.gpus)
    return {"requests": amounts, "limits": amounts}


def _mounts(cluster: KubeRayCluster) -> Iterator[Manifest]:
    for number, path in enumerate(cluster.volumes):
        yield {"name": f"volume-{number}", "mountPath": path}


def _volumes(cluster: KubeRayCluster, submission: Submission, code: Sequence[str]) -> Iterator[Manifest]:
    names = [*code, f"{submission.id}-scripts"]
    yield {"name": "code", "emptyDir": {}}
    yield {"name": "sent", "projected": {"sources": [{"configMap": {"name": name}} for name in names]}}
    for number, claim in enumerate(cluster.volumes.values()):
        yield {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
