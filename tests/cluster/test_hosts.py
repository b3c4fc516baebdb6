"""A study on three hosts ends with the same artifacts when one of them is lost, cut off or killed, in any stage; and
when it is stopped itself, it leaves nothing at work there.

How long each took to go on is printed (pytest -s).
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.kills import wait_for
from nml_ray.pretrain.resume import committed
from nml_ray.storage.artifact import Store, read_progress
from nml_ray.storage.record import RECORD
from tests.cluster.hosts import Hosts, missing
from tests.small_icons import small_icons

JOB = Path(__file__).parents[2] / "jobs/demo.yaml"
SETTINGS = (
    "threads=1",  # and one that decodes: a worker takes the two CPUs of a host
    "pretrain.encoder.width=4",
    "pretrain.epochs=30",
    "pretrain.batch=128",
    "pretrain.microbatch=32",
    "noise.ratios=[0,0.3]",
    "heads.seeds=[0,1]",
    "run.workers=2",
    "run.checkpoint_steps=2",
    "run.extract_workers=3",
    "run.head_workers=6",
)
FILES = {"pretrain": "encoder.safetensors", "extract": "*/*.features.arrow", "heads": "results.json"}
WORKERS = {"pretrain": "RayTrainWorker", "extract": "_ShardWorker", "heads": "ResourceTrainable"}
OF_RAY = (
    *("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent"),
    *("_AutoscalingCoordinatorActor", "_StatsActor", "ActorLocationTracker"),
)
KINDS = ("ledger", "pretrain", "extract", "spectrum", "heads")  # in the order of a run
LONGEST = 600  # seconds: a run that hangs fails its test with what it has said

pytestmark = [
    pytest.mark.netns,
    pytest.mark.kill,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(cpus=(2, 2, 2)) as found:
        yield found


@pytest.fixture(scope="module")
def start(hosts, tmp_path_factory) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Starts the study on the head with its artifacts in a directory, its output in a file beside; more settings."""
    images = small_icons(tmp_path_factory.mktemp("icons"))
    command = [sys.executable, "-m", "nml_ray", "run", str(JOB), "--address", hosts.address]

    def start(storage: Path, *more: str) -> "subprocess.Popen[bytes]":
        options = [word for setting in (images, *SETTINGS, *more) for word in ("--set", setting)]
        return hosts.popen(0, [*command, *options, "--storage", str(storage)], storage.with_suffix(".log"))

    return start


@pytest.fixture(scope="module")
def undisturbed(hosts, start, tmp_path_factory) -> Path:
    storage = tmp_path_factory.mktemp("undisturbed") / "runs"
    begun = time.monotonic()
    finish(start(storage), storage)
    print(f"undisturbed: {time.monotonic() - begun:.0f} s")
    return storage


@pytest.mark.parametrize(
    ("how", "kind"), [("cut", "pretrain"), ("kill", "extract"), ("kill", "heads"), ("cut", "heads")]
)
def test_a_host_is_lost(hosts, start, undisturbed, tmp_path, how, kind):
    storage = tmp_path / "runs"
    for done in KINDS[: KINDS.index(kind)]:
        shutil.copytree(undisturbed / done, storage / done)
    process = start(storage)
    at_work = partial(in_the_middle, storage, kind)
    assert wait_for(process, lambda: at_work() and working(hosts, kind) != []), said(storage)
    victim = working(hosts, kind)[-1]
    getattr(hosts, how)(victim)
    begun, before = time.monotonic(), told(storage, kind)
    try:
        wait_for(process, lambda: told(storage, kind) > before and named(hosts, victim, storage))
        print(f"{how} in {kind}, at {before:.0%}: went on after {time.monotonic() - begun:.0f} s", end="")
        finish(process, storage)
        print(f", ended after {time.monotonic() - begun:.0f} s")
        # the other hosts may have done the rest before Ray takes a host for lost
        assert kind != "pretrain" or named(hosts, victim, storage), said(storage)
    finally:
        hosts.restore(victim)
        hosts.kill(victim)
        hosts.start(victim)
    assert made(storage) == made(undisturbed)
    audit = hosts.run(0, [sys.executable, "-m", "nml_ray", "audit", str(storage / "studies/demo")])
    assert audit.returncode == 0, audit.stdout


def test_a_stop_while_two_runs_train(hosts, start, undisturbed, tmp_path):
    storage = tmp_path / "runs"
    shutil.copytree(undisturbed / "ledger", storage / "ledger")
    more = ("run.workers=1", "pretrain.seeds=[0,1]", "run.checkpoint_steps=0", "pretrain.epochs=90")
    process = start(storage, *more)

    def both_train() -> bool:
        found = [read_progress(attempt) for attempt in (storage / "pretrain").glob("*/attempt-*")]
        return len(found) == 4 and all(one and one.done > 0.1 * one.total for one in found)

    assert wait_for(process, both_train), said(storage)
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert process.wait(LONGEST) == 130, said(storage)
    print(f"stopped after {time.monotonic() - begun:.0f} s")
    assert "after a checkpoint" in said(storage) and "no checkpoint came" not in said(storage)
    assert all(committed(attempt) for attempt in (storage / "pretrain").glob("*/attempt-*"))
    until = time.monotonic() + 60
    while (left := at_work(hosts)) and time.monotonic() < until:
        time.sleep(1)
    assert not left


def at_work(hosts: Hosts) -> list[str]:
    """The processes of Ray's actors and tasks, but those that it keeps itself for as long as a cluster goes on."""
    found = [command for host in range(3) for command in hosts.commands(host) if command.startswith("ray::")]
    return [command for command in found if not any(name in command for name in OF_RAY)]


def working(hosts: Hosts, kind: str) -> list[int]:
    """The hosts, but the head, that work on a stage."""
    return [host for host in (1, 2) if any(WORKERS[kind] in command for command in hosts.commands(host))]


def in_the_middle(storage: Path, kind: str) -> bool:
    return 0.15 < told(storage, kind) < 0.9


def told(storage: Path, kind: str) -> float:
    """The share that is done of the stages of a kind."""
    shares = [0.0]
    for attempt in (storage / kind).glob("*/attempt-*"):
        said = read_progress(attempt)
        if (attempt.parent / RECORD).exists():
            shares.append(1.0)
        elif said:
            shares.append(said.done / said.total)
    return max(shares)


def named(hosts: Hosts, host: int, storage: Path) -> bool:
    return f"lost the node {hosts.address_of(host)}" in said(storage)


def said(storage: Path) -> str:
    return storage.with_suffix(".log").read_text()


def finish(process: "subprocess.Popen[bytes]", storage: Path) -> None:
    """Wait for a run's end, which must be a good one."""
    try:
        assert process.wait(LONGEST) == 0, said(storage)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"the run hangs:\n{said(storage)}") from None


def made(storage: Path) -> dict[str, bytes]:
    """What the study is about: weights, features, scores and the numbers of the report."""
    found = {path.name: path.read_bytes() for path in (storage / "studies/demo").glob("*.csv")}
    for kind, pattern in FILES.items():
        for record in (storage / kind).glob(f"*/{RECORD}"):
            artifact = Store(storage).artifact(kind, record.parent.name)
            for path in artifact.path.glob(pattern):
                found[f"{kind}/{artifact.digest}/{path.relative_to(artifact.path)}"] = path.read_bytes()
    assert len(found) > len(FILES)
    return found
