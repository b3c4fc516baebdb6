"""Cluster files: every kind reads, mistakes are told with their place, secrets are refused."""

from pathlib import Path

import pytest

from nml_ray.cluster.config import KINDS, cluster_of, read_cluster
from nml_ray.config.errors import UserError

SMALLEST = {
    "local": "kind: local",
    "address": "kind: address\naddress: http://head:8265",
    "launcher": "kind: launcher\nray: {cluster_name: lab, auth: {ssh_user: me},"
    " provider: {type: local, head_ip: a, worker_ips: []}}",
    "slurm": "kind: slurm\ndirectory: /shared/me\ntime: '4:00:00'",
    "kuberay": "kind: kuberay\nimage: registry.example.org/nml:1",
}


def read(tmp_path: Path, text: str):
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    return read_cluster(path)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads(tmp_path, kind):
    cluster = read(tmp_path, SMALLEST[kind])
    assert cluster.kind == kind
    assert cluster_of(cluster.model_dump(mode="json")) == cluster


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: slrum", "did you mean 'slurm'"),
        ("address: http://head:8265", "'kind' is missing"),
        ("kind: address\naddress: head:8265", "lab.yaml:2: address = 'head:8265'"),
        ("kind: address\naddress: http://head:8265\ntokenfile: x", "did you mean 'token_file'"),
        ("kind: local\nenvironment: {WANDB_API_KEY: abc}", "looks like a secret"),
        ("kind: local\nenvironment: {'A B': abc}", "no name of an environment variable"),
        ("kind: slurm\ndirectory: /x\ntime: soon", "time = 'soon'"),
    ],
)
def test_mistakes_are_told(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
