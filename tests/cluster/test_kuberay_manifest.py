"""Manifests for KubeRay: they obey its schema, confine what runs, carry no secret, and unpack to what was sent."""

import base64
import copy
import io
import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest
import yaml

from nml_ray.cluster.command import job_command
from nml_ray.cluster.config import KubeRayCluster, read_cluster
from nml_ray.cluster.manifest import PART, driver_script, manifests
from nml_ray.cluster.submission import Submission, new_id

ROOT = Path(__file__).parents[2]
QUANTITY = r"^[0-9]+(\.[0-9]+)?([MGT]i?|m)?$"
CONFIG_MAP = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata"],
    "properties": {
        "apiVersion": {"const": "v1"},
        "kind": {"const": "ConfigMap"},
        "metadata": {"required": ["name", "labels"]},
        "data": {"additionalProperties": {"type": "string"}},
        "binaryData": {"additionalProperties": {"type": "string", "pattern": "^[A-Za-z0-9+/]+=*$"}},
    },
    "additionalProperties": False,
}

CLUSTERS = {
    "smallest": {},
    "gpus": {
        "head": {"name": "head", "cpus": 0.5, "memory": "2GiB"},
        "workers": [
            {
                "name": "gpu",
                "replicas": 2,
                "gpus": 1,
                "cpus": 8,
                "memory": "64GB",
                "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            },
            {"name": "cpu", "replicas": 0, "most": 6, "cpus": 16, "memory": "32Gi"},
        ],
        "volumes": {"/data": "icons", "/work": "results"},
        "secrets": ["object-store"],
        "service_account": "trainer",
        "environment": {"GREETING": "a $(HOME) 'quoted' $x", "PYTHONPATH": "/opt/more"},
        "most_hours": 1.5,
        "restarts": 7,
        "keep_minutes": 0,
        "user": 0,
        "python": "/opt/venv/bin/python",
    },
}


def cluster_named(name: str) -> KubeRayCluster:
    return KubeRayCluster.model_validate({"kind": "kuberay", "image": "registry.example.org/nml:1", **CLUSTERS[name]})


def submission_to(cluster: KubeRayCluster, *arguments: str) -> Submission:
    return Submission(
        id=new_id("A study of the Wrong Labels, and a long name at that"),
        job="study",
        cluster=cluster.model_dump(mode="json"),
        storage="s3://results/it's here",
        arguments=arguments or ("jobs/demo.yaml",),
        code="0" * 16,
        submitted="2026-11-24T15:00:00Z",
    )


def rendered(name: str, code: bytes = b"zip"):
    cluster = cluster_named(name)
    return manifests(cluster, submission_to(cluster), code, "2.60.0")


def pods(job):
    spec = job["spec"]["rayClusterSpec"]
    yield spec["headGroupSpec"]["template"]
    yield from (group["template"] for group in spec["workerGroupSpecs"])


@pytest.mark.parametrize("name", CLUSTERS)
def test_documents_obey_the_schemas(ray_job_schema, name):
    *maps, job = rendered(name)
    ray_job_schema.validate(job)
    for one in maps:
        jsonschema.validate(one, CONFIG_MAP)


def test_example_obeys_the_schema(ray_job_schema):
    cluster, _ = read_cluster(ROOT / "cluster" / "kuberay.yaml")
    assert isinstance(cluster, KubeRayCluster)
    ray_job_schema.validate(manifests(cluster, submission_to(cluster), b"zip", "2.60.0")[-1])


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "entrypiont"),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "tolerations", 0, "efect"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "limits"),
        ("metadata", "label"),
    ],
)
def test_the_schemas_refuse_unknown_fields(ray_job_schema, path):
    job = copy.deepcopy(rendered("gpus")[-1])
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["tolerations"] = [{"key": "a"}]
    inside = job
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = "x"
    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        ray_job_schema.validate(job)


def test_the_schema_checks_types(ray_job_schema):
    job = rendered("smallest")[-1]
    job["spec"]["backoffLimit"] = "0"
    with pytest.raises(jsonschema.ValidationError, match="'0' is not of type 'integer'"):
        ray_job_schema.validate(job)


def test_everything_carries_the_labels_by_which_it_is_found():
    documents = rendered("gpus")
    job = documents[-1]
    templates = [*pods(job), job["spec"]["submitterPodTemplate"]]
    found = [one["metadata"]["labels"] for one in (*documents, *templates)]
    expected = {"app.kubernetes.io/managed-by": "nml-ray", "nml-ray/submission": job["metadata"]["name"]}
    assert found == [expected] * (len(documents) + 4)


def test_resources_are_requested_as_they_are_limited():
    job = rendered("gpus")[-1]
    head, gpu, cpu = (pod["spec"]["containers"][0]["resources"] for pod in pods(job))
    for one in (head, gpu, cpu):
        assert one["requests"] == one["limits"]
    assert head["limits"] == {"cpu": "0.5", "memory": "2Gi"}
    assert gpu["limits"] == {"cpu": "8", "memory": "64G", "nvidia.com/gpu": "1"}
    assert cpu["limits"] == {"cpu": "16", "memory": "32Gi"}


def test_what_runs_is_confined():
    job = rendered("smallest")[-1]
    for pod in (*pods(job), job["spec"]["submitterPodTemplate"]):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["automountServiceAccountToken"] is False
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    autoscaler = rendered("gpus")[-1]["spec"]["rayClusterSpec"]["autoscalerOptions"]
    assert autoscaler["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_dashboard_is_not_exposed_and_asks_for_a_token():
    spec = rendered("smallest")[-1]["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "enableIngress" not in spec["headGroupSpec"]
    assert "RAY_AUTH_TOKEN" not in json.dumps(spec)  # the operator puts its own Secret in


def test_the_cluster_grows_only_where_it_may():
    assert "enableInTreeAutoscaling" not in rendered("smallest")[-1]["spec"]["rayClusterSpec"]
    spec = rendered("gpus")[-1]["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"] is True
    bounds = [(one["minReplicas"], one["replicas"], one["maxReplicas"]) for one in spec["workerGroupSpecs"]]
    assert bounds == [(2, 2, 2), (0, 0, 6)]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"  # work runs where it was asked for


def test_settings_of_the_job():
    spec = rendered("gpus")[-1]["spec"]
    assert spec["activeDeadlineSeconds"] == 5400
    assert spec["submitterConfig"] == {"backoffLimit": 7}
    assert spec["backoffLimit"] == 0  # else KubeRay would repeat work that failed by itself
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, 0)
    pod = spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"
    container = pod["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": "object-store"}}]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert variables["RAY_CHDIR_TO_TRIAL_DIR"] == "0" and variables["RAY_JOB_STOP_WAIT_TIME_S"] == "150"
    assert variables["GREETING"] == "a $$(HOME) 'quoted' $$x"
    assert variables["PYTHONPATH"] == "/nml/code:/opt/more"
    assert {"name": "volume-1", "mountPath": "/work"} in container["volumeMounts"]
    assert {"name": "volume-1", "persistentVolumeClaim": {"claimName": "results"}} in pod["volumes"]


def test_pods_are_ended_only_when_the_job_reached_a_checkpoint():
    job = rendered("gpus")[-1]
    name = job["metadata"]["name"]
    commands, graces = [], []
    for pod in pods(job):
        commands.append(pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
        graces.append(pod["spec"]["terminationGracePeriodSeconds"])
    drain = ["/opt/venv/bin/python", "-m", "nml_ray.cluster.drain"]
    assert commands == [[*drain, "driver", name, "120"], [*drain, "work", "120"], [*drain, "work", "120"]]
    assert min(graces) > 120


def test_the_driver_gets_its_arguments_as_they_are():
    cluster = cluster_named("smallest")
    submission = submission_to(cluster, "jobs/a b.yaml", "--set", "title=it's $(x) `y`; z")
    line = driver_script(cluster, submission).splitlines()[-1]
    said = subprocess.run(
        [
            "sh",
            "-c",
            line.replace("exec python3", f"exec {shlex.quote(sys.executable)} -c 'import sys; print(sys.argv)'"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    expected = job_command(submission, "python3", stop_seconds=120)[1:]
    assert "jobs/a b.yaml" in expected
    assert said.strip() == str(["-c", *expected])


def test_code_is_sent_in_parts_and_unpacked_whole(tmp_path):
    zipped = io.BytesIO()
    noise = bytes(range(256)) * 4096
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("nml_ray/__init__.py", "x = 1")
        archive.writestr("data.bin", noise)
    documents = rendered("smallest", zipped.getvalue())
    assert len(documents) == 4
    assert max(len(json.dumps(one)) for one in documents) < 1.5 * PART
    sent, code = tmp_path / "sent", tmp_path / "code"
    there = {"/tmp/": f"{tmp_path}/", "/nml/sent": f"{sent}", "/nml/code": f"{code}"}
    sent.mkdir()
    code.mkdir()
    projected = documents[-1]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"][1]["projected"]
    assert [one["configMap"]["name"] for one in projected["sources"]] == [d["metadata"]["name"] for d in documents[:-1]]
    for one in documents[:-1]:
        for name, text in one.get("binaryData", {}).items():
            (sent / name).write_bytes(base64.b64decode(text))
        for name, text in one.get("data", {}).items():
            (sent / name).write_text(re.sub("|".join(there), lambda match: there[match[0]], text))
    subprocess.run(["sh", str(sent / "unpack.sh")], check=True)
    assert (code / "nml_ray" / "__init__.py").read_text() == "x = 1"
    assert (code / "data.bin").read_bytes() == noise


def test_documents_are_the_same_every_time_and_plain_yaml():
    cluster = cluster_named("gpus")
    submission = submission_to(cluster)
    twice = [manifests(cluster, submission, b"zip", "2.60.0") for _ in range(2)]
    assert twice[0] == twice[1]
    assert list(yaml.safe_load_all(yaml.safe_dump_all(twice[0]))) == twice[0]


def test_numbers_of_a_cluster_file_are_sent_as_such(tmp_path, ray_job_schema):
    path = tmp_path / "lab.yaml"
    toleration = "{key: spot, operator: Equal, value: 'on', effect: NoExecute, tolerationSeconds: 30}"
    path.write_text(f"kind: kuberay\nimage: a\nworkers: [{{cpus: 1.5, tolerations: [{toleration}]}}]\n")
    cluster, _ = read_cluster(path)
    assert isinstance(cluster, KubeRayCluster)
    job = manifests(cluster, submission_to(cluster), b"zip", "2.60.0")[-1]
    ray_job_schema.validate(yaml.safe_load(yaml.safe_dump(job)))
    assert list(pods(job))[1]["spec"]["tolerations"][0]["tolerationSeconds"] == 30
