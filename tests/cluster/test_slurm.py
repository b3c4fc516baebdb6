"""Jobs on a real Slurm of two nodes, on loopback. An interpreter that does not know Ray stands in for Python here: the
job is a line of shell, and Ray a process that sleeps; test_slurm_on_ray.py has real jobs."""

import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.cluster.collect import collect
from nml_ray.cluster.config import CodeSettings, SlurmCluster
from nml_ray.cluster.slurm import Cluster
from nml_ray.cluster.submission import Submission, new_id
from nml_ray.config.errors import UserError
from tests.cluster import slurm_daemons
from tests.cluster.slurm_daemons import Slurm, left_of, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(240)]

INTERPRETER = """\
#!/bin/bash
case "$*" in
    *slurm_ray\\ start*) {start} ;;
    *slurm_ray\\ wait*) {wait} ;;
    *supervisor*)
        while [ "$1" != run ]; do shift; done
        exec bash -c "$2" ;;
    *) exec {python} "$@" ;;
esac
"""
UNTIL_THERE = 'until [ -s "$4" ]; do sleep 0.1; done'
WAITS_FOR_END = 'trap "echo checkpoint; exit 143" TERM; echo at work; for i in {1..600}; do sleep 0.1; done'


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if reason := slurm_daemons.missing():
        pytest.skip(reason)
    with Slurm() as daemons:
        yield daemons


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[..., str]:
    def write(start: str = "exec sleep 600", wait: str = UNTIL_THERE) -> str:
        path = tmp_path / "interpreter"
        path.write_text(INTERPRETER.format(start=start, wait=wait, python=shlex.quote(sys.executable)))
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def cluster(slurm, interpreter, tmp_path, monkeypatch) -> Callable[..., Cluster]:
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)

    def make(**settings: object) -> Cluster:
        given = {"kind": "slurm", "directory": str(tmp_path / "shared"), "time": "10", "nodes": 2, "cpus_per_node": 2}
        given |= {"stop_seconds": 20, "python": settings.get("python") or interpreter()}
        return Cluster(SlurmCluster.model_validate({**given, **settings}))

    return make


def submit(cluster: Cluster, tmp_path: Path, line: str) -> Submission:
    """Submit a line of shell in place of the job."""
    code = tmp_path / "code"
    code.mkdir(exist_ok=True)
    (code / "job.yaml").write_text("name: demo\n")
    package = collect(CodeSettings(directory=str(code)), code / "job.yaml").package
    data = cluster.cluster.model_dump(mode="json")
    storage = str(tmp_path / "storage")
    made = Submission(new_id("demo"), "demo", data, storage, (line,), package.digest, "2026-11-24T15:36:41Z")
    return replace(made, handle=cluster.submit(made, package))


def output(cluster: Cluster, submission: Submission) -> str:
    path = Path(cluster.cluster.directory) / submission.id / "output.log"
    return path.read_text() if path.exists() else ""


def wait_for_output(cluster: Cluster, submission: Submission, word: str) -> None:
    wait_until(lambda: word in output(cluster, submission), f"'{word}' in the output")


def wait_for_state(slurm: Slurm, submission: Submission, state: str) -> None:
    wait_until(lambda: slurm.state(submission.handle["job"]) == state, state, 120)


def leaves_nothing(submission: Submission) -> None:
    try:
        wait_until(lambda: left_of(submission.handle["job"]) == [], "end of everything")
    except TimeoutError:
        assert left_of(submission.handle["job"]) == []


def test_a_job_runs_and_leaves_nothing(cluster, tmp_path):
    own = cluster()
    submission = submit(own, tmp_path, 'echo "in $PWD"; env')
    told = "".join(own.follow(submission))
    assert f"in {tmp_path}/shared/{submission.id}/code\n" in told
    assert told.endswith("nml-ray: done\n")
    status = own.status(submission)
    assert (status.state, status.exit_code) == ("succeeded", 0)
    assert own.printed(submission) == told
    leaves_nothing(submission)


def test_a_job_whose_number_never_came_back_is_found_by_its_name(cluster, tmp_path):
    own = cluster()
    submission = submit(own, tmp_path, "sleep 300")
    unnumbered = replace(submission, handle={"sender": "1"})
    assert own.status(unnumbered) is not None
    own.stop(unnumbered)
    wait_until(lambda: own.status(submission).ended, "the end")
    assert own.status(replace(unnumbered, id="demo-none")) is None
    leaves_nothing(submission)


def test_the_token_is_for_its_owner_alone_and_told_nowhere(cluster, tmp_path):
    own = cluster()
    submission = submit(own, tmp_path, "env")
    told = "".join(own.follow(submission))
    directory = tmp_path / "shared" / submission.id
    token = (directory / "token").read_text()
    assert len(token) == 64
    assert stat.S_IMODE((directory / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert f"RAY_AUTH_TOKEN_PATH={directory}/token" in told
    assert token not in told + (directory / "job.sh").read_text()


def test_a_failed_job_fails_with_its_exit_code_and_is_not_queued_again(cluster, slurm, tmp_path):
    own = cluster()
    submission = submit(own, tmp_path, "echo wrong; exit 3")
    assert "wrong\n" in "".join(own.follow(submission))
    status = own.status(submission)
    assert (status.state, status.exit_code, status.message) == ("failed", 3, "the job failed with exit code 3")
    leaves_nothing(submission)


def test_a_job_waits_in_the_queue_says_why_and_leaves_it(cluster, slurm, tmp_path):
    own = cluster()
    first = submit(own, tmp_path, WAITS_FOR_END)
    wait_for_output(own, first, "at work")
    second = submit(own, tmp_path, "echo never")
    pieces = own.follow(second)
    told = next(piece for piece in pieces if "Resources" in piece)
    assert told == "nml-ray: waits in the queue (Resources: it waits for nodes that others use)\n"
    assert own.status(second).state == "queued"
    own.stop(second)
    assert list(pieces) == []
    assert own.status(second).state == "stopped"
    assert own.status(first).state == "running"
    own.stop(first)
    assert "checkpoint\n" in "".join(own.follow(first))
    leaves_nothing(first)


def test_a_job_that_never_starts_says_so_once_and_what_to_do(cluster, slurm, tmp_path):
    own = cluster(options=["--hold"])
    submission = submit(own, tmp_path, "echo at last")
    job = submission.handle["job"]
    pieces = own.follow(submission)
    held = f"JobHeldUser: it never starts by itself: you hold it; scontrol release {job}, or nml-ray stop"
    assert next(pieces) == f"nml-ray: waits in the queue ({held})\n"
    assert own.status(submission).message == held
    slurm.call("scontrol", "update", "PartitionName=main", "MaxTime=5")
    try:
        slurm.call("scontrol", "release", job)
        told = next(pieces)
        while "PartitionTimeLimit" not in told:  # its priority comes first
            told = next(pieces)
        assert "it never starts by itself: 'time' is beyond the partition's limit; nml-ray stop" in told
    finally:
        slurm.call("scontrol", "update", "PartitionName=main", "MaxTime=60")
    rest = "".join(pieces)
    assert "PartitionTimeLimit" not in rest and "at last\n" in rest
    leaves_nothing(submission)


def test_stop_lets_a_job_reach_its_checkpoint_and_it_stays_stopped(cluster, slurm, tmp_path):
    own = cluster()
    submission = submit(own, tmp_path, WAITS_FOR_END)
    wait_for_output(own, submission, "at work")
    own.stop(submission)
    assert "".join(own.follow(submission)).endswith("at work\ncheckpoint\nnml-ray: stopped\n")
    status = own.status(submission)
    assert (status.state, status.exit_code) == ("stopped", 143)
    assert "Restarts=0" in slurm.call("scontrol", "show", "job", submission.handle["job"])
    leaves_nothing(submission)


def test_a_stop_while_ray_comes_up_ends_the_job(cluster, interpreter, tmp_path):
    own = cluster(python=interpreter(wait="echo comes up; exec sleep 100"))
    submission = submit(own, tmp_path, "echo never")
    wait_for_output(own, submission, "comes up")
    own.stop(submission)
    assert "never" not in "".join(own.follow(submission))
    assert own.status(submission).state == "stopped"
    leaves_nothing(submission)


def test_scancel_ends_all_and_nothing_is_queued_again(cluster, slurm, tmp_path):
    own = cluster()
    submission = submit(own, tmp_path, WAITS_FOR_END)
    wait_for_output(own, submission, "at work")
    slurm.call("scancel", submission.handle["job"])
    wait_for_state(slurm, submission, "CANCELLED")
    assert own.status(submission).state == "stopped"
    leaves_nothing(submission)


def test_a_node_whose_ray_is_killed_is_cleared_up_all_the_same(cluster, slurm, tmp_path):
    own = cluster()
    submission = submit(own, tmp_path, WAITS_FOR_END)
    job = submission.handle["job"]
    wait_for_output(own, submission, "at work")
    there = [node for node in "01" if list(Path("/tmp").glob(f"nml-ray-{job}-{node}.*"))]
    assert there == ["0", "1"]
    slurm.call("scancel", "--signal=KILL", f"{job}.0")
    wait_until(lambda: not list(Path("/tmp").glob(f"nml-ray-{job}-*")), "end of directories")
    own.stop(submission)
    "".join(own.follow(submission))
    leaves_nothing(submission)


def test_a_job_that_is_warned_of_its_limit_is_queued_again_and_goes_on(cluster, slurm, tmp_path):
    own = cluster(restarts=1)
    line = f'if [ "$SLURM_RESTART_COUNT" = 1 ]; then echo goes on; else {WAITS_FOR_END}; fi'
    submission = submit(own, tmp_path, line)
    wait_for_output(own, submission, "at work")
    slurm.call("scancel", "--batch", "--signal=USR1", submission.handle["job"])
    told = "".join(own.follow(submission))
    assert told.index("checkpoint\n") < told.index("queued again") < told.index("goes on\n")
    assert own.status(submission).state == "succeeded"
    leaves_nothing(submission)


def test_restarts_come_to_an_end(cluster, slurm, tmp_path):
    own = cluster(restarts=0)
    submission = submit(own, tmp_path, WAITS_FOR_END)
    wait_for_output(own, submission, "at work")
    slurm.call("scancel", "--batch", "--signal=USR1", submission.handle["job"])
    "".join(own.follow(submission))
    status = own.status(submission)
    assert (status.state, status.exit_code) == ("failed", 143)
    assert status.message.startswith("the limit of time was reached after 0 restarts")


def test_a_job_stopped_between_two_attempts_does_not_begin_again(cluster, slurm, tmp_path):
    own = cluster()
    submission = submit(own, tmp_path, WAITS_FOR_END)
    wait_for_output(own, submission, "at work")
    slurm.call("scancel", "--batch", "--signal=USR1", submission.handle["job"])
    wait_for_output(own, submission, "queued again")
    own.stop(submission)
    told = "".join(own.follow(submission))
    assert told.count("at work") == 1
    assert own.status(submission).state == "stopped"
    leaves_nothing(submission)


def test_a_job_whose_node_is_lost_is_queued_again(cluster, slurm, tmp_path):
    own = cluster()
    line = f'if [ "$SLURM_RESTART_COUNT" = 1 ]; then echo goes on; else {WAITS_FOR_END}; fi'
    submission = submit(own, tmp_path, line)
    wait_for_output(own, submission, "at work")
    slurm.call("scontrol", "update", "NodeName=right", "State=DOWN", "Reason=lost")
    wait_for_state(slurm, submission, "PENDING")
    slurm.accepts("scontrol", "update", "NodeName=right", "State=RESUME")  # it comes back by itself, too
    assert "goes on\n" in "".join(own.follow(submission))
    assert own.status(submission).state == "succeeded"
    leaves_nothing(submission)


def test_a_job_that_makes_way_for_another_is_queued_again(cluster, slurm, tmp_path):
    """Slurm ends what srun started first: a job fails when its Ray is gone."""
    own = cluster()
    fails = "echo at work; until grep -q CANCELLED ../output.log; do sleep 0.1; done; exit 1"
    line = f'if [ "$SLURM_RESTART_COUNT" = 1 ]; then echo goes on; else {fails}; fi'
    submission = submit(own, tmp_path, line)
    wait_for_output(own, submission, "at work")
    slurm.call("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
    told = "".join(own.follow(submission))
    assert told.index("another job takes its place") < told.index("goes on\n")
    assert own.status(submission).state == "succeeded"
    leaves_nothing(submission)


def test_a_node_on_which_ray_does_not_come_up_is_named(cluster, interpreter, tmp_path):
    """Nothing starts on either, and the real wait sees srun end."""
    wait = f'exec {shlex.quote(sys.executable)} "$@"'
    own = cluster(python=interpreter(start="echo no such module; exit 1", wait=wait))
    submission = submit(own, tmp_path, "echo never")
    told = "".join(own.follow(submission))
    assert "nml-ray: Ray has ended on right:\nno such module\n" in told
    assert "Ray has ended before it had come up on left, right" in told
    status = own.status(submission)
    assert (status.state, status.message) == ("failed", "Ray did not come up on all nodes")
    leaves_nothing(submission)


def test_what_slurm_refuses_leaves_nothing_behind(cluster, tmp_path):
    own = cluster(options=["--partition=nowhere"])
    with pytest.raises(UserError, match=r"sbatch refused: .*invalid partition"):
        submit(own, tmp_path, "echo never")
    assert list((tmp_path / "shared").iterdir()) == []


def test_words_travel_whole(cluster, tmp_path):
    words = "a  b 'c' \"d\" $(id) `id` \\ % é"
    directory = tmp_path / "with space %j 'q'"
    own = cluster(directory=str(directory), environment={"WORDS": words}, nodes=1)
    submission = submit(own, tmp_path, f'printf "<%s>\\n" "$WORDS" {shlex.quote(words)}; pwd')
    told = "".join(own.follow(submission))
    assert f"<{words}>\n<{words}>\n{directory}/{submission.id}/code\n" in told


def test_what_fits_is_told(cluster):
    assert cluster().check()[0].startswith("Slurm, partition main: 2 of 2 nodes that fit, each with 2 CPUs")
    assert cluster(partition="shared", nodes=1, gpus_per_node=2, time="12:00:00").check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "mian"}, "expected one of main, shared, urgent; did you mean 'main'"),
        ({"nodes": 3}, r"partition main has: 2 such nodes \(of 2"),
        ({"gpus_per_node": 1}, "1 such nodes"),
        ({"cpus_per_node": 64}, "2 CPUs, 6000 MiB and 2 GPUs at most"),
        ({"memory_per_node": "1TiB"}, "0 such nodes"),
        ({"time": "3:00:00"}, "60 minutes at most"),
        ({"time": "2"}, "leaves no time for work"),
        ({"cpus_per_node": None}, "or exclusive: true"),
        ({"options": ["--bogus=1"]}, r"sbatch refused: .*unrecognized option '--bogus=1'"),
        ({"options": ["--constraint=nowhere"]}, "Invalid feature specification"),
        ({"options": ["--begin=soon"]}, "sbatch refused: Invalid time specification"),
        ({"directory": "runs"}, "an absolute path"),
        ({"directory": f"{__file__}/me"}, "test_slurm.py' is not"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(cluster, settings, message):
    with pytest.raises(UserError, match=message):
        cluster(**settings).check()


def test_a_job_that_slurm_does_not_know_has_no_status(cluster, tmp_path):
    own = cluster()
    gone = Submission("demo-1", "demo", {}, "/s", ("x",), "0", "now", {"job": "99999"})
    assert own.status(gone) is None
    assert list(own.follow(gone)) == []


def test_a_controller_that_is_gone_is_one_line_within_ten_seconds(cluster, tmp_path, monkeypatch):
    port = slurm_daemons.free_ports(1)[0]
    conf = Path(os.environ["SLURM_CONF"])
    text = "".join(
        f"SlurmctldPort={port}\n" if line.startswith("SlurmctldPort") else f"{line}\n"
        for line in conf.read_text().splitlines()
    )
    other = tmp_path / "slurm.conf"
    other.write_text(text)
    monkeypatch.setenv("SLURM_CONF", str(other))
    with pytest.raises(UserError, match=r"Slurm did not answer|refused"):
        cluster().check()


def test_tools_that_are_not_there_are_named(cluster, monkeypatch, tmp_path):
    own = cluster()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch, scancel, scontrol, sinfo, srun not on PATH"):
        own.check()


def test_what_is_rendered_is_what_is_sent(cluster, tmp_path, slurm):
    own = cluster()
    submission = submit(own, tmp_path, "exit 0")
    "".join(own.follow(submission))
    sent = (tmp_path / "shared" / submission.id / "job.sh").read_text()
    package = collect(CodeSettings(directory=str(tmp_path / "code")), tmp_path / "code/job.yaml").package
    assert own.render(submission, package) == sent
    assert subprocess.run(["bash", "-n"], input=sent, text=True).returncode == 0
