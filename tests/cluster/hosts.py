"""Several hosts on one machine, with Ray or bare: network namespaces joined by a bridge that is in a namespace of its
own too, so that nothing of this machine's network is touched. They share one file system, as hosts with NFS do.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from nml_ray.reaper import MARK, marked

NETWORK = "10.213.71."
PORT = 6379
OBJECT_STORE = 80 * 2**20


def missing() -> str:
    """Why there can be no such hosts here; empty where there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if _tool("ip") is None:
        return "not installed: ip (Debian: iproute2)"
    name = f"nml-try-{os.getpid()}"
    tried = subprocess.run([_ip(), "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    _call("netns", "delete", name)
    return ""


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _ip() -> str:
    found = _tool("ip")
    assert found
    return found


def _call(*words: str) -> None:
    done = subprocess.run([_ip(), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Hosts:
    """Hosts while the context is open, the first of them the head.

    Args:
        cpus: of each host, for Ray to hand out.
        ray: whether Ray runs on them.

    Attributes:
        directory: of the hosts' files, readable by root alone.
    """

    def __init__(self, cpus: Sequence[int], *, ray: bool = True) -> None:
        self.directory = Path()
        self._ray = ray
        self._cpus = list(cpus)
        self._name = f"nml-{os.getpid()}"
        self._leave = ExitStack()

    def __enter__(self) -> "Hosts":
        self.directory = Path(self._leave.enter_context(tempfile.TemporaryDirectory(prefix="nml-", dir="/tmp")))
        try:
            self._make_network()
            token = self.directory / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            for host in range(len(self._cpus) if self._ray else 0):
                self.start(host)
        except BaseException:
            self._leave.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._leave.close()

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return f"{self.address_of(0)}:{PORT}"

    def address_of(self, host: int) -> str:
        """A host's own."""
        return f"{NETWORK}{host + 1}"

    def start(self, host: int) -> None:
        """Start Ray on a host on which it does not run."""
        head = ["--head", f"--port={PORT}", "--dashboard-host=127.0.0.1"]
        options = head if host == 0 else [f"--address={self.address}"]
        small = [f"--num-cpus={self._cpus[host]}", f"--object-store-memory={OBJECT_STORE}", "--disable-usage-stats"]
        place = [f"--node-ip-address={self.address_of(host)}", f"--temp-dir={self._temp(host)}"]
        command = [sys.executable, "-m", "nml_ray.cluster.slurm_ray", "start", *options, *small, *place]
        done = self.run(host, command, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr

    def environment(self, host: int) -> dict[str, str]:
        """Of the processes of a host."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "NML_RAY_"))}
        return own | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.directory / "token"),
            "RAY_TMPDIR": str(self._temp(host)),
            "RAY_USAGE_STATS_ENABLED": "0",
            MARK: self._mark(host),
        }

    def popen(self, host: int, command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
        """Start a command on a host, its output in `log`."""
        with open(log, "ab") as file:
            return subprocess.Popen(self._inside(host, command), env=self.environment(host), stdout=file, stderr=file)

    def run(self, host: int, command: Sequence[str], timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host to its end."""
        log = self.directory / f"{host}.out"
        with open(log, "w+") as file:  # no pipe: daemons that a command leaves would hold it
            inside = self._inside(host, command)
            done = subprocess.run(
                inside, env=self.environment(host), stdout=file, stderr=file, check=False, timeout=timeout
            )
        return subprocess.CompletedProcess(inside, done.returncode, log.read_text(), "")

    def cut(self, host: int) -> None:
        """Take a host off the network; its processes go on."""
        _call("-n", self._space(host), "link", "set", "eth0", "down")

    def restore(self, host: int) -> None:
        """Put a host that was cut off back on the network."""
        _call("-n", self._space(host), "link", "set", "eth0", "up")

    def kill(self, host: int) -> None:
        """End all processes of a host at once, as a power cut does to what others see of it."""
        for _ in range(100):
            left = self.pids(host)
            if not left:
                return
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        raise AssertionError(f"processes of host {host} do not end: {left}")

    def pids(self, host: int) -> list[int]:
        """The living processes of a host, by its mark."""
        return [pid for pid in marked(self._mark(host)) if _lives(pid)]

    def commands(self, host: int) -> list[str]:
        """What runs on a host."""
        found = []
        for pid in self.pids(host):
            with suppress(psutil.NoSuchProcess):
                found.append(" ".join(psutil.Process(pid).cmdline()))
        return found

    def _make_network(self) -> None:
        switch = f"{self._name}-switch"
        self._add_space(switch)
        _call("-n", switch, "link", "add", "bridge", "type", "bridge")
        _call("-n", switch, "link", "set", "bridge", "up")
        for host in range(len(self._cpus)):
            space, port = self._space(host), f"port{host}"
            self._add_space(space)
            self._leave.callback(self.kill, host)
            _call("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _call("-n", switch, "link", "set", port, "master", "bridge", "up")
            _call("-n", space, "address", "add", f"{self.address_of(host)}/24", "dev", "eth0")
            _call("-n", space, "link", "set", "eth0", "up")

    def _add_space(self, name: str) -> None:
        _call("netns", "add", name)
        self._leave.callback(_call, "netns", "delete", name)
        _call("-n", name, "link", "set", "lo", "up")

    def _inside(self, host: int, command: Sequence[str]) -> list[str]:
        return [_ip(), "netns", "exec", self._space(host), *command]

    def _space(self, host: int) -> str:
        return f"{self._name}-{host}"

    def _temp(self, host: int) -> Path:
        return self.directory / str(host)  # the paths of sockets may have 107 bytes

    def _mark(self, host: int) -> str:
        return str(self._temp(host))


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
