"""The only place that starts Ray, one embedded in this process for this process alone, or joins one that runs."""

import atexit
import importlib.util
import io
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from nml_ray.config.cores import whole_cores
from nml_ray.config.errors import UserError
from nml_ray.node_watch import NodeWatch
from nml_ray.quiet import END
from nml_ray.ray_environment import runtime_environment, sent_along, set_environment, set_own_token, set_token_mode
from nml_ray.reaper import MARK
from nml_ray.token_check import refuse_token

_LAST_LINES = 5.0  # seconds in which the last lines on standard error are passed on
PATIENCE = 180  # seconds that a node may take to come up; Ray's own 30 are too few on a machine that does other things

_RAY = (
    "r"  # below the session's directory: Ray opens its own to everybody (0777), that one stays shut; short, see `start`
)

_directory: Path | None = None
_reaper: subprocess.Popen[bytes] | None = None
_errors: tuple[int, TextIO] | None = None  # a copy of descriptor 2 and the sys.stderr of before
_joined = False
_quiet: subprocess.Popen[bytes] | None = None
_watch: NodeWatch | None = None
_lock = threading.RLock()


def start(cpus: int | None = None) -> None:
    """Start Ray in this process unless it runs already; it ends with `stop`, at the latest with the process.

    Args:
        cpus: what Ray may hand out; all that this process may use when None.

    Raises:
        UserError: the part of Ray that serves its state is not installed.
    """
    global _directory, _reaper
    with _lock:
        if _directory is not None:
            return
        if importlib.util.find_spec("aiohttp_cors") is None:
            raise UserError("Ray's dashboard is not installed", expected="pip install 'ray[default]'")
        set_environment()
        set_own_token()
        logging.getLogger("ray").setLevel(logging.ERROR)  # Ray announces the token mode
        import ray

        root = "/tmp" if os.path.isdir("/tmp") else None  # socket paths may have 107 bytes; TMPDIR is often long
        _directory = Path(tempfile.mkdtemp(prefix="nml-ray-", dir=root))
        _reaper = _start_reaper(_directory)
        atexit.register(stop)
        os.environ[MARK] = str(_directory)
        with open(_directory / "driver.err", "ab") as errors:
            _divert_errors(errors.fileno())
        try:
            with patience(), _own_handler():
                ray.init(
                    address="local",
                    num_cpus=cpus or available_cpus(),
                    include_dashboard=True,  # cleans up after trials that Tune stops
                    dashboard_host="127.0.0.1",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(_directory / _RAY),
                )
        except BaseException:
            stop()
            raise
        finally:
            del os.environ[MARK]


@contextmanager
def patience() -> Iterator[None]:
    """Inside, a node that Ray starts from this process has `PATIENCE` seconds to come up."""
    from ray._private import services

    ask = services.get_node

    def get_node(*arguments: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:  # there is none yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = ask


@contextmanager
def _own_handler() -> Iterator[None]:
    """Ray takes SIGTERM for itself; it goes on to mean here what it meant before."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    yield
    if main:
        signal.signal(signal.SIGTERM, before)


def join(address: str, say: Callable[[str], None] = lambda line: None) -> None:
    """Connect to a cluster that runs already and bring this package to its nodes; `stop` lets it go.

    Args:
        address: HOST:PORT of its head; `auto` takes RAY_ADDRESS, or a cluster that was started on this machine.
        say: hears of nodes that come and that are lost, in a thread of its own.

    Raises:
        UserError: there is none, it refuses, or its token is not here, or it runs another Ray or Python.
    """
    global _joined, _watch, _quiet
    with _lock:
        if _joined:
            return
        set_environment()
        set_token_mode()
        logging.getLogger("ray").setLevel(logging.ERROR)
        import ray

        try:
            _knock(address)
            refuse_token(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
            _quiet = _start_quiet()
            with _own_handler():
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env=None if sent_along() else runtime_environment(),
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            _forget()
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"cannot join the Ray cluster at '{address}' ({reason})",
                expected="HOST:PORT of a cluster with this version of Ray and Python",
            ) from None
        except BaseException:
            _forget()
            raise
        _joined = True
        _watch = NodeWatch(say)
        atexit.register(stop)


def nodes() -> list[dict[str, float]]:
    """What each node that is alive has in all, by Ray's names; Ray has been started or joined."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def started() -> bool:
    """Whether `start` has been called since the last `stop`."""
    return _directory is not None


def stop() -> None:
    """End Ray and remove its files, nothing of it is left running; a cluster that was joined goes on."""
    global _directory, _reaper, _joined, _watch
    with _lock:
        if _joined:
            import ray

            assert _watch is not None
            _watch.stop()
            ray.shutdown()
            _end_quiet()
            _joined, _watch = False, None
            atexit.unregister(stop)
        if _directory is None:
            return
        import ray

        ray.shutdown()
        _restore_errors()
        assert _reaper is not None
        _reaper.communicate()
        _directory = _reaper = None
        atexit.unregister(stop)


def _forget() -> None:
    """Leave a cluster that was not joined after all."""
    import ray

    ray.shutdown()
    _end_quiet()


def _start_quiet() -> subprocess.Popen[bytes]:
    """A process that keeps Ray's own lines from standard error, and passes on the rest (see quiet.py)."""
    script = str(Path(__file__).with_name("quiet.py"))
    quiet = subprocess.Popen(
        [sys.executable, "-I", "-S", script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert quiet.stdin is not None
    _divert_errors(quiet.stdin.fileno())
    quiet.stdin.close()
    return quiet


def _end_quiet() -> None:
    global _quiet
    if _quiet is None:
        return
    with suppress(OSError):
        os.write(2, END)
    _restore_errors()
    with suppress(subprocess.TimeoutExpired):  # a process that was started meanwhile may hold its end of the pipe
        _quiet.wait(_LAST_LINES)
    _quiet = None


def _divert_errors(to: int) -> None:
    """Send what Ray's C++ code writes to descriptor 2 to another; Python's `sys.stderr` goes on as before."""
    global _errors
    if _errors is not None:
        return
    sys.stderr.flush()
    _errors = (os.dup(2), sys.stderr)
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr.fileno() == 2:
        sys.stderr = open(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    os.dup2(to, 2)


def _restore_errors() -> None:
    global _errors
    if _errors is None:
        return
    descriptor, sys.stderr = _errors
    os.dup2(descriptor, 2)
    os.close(descriptor)
    _errors = None


def save_logs(target: Path) -> Path | None:
    """Copy the logs of the running Ray below `target`, replacing older ones; None where Ray was not started.

    Links that lead out of the logs' directory are left out.
    """
    if _directory is None:
        return None
    latest = _directory / _RAY / "session_latest"
    logs = latest.resolve() / "logs"
    if not logs.is_dir() or logs.resolve().parents[1] != latest.parent.resolve():
        return None

    def leading_out(path: str, names: list[str]) -> list[str]:
        return [name for name in names if not (Path(path) / name).resolve().is_relative_to(logs)]

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(logs, target, ignore=leading_out, ignore_dangling_symlinks=True)
    shutil.copyfile(_directory / "driver.err", target / "driver.err")
    return target


def available_cpus() -> int:
    """The CPUs whose time this process really gets: affinity and the control group's quota."""
    return whole_cores()


def _start_reaper(directory: Path) -> subprocess.Popen[bytes]:
    """A process that ends what is left of Ray when this one has ended (see reaper.py)."""
    script = str(Path(__file__).with_name("reaper.py"))
    command = [sys.executable, "-I", "-S", script, str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
