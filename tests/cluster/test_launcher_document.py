"""Documents of Ray's launcher: mistakes are told with their line, what is sent is safe and one that Ray takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import psutil
import pytest
import yaml

from nml_ray.cluster.config import LauncherCluster, read_cluster
from nml_ray.cluster.launcher_document import NEEDED, PROVIDERS, completed, end_command, schema
from nml_ray.config.errors import UserError

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "cluster").glob("launcher_*.yaml"))
SOUND = {
    "cloud": """
kind: launcher
ray:
  cluster_name: lab
  max_workers: 2
  provider: {type: gcp, project_id: p, region: r, availability_zone: z}
  auth: {ssh_user: ubuntu}
  available_node_types:
    head: {resources: {CPU: 2}, node_config: {}}
    gpu: {resources: {CPU: 2}, node_config: {}, min_workers: 1, max_workers: 2}
  head_node_type: head
""",
    "own": """
kind: launcher
ray:
  cluster_name: lab
  provider:
    type: local
    head_ip: a
    worker_ips: [b]
  auth: {ssh_user: me}
  head_start_ray_commands:
    - ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml
""",
}


def read(tmp_path: Path, text: str) -> LauncherCluster:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    cluster, _ = read_cluster(path)
    assert isinstance(cluster, LauncherCluster)
    return cluster


def sent(cluster: LauncherCluster):
    return completed(cluster.ray, cluster.python, cluster.dashboard_port, Path("/home/me/token"))


@pytest.mark.parametrize("kind", SOUND)
def test_sound_documents_are_taken(tmp_path, kind):
    jsonschema.validate(sent(read(tmp_path, SOUND[kind])), schema())


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("cloud", "cluster_name", "clustername", r"lab.yaml:4: unknown key 'clustername'.*did you mean 'cluster_name'"),
        ("cloud", "type: gcp", "type: gpc", r"lab.yaml:6: provider.type = 'gpc'; .* mean 'gcp'"),
        ("cloud", "type: gcp", "type: kuberay", "kind: kuberay"),
        ("cloud", "project_id: p, ", "", r"lab.yaml:6: 'provider.project_id' is missing"),
        ("cloud", "max_workers: 2\n  p", "max_workers: two\n  p", r"lab.yaml:5: max_workers = .?two"),
        ("cloud", "max_workers: 2\n  p", "max_workers: 0\n  p", r"lab.yaml:5: max_workers = 0 is fewer than the 1"),
        ("cloud", "max_workers: 2}", "max_workers: 0}", r"lab.yaml:10: .*gpu.max_workers is fewer than min_workers"),
        ("cloud", "head_node_type: head", "head_node_type: haed", r"lab.yaml:11: head_node_type = 'haed'.*'head'"),
        ("cloud", "  head_node_type: head\n", "", "'head_node_type' is missing; expected one of head, gpu"),
        ("cloud", "resources: {CPU: 2}, node_config: {}}", "node_config: {}}", r"yaml:9: .*head.resources' is missing"),
        ("cloud", "CPU: 2}, node_config: {}}", "CPU: 0.5}, node_config: {}}", r"lab.yaml:9: .*resources.CPU = 0.5"),
        ("cloud", "ssh_user", "ssh_usr", r"lab.yaml:7: unknown key 'ssh_usr'.*did you mean 'ssh_user'"),
        ("cloud", "{ssh_user: ubuntu}", "{}", "'auth.ssh_user' is missing"),
        ("cloud", "cluster_name: lab", "cluster_name: $(reboot)", r"lab.yaml:4: cluster_name"),
        ("own", "    head_ip: a\n", "", "'provider.head_ip' is missing"),
        ("own", "[b]", "[b, a]", r"lab.yaml:8: the head is among worker_ips"),
        ("own", "ray start --head", "ray  stop; ray start", r"lab.yaml:11: .*'ray stop'.*everybody's Ray"),
        ("own", "--head ", "--head --dashboard-host=0.0.0.0 ", r"lab.yaml:11: .*0.0.0.0; .*-host=127"),
        ("own", "--head ", "--head --dashboard-host '::' ", r"lab.yaml:11: .*--dashboard-host=::"),
        ("own", "  auth:", "  head_node_type: a\n  auth:", "'head_node_type' with provider local"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_line(tmp_path, kind, old, new, message):
    assert old in SOUND[kind]
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, SOUND[kind].replace(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_sound_and_say_what_they_cost(path):
    cluster, _ = read_cluster(path)
    assert isinstance(cluster, LauncherCluster)
    document = sent(cluster)
    jsonschema.validate(document, schema())
    header = path.read_text().split("\n\n")[0]
    assert "To start:" in header and "What it costs:" in header and f"nml-ray cluster up cluster/{path.name}" in header
    commands = [*document["head_start_ray_commands"], *document["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in commands)
    assert document["file_mounts"][f"~/.nml_ray/{document['cluster_name']}.token"] == "/home/me/token"
    assert "0.0.0.0" not in str(document)
    if document["provider"]["type"] == "local":
        assert "ray stop" not in str(document) and "scripts stop" not in str(document)


def test_there_is_an_example_for_every_place():
    kinds = {yaml.safe_load(path.read_text())["ray"]["provider"]["type"] for path in EXAMPLES}
    assert kinds == {"aws", "gcp", "azure", "local"}


@pytest.mark.long
def test_ray_takes_what_is_sent(tmp_path):
    """Ray's own preparation, which fills defaults in, and its own check, in a process of theirs."""
    documents = [sent(read_cluster(path)[0]) for path in EXAMPLES]  # type: ignore[arg-type]
    code = (
        "import json, sys\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "from ray.autoscaler._private.providers import _NODE_PROVIDERS\n"
        "for document in json.load(sys.stdin): validate_config(prepare_config(document))\n"
        "print('', json.dumps(list(_NODE_PROVIDERS)), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(documents), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(PROVIDERS) <= set(json.loads(done.stdout.splitlines()[-1]))
    assert set(NEEDED) <= set(PROVIDERS)


def test_ending_a_cluster_leaves_others_alone():
    document = {"cluster_name": f"end-{os.getpid()}"}
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'], env={})"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "NML_RAY_CLUSTER": document["cluster_name"] + suffix},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for suffix in ("", "-other")
    ]
    try:
        for process in started:
            assert process.stdout and process.stdout.readline() == b"1\n"
        (child,) = psutil.Process(started[0].pid).children()  # without the mark, as those of Ray with a title
        done = subprocess.run(["sh", "-c", end_command(document)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")
        started[0].wait(timeout=60)  # by the signal, or as its child has ended by it
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert started[1].poll() is None
    finally:
        for process in started:
            process.kill()
            process.communicate()
