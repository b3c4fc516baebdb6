import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    directory = out.strip()
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
