"""The only place that starts Ray, one embedded in this process for this process alone, or joins one that runs."""

import atexit
import importlib.util
import io
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import nml_ray
from nml_ray.config.cores import whole_cores
from nml_ray.config.errors import UserError
from nml_ray.node_watch import NodeWatch
from nml_ray.quiet import END
from nml_ray.reaper import MARK
from nml_ray.token_check import refuse_token

SETTINGS: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # a report blocks until the next poll; Ray polls every 2 s
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # otherwise each print of a worker shows twice
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same everywhere
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's own takes Ctrl-C for the end of a sweep
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives `stop` must not start Ray again by asking it something
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers run in this environment, not in one that uv builds anew
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_agent_register_timeout_ms": "180000",  # as PATIENCE: a node ends where its agents have not come up by then
}
"""Environment of Ray and its workers; what the user has set already stands."""

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
        _set_environment()
        _set_own_token()
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
        _set_environment()
        _set_token_mode()
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
                    runtime_env=None if _sent_along() else _runtime_environment(),
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


def _runtime_environment() -> dict[str, Any]:
    """This package and these settings, for workers on machines that have neither."""
    settings = {name: os.environ[name] for name in (*SETTINGS, "OMP_WAIT_POLICY") if name in os.environ}
    return {"py_modules": [nml_ray.__path__[0]], "env_vars": settings}


def _sent_along() -> bool:
    """Whether this package is code of the Ray job that this process drives: its workers have it, and the job's
    environment, already, and Ray refuses to be told twice."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    code = job.get("runtime_env", {}).get("working_dir")
    return bool(code) and Path(nml_ray.__path__[0]).is_relative_to(Path.cwd())


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


def _set_environment() -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    source = str(Path(nml_ray.__path__[0]).parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source not in paths and source not in sys.path[-1:]:
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *filter(None, paths)])


def _set_own_token() -> None:
    os.environ.pop("RAY_ADDRESS", None)  # would join somebody else's cluster
    # Ray itself turns token mode on for a cluster that it starts, in a process that has imported it before too; with a
    # token in the environment it writes none below the home directory.
    if os.environ.get("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _set_token_mode() -> None:
    """Ray sends a token only when told to, though its own clusters ask for one."""
    there = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").is_file()
    if "RAY_AUTH_TOKEN" in os.environ or there:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
