"""A Ray of one machine with a job server, started by hand as a user would, with a token, and ended without a trace."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from nml_ray.reaper import MARK, marked, reap


class Head:
    """A cluster of this machine; everything of it carries its mark."""

    def __init__(self, cpus: int = 2) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="nml-", dir="/tmp"))  # paths of sockets are short
        self.token_file = self.directory / "token"
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(secrets.token_hex(32))
        port, dashboard, clients, agent = free_ports(4)
        self.address, self.gcs = f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}"
        options = {
            "port": port,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": agent,
            "ray-client-server-port": clients,
            "num-cpus": cpus,
            "temp-dir": self.directory / "ray",
            "object-store-memory": 150_000_000,
        }
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--disable-usage-stats"]
        try:
            subprocess.run(
                [*command, *(f"--{name}={value}" for name, value in options.items())],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process of it, and remove its files."""
        for pid in marked(str(self.directory)):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        reap(str(self.directory))

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {
            **kept,
            MARK: str(self.directory),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self.directory),
            "RAY_agent_register_timeout_ms": "180000",
        }


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
