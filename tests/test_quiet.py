"""Ray's own lines stay off the terminal on a cluster that was joined; nothing else does, and the last ones count."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nml_ray.quiet import END, LAST, passed
from tests.cluster.ray_head import Head

WARNING = b"[2026-11-24 15:00:00,123 W 12 34] (raylet) core_worker.cc:24: x\n"
ERROR = b"[2026-11-24 15:00:00,123 E 12 34] gcs_rpc_client.h:24: Failed to connect\n"
FATAL = b"[2026-11-24 15:00:00,123 C 12 34] core_worker.cc:24: Check failed\n"
GRPC = b"I0000 00:00:1764000000.123456   12 chttp2_transport.cc:12] x\n"


def test_lines_of_rays_are_dropped_and_others_are_not():
    others = [b"Traceback\n", b"  File x\n", b"[W1124 torch.cpp] y\n", b"\n", b"no end"]
    assert list(passed([WARNING, b"  more of it\n", GRPC, *others, ERROR, END])) == others
    assert list(passed([FATAL, b"  stack\n", END])) == [FATAL, b"  stack\n"]


def test_a_line_that_is_not_at_its_end_is_passed_on():
    assert b"".join(passed([ERROR, b"half" + END])) == b"half"


def test_who_ends_without_a_word_leaves_rays_last_ones():
    assert list(passed([WARNING] * 50 + [b"ours\n", ERROR])) == [b"ours\n"] + [WARNING] * (LAST - 1) + [ERROR]


DRIVER = """
import os, sys
from nml_ray import session
session.join(sys.argv[1])
import ray

@ray.remote
def answer():
    return 42

assert ray.get(answer.remote()) == 42
print("error of Python", file=sys.stderr)
os.write(2, b"[2026-11-24 15:00:00,123 E 12 34] x.cc:1: of Ray\\n")
os.write(2, b"error of a library\\n")
print("there", flush=True)
sys.stdin.readline()
if sys.argv[2] == "raise":
    raise ValueError("a mistake of ours")
session.stop()
print("after Ray", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    head = Head(cpus=1)
    yield head
    head.stop()


TELL = """
import json, sys
from ray._raylet import GcsClient
gcs, key, space = GcsClient(address=sys.argv[1]), b"CLUSTER_METADATA", b"cluster"
told = json.loads(gcs.internal_kv_get(key, space))
gcs.internal_kv_put(key, json.dumps({**told, sys.argv[2]: sys.argv[3]}).encode(), True, space)
"""
JOIN = """
import sys, time
from nml_ray import session
from nml_ray.config.errors import UserError
try:
    session.join(sys.argv[1])
except UserError as error:
    print(error)
print("still", file=sys.stderr)
"""


def start(head: Head, code: str, *arguments: str, **token: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, **(token or {"RAY_AUTH_TOKEN_PATH": str(head.token_file), "RAY_AUTH_MODE": "token"})}
    command, pipe = [sys.executable, "-c", code, head.gcs, *arguments], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def driver(head: Head, how: str) -> subprocess.Popen[str]:
    process = start(head, DRIVER, how)
    assert process.stdout
    assert process.stdout.readline() == "there\n", process.communicate()
    return process


@pytest.mark.ray
def test_a_joined_cluster_is_quiet(head):
    process = driver(head, "end")
    _, errors = process.communicate("\n")
    assert process.returncode == 0
    assert sorted(errors.splitlines()) == ["after Ray", "error of Python", "error of a library"]


@pytest.mark.ray
@pytest.mark.parametrize(
    ("token", "words"),
    [
        ({}, "asks for a token, and none is at hand"),
        ({"RAY_AUTH_TOKEN": "ab" * 32}, "refuses the token of RAY_AUTH_TOKEN"),
    ],
)
def test_a_token_that_is_not_there_or_not_right_is_one_line(head, tmp_path, token, words):
    out, errors = start(head, JOIN, HOME=str(tmp_path), **token).communicate()
    (line,) = out.splitlines()
    assert line.startswith(f"the Ray cluster at '{head.gcs}' {words}; expected its token in RAY_AUTH_TOKEN, or ")
    assert "ab" * 32 not in line
    assert errors == "still\n"


@pytest.mark.ray
def test_a_mistake_of_ours_is_seen(head):
    _, errors = driver(head, "raise").communicate("\n")
    assert "ValueError: a mistake of ours" in errors and "of Ray" not in errors


@pytest.mark.ray
def test_a_driver_that_is_killed_leaves_the_last_lines(head):
    process = driver(head, "end")
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert "x.cc:1: of Ray" in errors and "error of a library" in errors


@pytest.mark.ray
@pytest.mark.parametrize(("name", "value"), [("python_version", "3.99.1"), ("ray_version", "2.9.3")])
def test_a_cluster_of_another_version_is_one_line(name, value):
    other = Head(cpus=1)
    try:
        assert start(other, TELL, name, value).wait() == 0
        out, errors = start(other, JOIN).communicate()
    finally:
        other.stop()
    (line,) = out.splitlines()
    assert line.startswith(
        f"cannot join the Ray cluster at '{other.gcs}' (Version mismatch: The cluster was started with"
    )
    assert f": {value} " in line
    assert errors == "still\n"
