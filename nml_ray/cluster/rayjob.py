"""How a RayJob stands, by what KubeRay wrote into it, and by its pods. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nml_ray.cluster.submission import State, Status


def status_of(job: Mapping[str, Any]) -> Status:
    """How a RayJob stands, by what KubeRay wrote into it."""
    status = job.get("status", {})
    deployed, ray = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    message = " ".join(str(status.get("message", "")).split())
    code = re.search(r"exit code (\d+)", message)
    reason = status.get("reason", "")
    line = ": ".join(filter(None, (reason, message.split(", last available logs")[0][:300])))
    if deployed == "Complete":
        state: State = "stopped" if ray == "STOPPED" else "succeeded"
        return Status(state, line if state == "stopped" else "", 0 if state == "succeeded" else None)
    if deployed in ("Failed", "ValidationFailed"):
        return Status(
            "lost" if reason == "JobStatusCheckTimeoutExceeded" else "failed", line, int(code[1]) if code else None
        )
    if deployed in ("Suspended", "Suspending"):
        return Status("stopped") if deployed == "Suspended" else Status("running", "stopping")
    if job.get("spec", {}).get("suspend"):
        return Status("running", "stopping") if deployed else Status("stopped")
    if ray == "RUNNING":
        return Status("running", line)
    return Status("queued", {"Retrying": "begins again", "Running": "the head is up"}.get(deployed, line))


def waits_for(pods: Sequence[Mapping[str, Any]]) -> str:
    """Why pods do not run, in the words of Kubernetes; "" where nothing is known."""
    for pod in pods:
        status = pod.get("status", {})
        for condition in status.get("conditions", ()):
            if condition.get("reason") == "Unschedulable":
                return " ".join(str(condition.get("message", "")).split())[:300]
        for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                return f"{waiting['reason']}: {waiting.get('message', '')}".strip(": ")[:300]
    return ""
