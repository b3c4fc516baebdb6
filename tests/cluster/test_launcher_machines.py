"""Ray's own launcher on machines reached by ssh: a cluster comes up on all of them, a job trains over them, and `down`
ends what was started there and nothing else."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import ssh_machines
from tests.cluster.ssh_machines import Machines
from tests.small_icons import small_icons

JOB = Path(__file__).parents[2] / "jobs/demo.yaml"
SETTINGS: tuple[str, ...] = (
    "threads=1",
    "pretrain.encoder.width=4",
    "pretrain.epochs=2",
    "pretrain.microbatch=64",
    "noise.ratios=[0]",
)
SETTINGS += ("run.workers=3",)
NML_RAY = [sys.executable, "-m", "nml_ray"]

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(ssh_machines.missing()), reason=ssh_machines.missing()),
]


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines(3) as found:
        yield found


@pytest.fixture
def cluster(machines, tmp_path) -> str:
    head, *workers = (machines.address_of(number) for number in range(3))
    ray = {
        "cluster_name": "lab",
        "provider": {"type": "local", "head_ip": head, "worker_ips": workers},
        "auth": {"ssh_user": "root", "ssh_private_key": str(machines.key)},
    }
    file = tmp_path / "lab.yaml"
    settings = {"kind": "launcher", "storage": str(tmp_path / "runs"), "python": sys.executable, "ray": ray}
    file.write_text(yaml.safe_dump(settings))
    return str(file)


def test_a_cluster_of_machines_of_ones_own(machines, cluster, tmp_path):
    def nml_ray(*words: str, timeout: float = 60) -> str:
        done = machines.run([*NML_RAY, *words], timeout)
        assert done.returncode == 0, done.stdout
        return str(done.stdout)

    begun = machines.run_on(1, "NML_RAY_CLUSTER=other nohup sleep 1000 > /dev/null 2>&1 &")
    assert begun.returncode == 0, begun.stdout
    (somebodys,) = machines.commands(1)
    told = nml_ray("cluster", "up", cluster, timeout=300)
    try:
        assert "takes the token of" in told
        assert "3 of 3 nodes have joined" in told
        assert "will not" not in told, "the launcher does not understand the commands that start Ray"
        settings = [small_icons(tmp_path), *SETTINGS]
        options = [word for setting in settings for word in ("--set", setting)]
        told = nml_ray("submit", str(JOB), "--cluster", cluster, "--follow", *options, timeout=600)
        assert f"report: {tmp_path}" in told
        assert all(any("raylet" in command for command in machines.commands(number)) for number in range(3))
        (record,) = (tmp_path / "runs").glob("pretrain/*/record.json")
        assert json.loads(record.read_bytes())["lineage"][0]["workers"] == 3
        assert "succeeded" in nml_ray("list")
    finally:
        told = nml_ray("cluster", "down", cluster, timeout=120)
    assert told == "nothing of cluster 'lab' runs any more\n"
    assert [machines.commands(number) for number in range(3)] == [[], [somebodys], []]
    assert not [*machines.home(3).glob(".local/state/nml_ray/launcher/lab/cluster.json")]
