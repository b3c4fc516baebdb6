"""KubeRay by kubectl, a real one, against a server that speaks what it needs; the operator's part is played here."""

import base64
import random
import shutil
import socket
from pathlib import Path

import pytest
import yaml

from nml_ray.cli.main import call
from nml_ray.cluster import registry
from nml_ray.cluster.config import KubeRayCluster
from nml_ray.cluster.kubectl import Kubectl, last_line
from nml_ray.cluster.kuberay import Cluster, check_settings, zipped
from nml_ray.cluster.package import CodeFile, Package
from nml_ray.cluster.submission import Submission, new_id
from nml_ray.config.errors import UserError
from tests.kubernetes_server import Kubernetes, log_in

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setattr("nml_ray.cluster.kuberay._PACE", 0.01)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def cluster_with(**settings) -> Cluster:
    fields = {"kind": "kuberay", "image": "registry.example.org/nml:1", "namespace": "lab", "storage": "s3://bucket/x"}
    return Cluster(KubeRayCluster.model_validate({**fields, **settings}))


def submission_to(cluster: Cluster) -> Submission:
    data = cluster.cluster.model_dump(mode="json", exclude_unset=True)
    return Submission(new_id("study"), "study", data, "s3://bucket/x", ("jobs/demo.yaml",), "0" * 16, "2026-11-24")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    path = tmp_path / "code.py"
    path.write_text("x = 1")
    return Package([CodeFile("code.py", path, path.stat().st_size)])


def pod(kubernetes: Kubernetes, submission: Submission, name: str, phase: str, container: str = "ray-job-submitter"):
    labels = {"nml-ray/submission": submission.id}
    metadata = {"labels": labels, "creationTimestamp": f"2026-11-24T15:00:0{len(kubernetes.objects) % 10}Z"}
    return kubernetes.add(
        "pods", name, metadata=metadata, spec={"containers": [{"name": container}]}, status={"phase": phase}
    )


def test_what_is_submitted_is_what_is_rendered(kubernetes, package):
    cluster = cluster_with()
    submission = submission_to(cluster)
    handle = cluster.submit(submission, package)
    assert handle == {"name": submission.id, "namespace": "lab", "context": "lab"}
    *maps, job = yaml.safe_load_all(cluster.render(submission, package))
    sent = kubernetes.objects["rayjobs", submission.id]
    assert sent["spec"] == job["spec"]
    for one in maps:
        found = kubernetes.objects["configmaps", one["metadata"]["name"]]
        assert found.get("binaryData") == one.get("binaryData")
        assert found.get("data") == one.get("data")
        owner = found["metadata"]["ownerReferences"][0]  # Kubernetes removes it with the RayJob
        assert (owner["kind"], owner["name"], owner["uid"]) == ("RayJob", submission.id, f"uid-{submission.id}")
    with_code = kubernetes.objects["configmaps", f"{submission.id}-code-0"]
    assert base64.b64decode(with_code["binaryData"]["code.zip.000"]) == zipped(package)


def test_a_job_that_is_refused_leaves_nothing(kubernetes, package):
    cluster = cluster_with()
    kubernetes.refuse["PATCH", "/rayjobs/"] = 403
    with pytest.raises(UserError, match=r"forbidden.*; expected a role that may do so"):
        cluster.submit(submission_to(cluster), package)
    assert kubernetes.objects == {}


def test_check_says_what_is_there(kubernetes):
    kubernetes.add("secrets", "object-store")
    lines = cluster_with(secrets=["object-store"]).check()
    assert lines[0] == "Kubernetes: context lab, namespace lab"
    assert "registry.example.org/nml:1" in lines[1]


@pytest.mark.parametrize(
    ("prepare", "settings", "message"),
    [
        ({"operator": False}, {}, "the cluster has no RayJobs; expected the KubeRay operator: helm install"),
        ({"token_auth": False}, {}, "has no token authentication; expected version 1.5"),
        ({"allowed": False}, {}, "you may not create rayjobs.ray.io in namespace 'lab'"),
        ({}, {"secrets": ["object-stor"]}, "no secret 'object-stor' .* did you mean 'object-store'"),
        ({}, {"volumes": {"/data": "icons"}}, "no persistentvolumeclaim 'icons'"),
        ({}, {"service_account": "trainer"}, "no serviceaccount 'trainer'"),
        ({}, {"context": "lap"}, "context = 'lap' is not known to kubectl; expected one of lab; did you mean 'lab'"),
        ({}, {"workers": [{}, {}]}, "two groups 'workers'"),
        ({}, {"head": {"replicas": 2}}, "more than one head"),
        ({}, {"storage": "/data/runs"}, "storage '/data/runs' ends with the pods"),
        ({"refuse": {("GET", "/apis/ray.io"): 401}}, {}, "kubectl to be logged in"),
        ({"refuse": {("GET", "/apis/ray.io"): 403}}, {}, "a role that may do so"),
    ],
)
def test_check_refuses_what_cannot_work(kubernetes, prepare, settings, message):
    kubernetes.add("secrets", "object-store")
    for name, value in prepare.items():
        setattr(kubernetes, name, value)
    with pytest.raises(UserError, match=message) as caught:
        cluster_with(**settings).check()
    assert "\n" not in str(caught.value)


def test_a_dead_server_is_one_line(tmp_path, monkeypatch, package):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    log_in(tmp_path, monkeypatch, f"http://127.0.0.1:{port}")
    cluster = cluster_with()
    for ask in (
        lambda: cluster.submit(submission_to(cluster), package),
        lambda: cluster.status(submission_to(cluster)),
    ):
        with pytest.raises(UserError, match=r"was refused.*; expected a cluster that answers") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        log_in(tmp_path, monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match=r"no answer within 0.5 s.*; expected a cluster that answers"):
            Kubectl("", "lab").run("get", "--raw", "/apis/ray.io/v1", seconds=0.5)


def test_kubectl_is_missed(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="'kubectl' is not installed"):
        cluster_with().check()


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ('E1124 1 memcache.go:265] "x"\nThe connection was refused - why?\n', "The connection was refused - why?"),
        ("error: error: You must be logged in\n", "You must be logged in"),
        ('Error from server (NotFound): rayjobs "x" not found', '(NotFound): rayjobs "x" not found'),
        ("", "it failed without a word"),
    ],
)
def test_the_line_that_matters(said, line):
    assert last_line(said) == line


def test_a_job_that_is_not_there_has_no_status(kubernetes):
    cluster = cluster_with()
    assert cluster.status(submission_to(cluster)) is None


def test_a_job_waits_for_what_its_pods_wait_for(kubernetes, package):
    cluster = cluster_with()
    submission = submission_to(cluster)
    cluster.submit(submission, package)
    kubernetes.objects["rayjobs", submission.id]["status"] = {"jobDeploymentStatus": "Initializing"}
    assert cluster.status(submission).state == "queued"
    waiting = pod(kubernetes, submission, "head", "Pending", "ray-head")
    waiting["status"]["conditions"] = [
        {"reason": "Unschedulable", "message": "0/3 nodes: 3 Insufficient nvidia.com/gpu."}
    ]
    assert cluster.status(submission).message == "0/3 nodes: 3 Insufficient nvidia.com/gpu."
    waiting["status"] = {
        "phase": "Pending",
        "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}],
    }
    assert cluster.status(submission).message == "ImagePullBackOff"


def test_following_takes_a_broken_connection_up_again(kubernetes, package):
    cluster = cluster_with()
    submission = submission_to(cluster)
    cluster.submit(submission, package)
    kubernetes.objects["rayjobs", submission.id]["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    running = pod(kubernetes, submission, "first", "Running")
    lines = [f"2026-11-24T15:00:0{second}.000000001Z epoch {second}\n" for second in range(4)]
    kubernetes.logs["first"] = [lines[:2], lines[1:3], lines[2:]]
    log = cluster.follow(submission)
    assert [next(log) for _ in range(3)] == ["epoch 0\n", "epoch 1\n", "epoch 2\n"]
    assert "sinceTime=2026-11-24T15%3A00%3A01Z" in kubernetes.requests[-1][1]
    running["status"]["phase"] = "Succeeded"
    kubernetes.objects["rayjobs", submission.id]["status"] = {
        "jobDeploymentStatus": "Complete",
        "jobStatus": "SUCCEEDED",
    }
    assert list(log) == ["epoch 3\n"]
    assert cluster.status(submission).exit_code == 0


def test_following_goes_on_with_the_pod_that_took_over(kubernetes, package):
    cluster = cluster_with()
    submission = submission_to(cluster)
    cluster.submit(submission, package)
    kubernetes.objects["rayjobs", submission.id]["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    for name, phase in (("first", "Failed"), ("second", "Succeeded")):
        pod(kubernetes, submission, name, phase)
        kubernetes.logs[name] = [[f"2026-11-24T15:00:00Z of {name}\n"]]
    log = cluster.follow(submission)
    assert next(log) == "of first\n"
    status = {"jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "Job entrypoint ... exit code 1, last"}
    kubernetes.objects["rayjobs", submission.id]["status"] = status
    assert list(log) == ["[the log from its beginning, by another pod]\n", "of second\n"]
    assert cluster.status(submission).exit_code == 1
    assert cluster.printed(submission).endswith("of second\n")


def test_nothing_is_printed_before_there_is_a_pod(kubernetes, package):
    cluster = cluster_with()
    submission = submission_to(cluster)
    assert cluster.printed(submission) == ""
    cluster.submit(submission, package)
    assert cluster.printed(submission) == ""


def test_stop_suspends(kubernetes, package):
    cluster = cluster_with()
    submission = submission_to(cluster)
    cluster.submit(submission, package)
    job = kubernetes.objects["rayjobs", submission.id]
    job["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    cluster.stop(submission)
    job = kubernetes.objects["rayjobs", submission.id]
    assert job["spec"]["suspend"] is True
    assert cluster.status(submission).message == "stopping"
    job["status"] = {"jobDeploymentStatus": "Suspended"}
    assert cluster.status(submission).state == "stopped"


def test_down_removes_ours_and_tells_of_others(kubernetes, package, capsys):
    cluster = cluster_with()
    submission = submission_to(cluster)
    registry.remember(submission)
    cluster.submit(submission, package)
    kubernetes.add("rayjobs", "theirs", metadata={"labels": {"app.kubernetes.io/managed-by": "nml-ray"}}, status={})
    kubernetes.add("rayjobs", "by-hand")
    cluster.down()
    said = capsys.readouterr().out
    assert f"removing {submission.id} (queued)" in said
    assert "submitted from elsewhere: theirs (queued)" in said
    assert ("rayjobs", submission.id) not in kubernetes.objects
    assert {("rayjobs", "theirs"), ("rayjobs", "by-hand")} <= set(kubernetes.objects)


def test_too_much_code_is_refused_with_the_largest_files(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(random.Random(0).randbytes(12_000_000))
    with pytest.raises(UserError, match=r"12.0 MB as a zip \(largest: weights.bin \(12.0 MB\)\)"):
        zipped(Package([CodeFile("weights.bin", path, path.stat().st_size)]))


def test_storage_on_a_volume_is_fine():
    cluster = cluster_with(volumes={"/shared": "claim"}).cluster
    check_settings(cluster, "/shared/runs")
    with pytest.raises(UserError, match="ends with the pods"):
        check_settings(cluster, "/sharedelsewhere")


@pytest.mark.long
def test_the_commands_of_a_submission(kubernetes, tmp_path, monkeypatch, capsys):
    """From `submit` to `stop` as a user types it; the operator's part is played here."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "job.yaml").write_text("name: tiny\n")
    kubernetes.add("persistentvolumeclaims", "results")
    settings = {"kind": "kuberay", "image": "nml:1", "namespace": "lab", "volumes": {str(tmp_path / "v"): "results"}}
    settings["code"] = {"exclude": ["icons.parquet"]}
    (work / "lab.yaml").write_text(yaml.safe_dump({**settings, "storage": str(tmp_path / "v" / "runs")}))
    assert call(["submit", "job.yaml", "--cluster", "lab.yaml"]) == 0
    id = capsys.readouterr().out.splitlines()[0]
    job = kubernetes.objects["rayjobs", id]
    assert len(job["metadata"]["name"]) <= 47
    job["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    assert call(["status", id]) == 0
    assert "running" in capsys.readouterr().out
    assert call(["stop", id]) == 0
    assert kubernetes.objects["rayjobs", id]["spec"]["suspend"] is True
    capsys.readouterr()
    kubernetes.objects["rayjobs", id]["status"] = {"jobDeploymentStatus": "Suspended"}
    assert call(["list"]) == 0
    assert "stopped" in capsys.readouterr().out
    assert call(["cluster", "down", "lab.yaml"]) == 0
    assert ("rayjobs", id) not in kubernetes.objects
