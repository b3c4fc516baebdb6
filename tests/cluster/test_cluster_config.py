"""Cluster files: every kind reads, mistakes are told with their place, secrets are refused."""

import re
from pathlib import Path

import click
import pytest

from nml_ray.cli.cluster import cluster
from nml_ray.cli.main import cli
from nml_ray.cli.options import examples
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
        ("kind: local\nenvironment: {WANDB_KEY: abc}", "looks like a secret"),
        ("kind: local\nenvironment: {DATABASE: 'postgres://me:word@host/x'}", "looks like a secret"),
        ("kind: local\nenvironment: {'A B': abc}", "no name of an environment variable"),
        ("kind: slurm\ndirectory: /x\ntime: soon", "time = 'soon'"),
        ("kind: slurm\ndirectory: /x\ntime: -5", "time = '-5'"),
        ("kind: slurm\ndirectory: /x\ntime: true", "time = true"),
        ("kind: slurm\ndirectory: /x\ntime: 1.5", "time = 1.5"),
    ],
)
def test_mistakes_are_told(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize("address", ["http://me:hunter2@head:8265", "https://hunter2@head/", "me:hunter2@head"])
def test_an_address_with_a_password_is_refused_and_not_repeated(tmp_path, address):
    with pytest.raises(UserError, match=r"lab.yaml:2: address with a user's name or password") as told:
        read(tmp_path, f"kind: address\naddress: {address}")
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(("written", "time"), [("99", "99"), ("'99'", "99"), ("2:30:00", "2:30:00"), ("1-12", "1-12")])
def test_a_limit_of_time_may_be_a_number(tmp_path, written, time):
    assert read(tmp_path, f"kind: slurm\ndirectory: /x\ntime: {written}").time == time


@pytest.mark.parametrize("name", ["directory", "partition", "account", "qos", "options"])
@pytest.mark.parametrize("sign", ["\\n", "\\r", "\\0", "\\e", "\\u2028"])
def test_what_would_leave_the_lines_of_sbatch_is_refused(tmp_path, name, sign):
    value = f'"gpu{sign}touch PWNED"'
    given = {"directory": "/x", "time": 99, name: f"[{value}]" if name == "options" else value}
    with pytest.raises(UserError, match=rf"lab.yaml:\d: {name} with a line break or control character"):
        read(tmp_path, "\n".join(["kind: slurm", *(f"{key}: {text}" for key, text in given.items())]))


def test_the_commands_in_the_examples_are_complete():
    texts = [path.read_text(encoding="utf-8") for path in examples("cluster").glob("*.yaml")]
    lines = [
        line for text in texts for line in re.findall(r"^# (?:  |\d\. ) *nml-ray ([^|\n]*?)(?:  .*)?$", text, re.M)
    ]
    assert len(lines) > 15
    for line in lines:
        group: click.Group = cli
        name, *words = line.split()
        if name == "cluster":
            group, (name, *words) = cluster, words
        command = group.get_command(click.Context(group), name)
        assert command is not None
        command.make_context(name, words)  # raises where something is missing
