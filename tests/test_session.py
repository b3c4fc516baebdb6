import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nml_ray import session
from nml_ray.reaper import GRACE, marked

DRIVER = """
import sys, time
from nml_ray import session
session.start(1)
import ray

@ray.remote
def answer():
    return 42

print("error of Python", file=sys.stderr)
assert ray.get(answer.remote()) == 42
print(session._directory, flush=True)
print(oct(session._directory.stat().st_mode & 0o777), len(list(session._directory.glob("*/session_latest/logs"))))
if "wait" in sys.argv:
    time.sleep(300)
session.stop()
print("after Ray", file=sys.stderr)
"""


def run_driver(*arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.slow
def test_a_session_ends_without_a_trace_and_without_a_word() -> None:
    driver = run_driver()
    out, err = driver.communicate()
    directory, *rights = out.splitlines()
    assert rights == ["0o700 1"]  # nobody else gets at what Ray opens to everybody
    assert driver.returncode == 0
    assert err == "error of Python\nafter Ray\n"
    assert marked(directory) == []
    assert not Path(directory).exists()


@pytest.mark.kill
def test_a_killed_driver_takes_ray_with_it() -> None:
    driver = run_driver("wait")
    assert driver.stdout is not None
    directory = driver.stdout.readline().strip()
    assert len(marked(directory)) > 5
    driver.kill()
    driver.wait()
    for _ in range(20 * int(GRACE)):
        if not Path(directory).exists():
            break
        time.sleep(0.5)
    assert not Path(directory).exists()
    assert marked(directory) == []


def test_links_that_lead_out_of_the_logs_are_not_copied(tmp_path, monkeypatch) -> None:
    own, secrets = tmp_path / "own", tmp_path / "secrets"
    logs = own / "r" / "session_1" / "logs"
    logs.mkdir(parents=True)
    secrets.mkdir()
    (secrets / "key").write_text("secret")
    (logs / "worker.out").write_text("said")
    (logs / "again.out").symlink_to(logs / "worker.out")
    (logs / "key").symlink_to(secrets / "key")
    (logs / "all").symlink_to(secrets)
    (own / "driver.err").touch()
    latest = own / "r" / "session_latest"
    latest.symlink_to("session_1")
    monkeypatch.setattr(session, "_directory", own)
    saved = session.save_logs(tmp_path / "saved")
    assert saved is not None
    assert sorted(path.name for path in saved.iterdir()) == ["again.out", "driver.err", "worker.out"]
    (secrets / "logs").mkdir()
    latest.unlink()
    latest.symlink_to(secrets)
    assert session.save_logs(tmp_path / "saved") is None


def test_a_directory_of_logs_that_is_a_link_is_not_copied(tmp_path, monkeypatch) -> None:
    (tmp_path / "elsewhere" / "logs").mkdir(parents=True)
    (tmp_path / "r" / "session_1").mkdir(parents=True)
    (tmp_path / "r" / "session_1" / "logs").symlink_to(tmp_path / "elsewhere" / "logs")
    (tmp_path / "r" / "session_latest").symlink_to("session_1")
    monkeypatch.setattr(session, "_directory", tmp_path)
    assert session.save_logs(tmp_path / "saved") is None
