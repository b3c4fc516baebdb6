"""What is given to Slurm and what it answers, as text: options, quoting, times, states. Starts nothing."""

import shlex
import subprocess

import pytest

from nml_ray.cluster import slurm_script
from nml_ray.cluster.config import SlurmCluster
from nml_ray.cluster.slurm_reasons import NEVER
from nml_ray.cluster.slurm_reasons import words as reason_words
from nml_ray.cluster.slurm_script import limit_seconds, mebibytes, options, render
from nml_ray.cluster.slurm_tools import Node, environment, parse_account, parse_job, parse_nodes
from nml_ray.cluster.submission import Status, Submission


def cluster(**settings: object) -> SlurmCluster:
    return SlurmCluster.model_validate({"kind": "slurm", "directory": "/shared/me", "time": "4:00:00", **settings})


def submission(own: SlurmCluster, *arguments: str) -> Submission:
    data = own.model_dump(mode="json")
    words = ("job.yaml", *arguments)
    return Submission("demo-20261124-153641-k3fq", "demo", data, "/shared/runs", words, "0", "2026-11-24T15:36:41Z")


def script(own: SlurmCluster, *arguments: str) -> str:
    return render(own, submission(own, *arguments))


def lines(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_options_follow_the_cluster_file():
    own = cluster(
        nodes=4,
        cpus_per_node=16,
        gpus_per_node=8,
        memory_per_node="64GiB",
        exclusive=True,
        partition="gpu",
        account="lab",
        qos="high",
        stop_seconds=300,
        options=["--constraint=h100"],
    )
    told = lines(script(own))
    assert {
        *("--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=16", "--gpus-per-node=8", "--mem=65536M", "--exclusive"),
        *("--partition=gpu", "--account=lab", "--qos=high", "--time=4:00:00", "--signal=B:USR1@330", "--requeue"),
        *("--open-mode=append", "--output=/shared/me/demo-20261124-153641-k3fq/output.log"),
    } <= set(told)
    assert told[-1] == "--constraint=h100"


def test_what_is_not_asked_for_is_left_to_slurm():
    left = {"partition", "account", "qos", "cpus-per-task", "gpus-per-node", "mem", "exclusive"}
    assert not left & set(options(cluster(), submission(cluster())))


def test_rays_directory_lies_below_one_that_only_the_user_can_enter():
    text = script(cluster())
    assert 'temp=$(mktemp -d "/tmp/nml-ray-$SLURM_JOB_ID-$SLURM_NODEID.XXXX")' in text
    assert '--temp-dir "$temp/r"' in text


@pytest.mark.parametrize("own", [cluster(), cluster(setup=["module load cuda"], port=7000, environment={"A": "b"})])
def test_the_script_is_bash(own):
    subprocess.run(["bash", "-n"], input=script(own), text=True, check=True)


def test_words_of_the_users_stay_words():
    hostile = "$(touch /tmp/x) '; `id` \" \\ é"
    own = cluster(directory="/shared/a b$(id)", python="/opt/my python", environment={"WORD": hostile})
    text = script(own, "--set", f"title={hostile}")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert f"export WORD={shlex.quote(hostile)}" in text
    assert shlex.quote(f"title={hostile}") in text
    assert "directory='/shared/a b$(id)/demo-20261124-153641-k3fq'" in text
    said = subprocess.run(["bash", "-c", f'{_line(text, "export WORD=")}\nprintf %s "$WORD"'], capture_output=True)
    assert said.stdout.decode() == hostile


def _line(text: str, beginning: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(beginning))


def test_a_percent_sign_in_the_directory_is_no_pattern_of_slurms():
    assert options(cluster(directory="/a%j"), submission(cluster()))["output"].startswith("/a%%j/")


def test_the_job_runs_under_its_supervisor_on_the_ray_of_the_allocation():
    (line,) = (one.strip() for one in script(cluster(), "--until", "heads").splitlines() if "supervisor" in one)
    words = shlex.split(line.removesuffix(" &"))
    assert words[:3] == ["python3", "-m", "nml_ray.cluster.supervisor"]
    assert words[3:6] == ["--stop-seconds", "120", "--of"]
    assert words[10:13] == ["/shared/runs", "demo-20261124-153641-k3fq", "--"]
    assert words[13:19] == ["python3", "-m", "nml_ray", "run", "job.yaml", "--until"]
    assert words[-2:] == ["--address", "$address"]


def test_the_token_is_a_path_and_ray_is_left_alone_where_it_is_not_ours():
    text = script(cluster())
    assert 'RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$directory/token"' in text
    assert "unset RAY_ADDRESS" in text
    assert "scripts stop" not in text and " ray stop" not in text
    assert "RAY_USAGE_STATS_ENABLED:=0" in text
    assert "--dashboard-host 127.0.0.1" in text


@pytest.mark.parametrize("settings", [{"port": 7000}, {}])
def test_ports_are_the_users_or_drawn_from_the_jobs_number(settings):
    drawn = subprocess.run(
        ["bash", "-c", f'SLURM_JOB_ID=123456\n{_line(script(cluster(**settings)), "export port=")}\necho "$port"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(drawn.stdout) == settings.get("port", 20000 + 123456 % 1200 * 10)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("4:00:00", 14400),
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("1-00:00:10", 86410),
    ],
)
def test_limits_of_time_are_read_as_sbatch_reads_them(text, seconds):
    assert limit_seconds(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("64GiB", 65536), ("64G", 65536), ("1.5Ti", 1572864), ("8GB", 7630)])
def test_memory_in_mebibytes(text, size):
    assert mebibytes(text) == size


def test_nodes_are_read():
    text = "a1|gpu*|1-00:00:00|64|515000+|gpu:h100:4(S:0-1),shard:8\na1|long|infinite|64|515000|gpu:a:1,gpu:b:2\n"
    text += "c1|cpu|30:00|128+|250000|(null)\n"
    assert parse_nodes(text) == [
        Node("a1", "gpu", True, 86400, 64, 515000, 4),
        Node("a1", "long", False, None, 64, 515000, 3),
        Node("c1", "cpu", False, 1800, 128, 250000, 0),
    ]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("JobState=PENDING Reason=Resources ExitCode=0:0", ("queued", None)),
        ("JobState=RUNNING Reason=None ExitCode=0:0", ("running", None)),
        ("JobState=COMPLETING Reason=None ExitCode=0:0", ("running", None)),
        ("JobState=COMPLETED Reason=None ExitCode=0:0", ("succeeded", 0)),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=2:0", ("failed", 2)),
        ("JobState=CANCELLED Reason=None ExitCode=0:15", ("stopped", 143)),
        ("JobState=TIMEOUT Reason=TimeLimit ExitCode=0:0", ("failed", 1)),
        ("JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125", ("failed", 253)),
    ],
)
def test_states_of_jobs(line, status):
    told = parse_job(f"JobId=7 JobName=demo {line} RunTime=00:00:04")
    assert (told.state, told.exit_code) == status


def test_why_a_job_waits():
    assert parse_job("JobState=PENDING Reason=Resources").message == "Resources: it waits for nodes that others use"
    assert parse_job("JobState=PENDING Reason=SomethingNew").message == "SomethingNew"
    assert parse_job("JobState=PENDING Reason=None").message == ""
    held = parse_job("JobId=7 JobName=x JobState=PENDING Reason=JobHeldUser")
    assert held.message == f"JobHeldUser: {NEVER}: you hold it; scontrol release 7, or nml-ray stop"


@pytest.mark.parametrize(
    ("reason", "never", "words"),
    [
        ("PartitionTimeLimit", True, "'time' is beyond the partition's limit"),
        ("launch_failed_requeued_held", True, "once that is mended scontrol release 7"),
        ("BadConstraints", True, "no node can ever have"),
        ("QOSMaxWallDurationPerJobLimit", True, "more than one job may have by its qos or account"),
        ("AssocMaxNodePerJobLimit", True, "more than one job may have by its qos or account"),
        ("InvalidAccount", True, "'account' may not be used there"),
        ("DependencyNeverSatisfied", True, "has failed"),
        ("QOSMaxCpuPerUserLimit", False, "it waits for other jobs of yours"),
        ("AssocGrpCPUMinutesLimit", False, "the time of your group is used up"),
        ("AssocGrpNodeLimit", False, "it waits for other jobs of the group"),
        ("ReqNodeNotAvail,_UnavailableNodes:right", False, "down or reserved"),
        ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions", False, "down"),
    ],
)
def test_reasons_of_the_queue_say_what_to_do_and_whether_they_pass(reason, never, words):
    line = reason_words(reason, "7")
    assert line.startswith(f"{reason}: ") and words in line and (NEVER in line) == never


def test_states_of_accounts():
    assert parse_account("CANCELLED by 1000|0:15") == Status("stopped", exit_code=143)
    assert parse_account("COMPLETED|0:0") == Status("succeeded", exit_code=0)


def test_sbatch_does_not_hear_of_another_job(monkeypatch):
    for name in ("SBATCH_TIMELIMIT", "SLURM_JOB_ID", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    kept = environment(["SBATCH_ACCOUNT"])
    assert {"SLURM_CONF", "SBATCH_ACCOUNT", "PATH"} <= set(kept)
    assert not {"SBATCH_TIMELIMIT", "SLURM_JOB_ID"} & set(kept)


def test_names_in_the_script_are_those_that_the_submitter_uses():
    text = script(cluster())
    for name in (slurm_script.STOP, slurm_script.REASON, slurm_script.TOKEN, slurm_script.SCRIPT):
        assert f'"$directory/{name}"' in text
