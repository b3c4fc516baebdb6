"""What a pod does before it is ended: the driver is told and waited for, work is waited for, neither for ever."""

import os
import subprocess
import sys
import time

from nml_ray.cluster import drain

LISTENS = """
import signal, sys, time
def stop(*_):
    print("stopping", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
DEAF = LISTENS.replace("sys.exit(0)", "pass")


def supervisor(code: str, id: str) -> subprocess.Popen[str]:
    """A process that looks like the supervisor of a submission."""
    command = [sys.executable, "-c", code, "-m", "nml_ray.cluster.supervisor", "storage", id, "--"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_the_driver_is_told_and_waited_for():
    own, other = supervisor(LISTENS, f"drain-own-{os.getpid()}"), supervisor(LISTENS, f"drain-other-{os.getpid()}")
    drain.main(["driver", f"drain-own-{os.getpid()}", "60"])
    assert own.communicate()[0] == "stopping\n"
    assert other.poll() is None
    other.kill()
    other.communicate()


def test_a_driver_that_does_not_end_is_waited_for_no_longer_than_said():
    process = supervisor(DEAF, f"drain-deaf-{os.getpid()}")
    drain.main(["driver", f"drain-deaf-{os.getpid()}", "0.1"])
    assert process.poll() is None
    process.kill()
    assert process.communicate()[0] == "stopping\n"


def test_only_what_is_at_work_is_waited_for():
    started = [
        subprocess.Popen(["bash", "-c", f"exec -a '{title}' sleep 60"], stdout=subprocess.DEVNULL)
        for title in ("ray::RayTrainWorker.execute", "ray::IDLE", "raylet")
    ]
    try:
        ours = {process.pid for process in started}
        while {pid for pid, words in drain.commands().items() if pid in ours and "60" in words[1:]} != ours:
            time.sleep(0.05)  # bash has not become sleep yet
        assert ours & set(drain.works()) == {started[0].pid}
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_waiting_ends_with_what_it_waits_for():
    left = [1, 1, 1]
    drain.wait(lambda: left and left.pop(), 60)
    assert left == []
