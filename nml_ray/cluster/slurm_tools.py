"""Slurm's own tools, and what they say as plain data."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nml_ray.cluster.slurm_reasons import words
from nml_ray.cluster.slurm_script import limit_seconds
from nml_ray.cluster.submission import Status
from nml_ray.config.errors import UserError

PATIENCE = 10.0  # seconds for an answer
SUBMIT_PATIENCE = 60.0  # a site's own checks of a submission can take their time
TOOLS = ("sbatch", "scancel", "scontrol", "sinfo", "srun")

_WAITS = {"PENDING", "CONFIGURING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"}
_WAITS |= {"SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNS = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"}


@dataclass(frozen=True)
class Node:
    """A node in a partition.

    Attributes:
        name: Slurm's name for it.
        partition: a partition it is in; a node in two is told twice.
        default: whether that is the default partition.
        limit: longest time of a job there in seconds; None without a limit.
        cpus: CPUs.
        memory: MiB.
        gpus: GPUs.
    """

    name: str
    partition: str
    default: bool
    limit: int | None
    cpus: int
    memory: int
    gpus: int


def refuse_missing(tools: Iterable[str] = TOOLS) -> None:
    """Raises UserError where a tool of Slurm's is not on PATH."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        raise UserError(f"{', '.join(absent)} not on PATH", expected="Slurm's tools: submit from a login machine of it")


def call(
    *command: str, given: str = "", patience: float = PATIENCE, environment: Mapping[str, str] | None = None
) -> str:
    """What a tool of Slurm's prints.

    Args:
        command: the tool and its arguments.
        given: its standard input.
        patience: seconds for its answer.
        environment: of it; this process's own when None.

    Raises:
        UserError: it is not there, does not answer, or refuses: with its own words.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            input=given,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        refuse_missing(command[:1])
        raise
    except subprocess.TimeoutExpired:
        raise UserError(
            f"Slurm did not answer '{command[0]}' within {patience:.0f} s", expected="a controller that runs"
        ) from None
    if done.returncode:
        raise UserError(f"{command[0]} refused: {_words(done.stderr or done.stdout, command[0])}")
    return done.stdout


def _words(text: str, tool: str) -> str:
    lines = [line.removeprefix(f"{tool}: ").removeprefix("error: ") for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-3:])[:400] or "without a word"


def environment(keep: Iterable[str] = ()) -> dict[str, str]:
    """Of sbatch: this process's own without what would change options of the script, or speak of another job.

    Args:
        keep: what of that stays.
    """
    keep = {"SLURM_CONF", "SLURM_CLUSTERS", *keep}
    return {
        name: value
        for name, value in os.environ.items()
        if name in keep or not name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SLURMD_"))
    }


def refuse_options(script: str, environment: Mapping[str, str]) -> None:
    """Have sbatch read a script, in the environment of a submission, without queueing it.

    Raises:
        UserError: an option makes no sense to it. That nodes are down or taken is no reason: jobs wait for them.
    """
    try:
        call("sbatch", "--test-only", given=script, environment=environment)
    except UserError as error:
        if re.search("invalid|unrecognized|unknown|unable to parse", str(error), re.I):
            raise


def nodes() -> list[Node]:
    """All nodes of the cluster."""
    return parse_nodes(call("sinfo", "--noheader", "--Node", "--exact", "--format=%N|%P|%l|%c|%m|%G"))


def parse_nodes(text: str) -> list[Node]:
    """The lines of `sinfo --format=%N|%P|%l|%c|%m|%G`."""
    found = []
    for line in filter(None, text.splitlines()):
        name, partition, limit, cpus, memory, resources = line.split("|")
        limited = limit not in ("infinite", "n/a")
        gpus = sum(int(count) for count in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", resources))
        found.append(
            Node(
                name=name,
                partition=partition.rstrip("*"),
                default=partition.endswith("*"),
                limit=limit_seconds(limit) if limited else None,
                cpus=int(cpus.rstrip("+")),
                memory=int(memory.rstrip("+")),
                gpus=gpus,
            )
        )
    return found


def accounts(user: str) -> list[str]:
    """The accounts that a user may charge; none where Slurm keeps no accounts, or does not tell."""
    command = ("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=account")
    try:
        return sorted(set(filter(None, call(*command).splitlines())))
    except UserError:
        return []


def job_status(job: str) -> Status | None:
    """How a job stands, by the controller or by the accounts; None where both do not know it."""
    try:
        return parse_job(call("scontrol", "--oneliner", "show", "job", job))
    except UserError as error:
        if "Invalid job id" not in str(error):
            raise
    if shutil.which("sacct") is None:
        return None
    try:
        told = call("sacct", "--noheader", "--parsable2", "--allocations", "--jobs", job, "--format=State,ExitCode")
    except UserError:  # it keeps no accounts
        return None
    lines = told.splitlines()
    return parse_account(lines[-1]) if lines else None


def job_named(name: str) -> str:
    """The number of a job of that name that the controller knows; "" if it knows none."""
    numbers = call("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%A").split()
    return numbers[-1] if numbers else ""


def parse_job(text: str) -> Status:
    """The line of `scontrol --oneliner show job`."""
    patterns = (r"\bJobId=(\d+)", r"\bJobState=(\S+)", r"\bReason=(\S+)", r"\bExitCode=(\d+):(\d+)")
    job, state, reason, code = (re.search(pattern, text) for pattern in patterns)
    codes = (int(code[1]), int(code[2])) if code else (0, 0)
    return _status(state[1] if state else "", reason[1] if reason else "", *codes, job[1] if job else "JOB")


def parse_account(line: str) -> Status:
    """A line of `sacct --format=State,ExitCode`."""
    state, _, codes = line.partition("|")
    code, _, signal = codes.partition(":")
    return _status(state.split()[0], "", int(code or 0), int(signal or 0))


def _status(word: str, reason: str, code: int, signal: int, job: str = "JOB") -> Status:
    if word in _WAITS:
        return Status("queued", words(reason, job))
    if word in _RUNS:
        return Status("running")
    exit_code = 128 + signal if signal and not code else code
    if word == "COMPLETED":
        return Status("succeeded", exit_code=0)
    if word == "CANCELLED":
        return Status("stopped", exit_code=exit_code or None)
    messages = {
        "TIMEOUT": "it was still at work at its limit of time, and was killed",
        "OUT_OF_MEMORY": "it used more memory than it had: memory_per_node",
        "NODE_FAIL": "a node was lost",
        "BOOT_FAIL": "a node did not boot",
        "PREEMPTED": "another job took its place",
        "DEADLINE": "its deadline passed",
    }
    return Status("failed", messages.get(word, ""), exit_code=exit_code or 1)


def widest(found: Sequence[Node]) -> str:
    """What the largest nodes have, for messages."""
    most = {name: max(getattr(node, name) for node in found) for name in ("cpus", "memory", "gpus")}
    return f"{most['cpus']} CPUs, {most['memory']} MiB and {most['gpus']} GPUs at most"
