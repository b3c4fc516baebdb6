"""The environment in which Ray and its workers run."""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nml_ray

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


def set_environment() -> None:
    """What Ray and its workers are to read, in the environment of this process."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    source = str(Path(nml_ray.__path__[0]).parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source not in paths and source not in sys.path[-1:]:
        os.environ["PYTHONPATH"] = os.pathsep.join([source, *filter(None, paths)])


def set_own_token() -> None:
    """A token for a Ray of this process's own."""
    os.environ.pop("RAY_ADDRESS", None)  # would join somebody else's cluster
    # Ray itself turns token mode on for a cluster that it starts, in a process that has imported it before too; with a
    # token in the environment it writes none below the home directory.
    if os.environ.get("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def set_token_mode() -> None:
    """Ray sends a token only when told to, though its own clusters ask for one."""
    there = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").is_file()
    if "RAY_AUTH_TOKEN" in os.environ or there:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def runtime_environment() -> dict[str, Any]:
    """This package and these settings, for workers on machines that have neither."""
    settings = {name: os.environ[name] for name in (*SETTINGS, "OMP_WAIT_POLICY") if name in os.environ}
    return {"py_modules": [nml_ray.__path__[0]], "env_vars": settings}


def sent_along() -> bool:
    """Whether this package is code of the Ray job that this process drives: its workers have it, and the job's
    environment, already, and Ray refuses to be told twice."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    code = job.get("runtime_env", {}).get("working_dir")
    return bool(code) and Path(nml_ray.__path__[0]).is_relative_to(Path.cwd())
