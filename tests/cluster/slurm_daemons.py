"""A Slurm of its own on loopback: munged, slurmctld and two slurmd of one machine, started here and stopped by pid."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

NODES = ("left", "right")
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=10
FirstJobId={first}
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=6000 Gres=gpu:2
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=5000
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=2 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=3 PreemptMode=OFF
PartitionName=shared Nodes={nodes[0]} MaxTime=1-00:00:00 State=UP
"""


def missing() -> str:
    """Why Slurm cannot be started here; empty where it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    absent = [tool for tool in TOOLS if _tool(tool) is None]
    return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)" if absent else ""


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Slurm:
    """The daemons while the context is open.

    Attributes:
        directory: their files: configuration, logs, state.
        environment: of the tools that talk to them.
    """

    def __init__(self) -> None:
        self.directory = Path()
        self.environment: Mapping[str, str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._leave = ExitStack()

    def __enter__(self) -> "Slurm":
        self.directory = Path(self._leave.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")))
        self.directory.chmod(0o755)
        self._leave.callback(self._stop)
        self.environment = {"SLURM_CONF": str(self.directory / "slurm.conf")}
        try:
            self._configure()
            self._start()
        except BaseException:
            print(self.logs())
            self._leave.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._leave.close()

    def call(self, *command: str) -> str:
        """What one of Slurm's tools says."""
        done = self._call(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def accepts(self, *command: str) -> bool:
        """Whether one of Slurm's tools does what it is told."""
        return self._call(*command).returncode == 0

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def state(self, job: str) -> str:
        """Of a job, such as PENDING."""
        found = re.search(r"JobState=(\S+)", self.call("scontrol", "--oneliner", "show", "job", job))
        assert found
        return found[1]

    def logs(self) -> str:
        """The daemons' own words."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))

    def _configure(self) -> None:
        (self.directory / "state").mkdir()
        key = self.directory / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        first = 10_000 + secrets.randbelow(50_000)  # jobs of another such Slurm on this machine have other numbers
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(directory=self.directory, host=host, nodes=NODES, ports=free_ports(3), first=first)
        (self.directory / "slurm.conf").write_text(text)
        gpus = "".join(f"NodeName={NODES[0]} Name=gpu File=/dev/{device}\n" for device in ("null", "zero"))
        (self.directory / "gres.conf").write_text(gpus)

    def _start(self) -> None:
        at = self.directory
        files = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munge.log"}
        files |= {"pid-file": "munge.pid", "seed-file": "munge.seed"}
        self._run("munged", "--foreground", "--force", *(f"--{name}={at / file}" for name, file in files.items()))
        wait_until((at / "munge.socket").exists, "munged")
        self._run("slurmctld", "-D", "-c")
        for node in NODES:
            self._run("slurmd", "-D", "-N", node)
        wait_until(self._idle, "idle nodes")

    def _run(self, name: str, *arguments: str) -> None:
        tool = _tool(name)
        assert tool
        with open(self.directory / f"{name}.out", "ab") as output:
            environment = {**os.environ, **self.environment}
            process = subprocess.Popen([tool, *arguments], env=environment, stdout=output, stderr=output)
        self._processes.append(process)

    def _idle(self) -> bool:
        told = self._call("sinfo", "--noheader", "--Node", "--format=%N %T").stdout
        return {tuple(line.split()) for line in told.splitlines()} == {(node, "idle") for node in NODES}

    def _stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def left_of(job: str) -> list[str]:
    """What a job has left behind on this machine: its processes, and directories below /tmp."""
    mark = f"SLURM_JOB_ID={job}".encode()
    found = [str(path) for path in Path("/tmp").glob(f"nml-ray-{job}-*")]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def free_ports(count: int) -> Sequence[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def wait_until(there: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait for something that has to come.

    Raises:
        TimeoutError: it did not.
    """
    until = time.monotonic() + seconds
    while not there():
        if time.monotonic() > until:
            raise TimeoutError(f"no {what} in {seconds} s")
        time.sleep(0.2)
