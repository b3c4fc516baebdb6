"""How a RayJob stands, for everything that KubeRay writes into one."""

import pytest

from nml_ray.cluster.rayjob import status_of, waits_for

FAILED = "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\nnml-ray: no"


@pytest.mark.parametrize(
    ("deployed", "ray", "more", "state", "message", "code"),
    [
        ("", "", {}, "queued", "", None),
        ("Initializing", "", {}, "queued", "", None),
        ("Running", "", {}, "queued", "the head is up", None),
        ("Running", "PENDING", {}, "queued", "the head is up", None),
        ("Running", "RUNNING", {"message": "Job is currently running."}, "running", "Job is currently running.", None),
        ("Complete", "SUCCEEDED", {"message": "Job finished successfully."}, "succeeded", "", 0),
        ("Complete", "STOPPED", {"message": "by its user"}, "stopped", "by its user", None),
        ("Failed", "FAILED", {"reason": "AppFailed", "message": FAILED}, "failed",
         "AppFailed: Job entrypoint command failed with exit code 2", 2),
        ("Failed", "RUNNING", {"reason": "DeadlineExceeded", "message": "The RayJob has passed ..."}, "failed",
         "DeadlineExceeded: The RayJob has passed ...", None),
        ("Failed", "RUNNING", {"reason": "JobStatusCheckTimeoutExceeded"}, "lost",
         "JobStatusCheckTimeoutExceeded", None),
        ("ValidationFailed", "", {"reason": "ValidationFailed", "message": "m"}, "failed", "ValidationFailed: m", None),
        ("Retrying", "", {}, "queued", "begins again", None),
        ("Suspending", "RUNNING", {}, "running", "stopping", None),
        ("Suspended", "", {}, "stopped", "", None),
    ],
)  # fmt: skip
def test_what_kuberay_writes_is_understood(deployed, ray, more, state, message, code):
    found = status_of({"spec": {}, "status": {"jobDeploymentStatus": deployed, "jobStatus": ray, **more}})
    assert (found.state, found.message, found.exit_code) == (state, message, code)


def test_a_job_that_is_to_stop_is_stopping_until_kuberay_did_it():
    running = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    assert status_of({"spec": {"suspend": True}, "status": running}).message == "stopping"
    assert status_of({"spec": {"suspend": True}, "status": {}}).state == "stopped"
    ended = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    assert status_of({"spec": {"suspend": True}, "status": ended}).state == "succeeded"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, ""),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        ({"containerStatuses": [{"state": {"running": {}}}]}, ""),
        ({"initContainerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such"}}}]},
         "ErrImagePull: no such"),
        ({"conditions": [{"reason": "Unschedulable", "message": "0/1 nodes\nare free"}]}, "0/1 nodes are free"),
    ],
)  # fmt: skip
def test_what_pods_wait_for(status, reason):
    assert waits_for([{"status": status}]) == reason
