"""Machines of a lab that are reached by ssh, on one machine: hosts of network namespaces, each with an ssh server, a
home, processes and scratch space of its own. What else lies on the disk they share.
"""

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.cluster import hosts
from tests.cluster.hosts import Hosts
from tests.cluster.slurm_daemons import wait_until

SSHD = "/usr/sbin/sshd"
OWN = ("/tmp/ray", "/tmp/nml-ray-lab")
"""Directories that each machine has for itself: Ray's default, and that of a cluster with the name lab."""
UNSET = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "XDG_STATE_HOME")

CONFIG = """\
ListenAddress {address}
HostKey {home}/host_key
AuthorizedKeysFile {key}.pub
PasswordAuthentication no
StrictModes no
PidFile none
UsePAM no
SetEnv {mark}
"""


def missing() -> str:
    """Why there can be no such machines here; empty where there can."""
    if reason := hosts.missing():
        return reason
    needed = {SSHD: "openssh-server", "ssh-keygen": "openssh-client", "rsync": "rsync", "unshare": "util-linux"}
    lacking = [f"{tool} (Debian: {package})" for tool, package in needed.items() if not shutil.which(tool)]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


class Machines:
    """Machines while the context is open; the last is the user's own, without an ssh server.

    Attributes:
        key: file of the user's private key, which all of them take.
    """

    def __init__(self, count: int) -> None:
        self.key = Path()
        self._count = count
        self._hosts = Hosts([1] * (count + 1), ray=False)
        self._leave = ExitStack()

    def __enter__(self) -> "Machines":
        self._leave.enter_context(self._hosts)
        self.key = self._hosts.directory / "key"
        _keygen(self.key)
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it, Debian's service makes it
        try:
            for number in range(self._count + 1):
                self._make(number)
            for number in range(self._count):
                wait_until(partial(self._listens, number), f"ssh server on machine {number}")
        except BaseException:
            self._leave.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._leave.close()

    def address_of(self, number: int) -> str:
        """A machine's own."""
        return self._hosts.address_of(number)

    def home(self, number: int) -> Path:
        """The user's home on a machine."""
        return self._hosts.directory / f"home-{number}"

    def commands(self, number: int) -> list[str]:
        """What runs on a machine, but for its ssh server."""
        return [command for command in self._hosts.commands(number) if "sshd" not in command]

    def run(self, command: Sequence[str], timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command on the user's machine to its end."""
        return self._hosts.run(self._count, self._apart(self._count, command), timeout)

    def run_on(self, number: int, command: str, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a shell command on one of the machines, by ssh from the user's."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", str(self.key)]
        return self.run(["ssh", *options, f"root@{self.address_of(number)}", command], timeout)

    def _listens(self, number: int) -> bool:
        return "Server listening" in (self.home(number) / "sshd.log").read_text()

    def _make(self, number: int) -> None:
        home = self.home(number)
        home.mkdir()
        if number == self._count:
            return
        _keygen(home / "host_key")
        config = home / "sshd_config"
        mark = f"{hosts.MARK}={self._hosts.environment(number)[hosts.MARK]}"
        config.write_text(CONFIG.format(address=self.address_of(number), home=home, key=self.key, mark=mark))
        self._hosts.popen(number, self._apart(number, [SSHD, "-D", "-e", "-f", str(config)]), home / "sshd.log")

    def _apart(self, number: int, command: Sequence[str]) -> list[str]:
        """A command that sees no processes but its machine's, the machine's home as root's, and `OWN` as its own."""
        lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        users = self.home(number) / "passwd"
        moved = [[*line[:5], str(self.home(number)), *line[6:]] if line[0] == "root" else line for line in lines]
        users.write_text("".join(":".join(line) + "\n" for line in moved))
        script = [
            "mount -t proc proc /proc",
            f"mount --bind {users} /etc/passwd",
            *(f"mkdir -p {directory} && mount -t tmpfs none {directory}" for directory in OWN),
            'exec "$@"',
        ]
        space = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        home = ["env", f"HOME={self.home(number)}", *(f"--unset={name}" for name in UNSET)]
        return [*space, "sh", "-ec", "; ".join(script), "sh", *home, *command]


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
