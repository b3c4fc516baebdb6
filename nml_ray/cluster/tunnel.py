"""An ssh tunnel to a port on a machine's loopback, kept up while it is used."""

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from nml_ray.config.errors import UserError

PATIENCE = 9.0  # seconds until the tunnel stands
_PAUSE = 2.0  # seconds before a broken one is opened again


def ssh(host: str, auth: Mapping[str, Any], known_hosts: Path, options: Sequence[str] = ()) -> list[str]:
    """The command line of ssh to a machine, as Ray's launcher reaches it, without its command.

    Args:
        host: name or address.
        auth: of the launcher's document: ssh_user, ssh_private_key, ssh_proxy_command.
        known_hosts: file that keeps the keys of this cluster's machines: rented addresses come back with other keys.
        options: more of ssh's.
    """
    key = ["-i", str(Path(auth["ssh_private_key"]).expanduser())] if auth.get("ssh_private_key") else []
    settings = {
        "BatchMode": "yes",
        "ConnectTimeout": "8",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": str(known_hosts),
        **({"IdentitiesOnly": "yes"} if key else {}),
        **({"ProxyCommand": auth["ssh_proxy_command"]} if auth.get("ssh_proxy_command") else {}),
    }
    listed = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", *key, *listed, *options, f"{auth['ssh_user']}@{host}"]


class Tunnel:
    """Forwards a free port of this machine's loopback; use it in a `with` block.

    Attributes:
        port: the free port.
    """

    def __init__(self, host: str, auth: Mapping[str, Any], port: int, known_hosts: Path) -> None:
        self.host = host
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        forward = f"127.0.0.1:{self.port}:127.0.0.1:{port}"
        self._command = ssh(host, auth, known_hosts, ["-N", "-o", "ExitOnForwardFailure=yes", "-L", forward])
        self._over = threading.Event()
        self._errors: IO[str] = tempfile.TemporaryFile("w+")
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, name="tunnel", daemon=True)

    def __enter__(self) -> Self:
        """Open it.

        Raises:
            UserError: there is no ssh, or the machine cannot be reached, or refuses, within ten seconds.
        """
        try:
            self._open()
        except FileNotFoundError:
            raise UserError("'ssh' is not installed", expected="it on PATH") from None
        until = time.monotonic() + PATIENCE
        while not self._stands():
            assert self._process
            if self._process.poll() is not None or time.monotonic() > until:
                reason = self._reason()
                self.close()
                raise UserError(
                    f"cannot be reached by ssh ({reason})",
                    where=self.host,
                    expected="a cluster that is up (`nml-ray cluster up`), and a key that it takes (ray.auth)",
                )
            time.sleep(0.05)
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._over.set()
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def _open(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors, env=_environment()
        )

    def _stands(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _reason(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("Warning: Permanently added")]
        return lines[-1][:300] if lines else f"no answer within {PATIENCE:.0f} seconds"

    def _keep(self) -> None:
        while not self._over.is_set():
            assert self._process
            self._process.wait()
            if self._over.wait(_PAUSE):
                return
            self._open()
            if self._over.is_set():
                self._process.kill()


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}
