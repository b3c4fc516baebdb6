import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nml_ray.config.errors import UserError
from nml_ray.storage import lease
from nml_ray.storage.atomic import write_json
from nml_ray.storage.pulse import Pulse, process_started, this_machine


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    mine = lease.take(tmp_path)
    assert mine is not None
    assert lease.take(tmp_path) is None
    mine.release()
    assert lease.holder(tmp_path) is None
    again = lease.take(tmp_path)
    assert again is not None
    again.release()


def test_of_many_takers_one_gets_it(tmp_path: Path) -> None:
    taken: list[lease.Lease | None] = []
    threads = [threading.Thread(target=lambda: taken.append(lease.take(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [one for one in taken if one]
    assert len(taken) == 8
    assert len(winners) == 1
    winners[0].release()


class Watch:
    """A taker whose clock the test moves."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now = directory, 0.0
        self.pulse = Pulse(lambda: self.now)

    def takes(self, seconds: float) -> bool:
        self.now += seconds
        taken = lease.take(self.directory, self.pulse)
        if taken:
            taken.release()
        return taken is not None


@pytest.mark.parametrize("ahead", [-70.0, 0.0, 3600.0, -1e9])
def test_a_lease_is_void_when_it_was_silent_for_sixty_seconds_whatever_its_clock_says(tmp_path, ahead) -> None:
    elsewhere, watch = lease.Holder("o", "another-host", 1, 0, time.time() + ahead), Watch(tmp_path)
    for seconds, beat in ((0, 0), (59, 0), (59, 10), (59, 20), (59, 20)):
        write_json(tmp_path / lease.LEASE, asdict(replace(elsewhere, heartbeat=elsewhere.heartbeat + beat)))
        assert not watch.takes(seconds)
    assert watch.takes(1)


def test_one_look_is_enough_at_a_lease_that_is_an_hour_old_by_the_storages_clock(tmp_path: Path) -> None:
    write_json(tmp_path / lease.LEASE, asdict(lease.Holder("o", "another-host", 1, 0, time.time() + 1e6)))
    assert lease.held(tmp_path) and not Watch(tmp_path).takes(0)
    os.utime(tmp_path / lease.LEASE, (0, time.time() - lease.STALE - 1))
    assert not lease.held(tmp_path) and Watch(tmp_path).takes(0)


def test_the_same_pid_in_another_container_of_this_host_may_live(tmp_path: Path) -> None:
    there = lease.Holder("o", socket.gethostname(), 2**22 + 1, 5, time.time(), this_machine())
    assert there.dead
    boot, _, _ = this_machine().partition(" ")
    for machine in (f"{boot} pid:[1]", "another-boot pid:[4026531836]", ""):
        container = replace(there, machine=machine)
        write_json(tmp_path / lease.LEASE, asdict(container))
        assert not container.dead and lease.held(tmp_path) and lease.take(tmp_path) is None


_HOLD = (
    "import sys, time; from pathlib import Path; from nml_ray.storage import lease\n"
    "assert lease.take(Path(sys.argv[1])); print('taken', flush=True); time.sleep(60)\n"
)


def test_a_holder_in_another_pid_namespace_keeps_its_lease(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no pid namespace can be made here")
    command = [*unshare, sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as inside:
        assert inside.stdout and inside.stdout.readline() == b"taken\n"
        assert lease.take(tmp_path) is None
        inside.kill()


def test_an_expired_lease_is_taken_over_and_not_given_back_by_the_old_holder(tmp_path: Path) -> None:
    old = lease.take(tmp_path)
    assert old is not None
    pulse = Pulse(iter([0.0, 60.0]).__next__)
    assert lease.take(tmp_path, pulse) is None
    new = lease.take(tmp_path, pulse)
    assert new is not None
    old.release()
    found = lease.holder(tmp_path)
    assert found is not None
    assert found.owner == new.owner
    new.release()


def test_a_killed_process_loses_its_lease_at_once(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"taken\n"
    assert lease.take(tmp_path) is None
    holder.kill()
    holder.wait()
    mine = lease.take(tmp_path)
    assert mine is not None
    mine.release()


def test_a_later_process_of_the_same_pid_is_not_the_holder(tmp_path: Path) -> None:
    started = process_started(os.getpid())
    mine = lease.Holder("o", socket.gethostname(), os.getpid(), started, time.time(), this_machine())
    assert not mine.dead
    assert replace(mine, started=started + 1).dead


def test_a_heartbeat_ends_when_another_has_taken_over(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    mine = lease.take(tmp_path)
    assert mine is not None
    first = lease.holder(tmp_path)
    assert first is not None
    beaten = threading.Event()

    def watch() -> None:
        while lease.holder(tmp_path).heartbeat == first.heartbeat:  # type: ignore[union-attr]
            time.sleep(0.005)
        beaten.set()

    threading.Thread(target=watch, daemon=True).start()
    assert beaten.wait(10)
    write_json(tmp_path / lease.LEASE, asdict(lease.Holder("other", "another-host", 1, 0, time.time())))
    mine._thread.join(10)
    assert not mine._thread.is_alive()
    mine.release()
    found = lease.holder(tmp_path)
    assert found is not None
    assert found.owner == "other"


def test_a_heart_beats_on_when_the_storage_could_not_be_written_for_a_while(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    mine = lease.take(tmp_path)
    assert mine is not None
    failed, write = threading.Event(), lease.write_json

    def full(*args, **options) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lease, "write_json", full)
    assert failed.wait(10)
    monkeypatch.setattr(lease, "write_json", write)
    before = lease.holder(tmp_path)
    for _ in range(1000):
        if lease.holder(tmp_path) != before:
            break
        time.sleep(0.01)
    else:
        raise AssertionError("no beat any more")
    mine.release()


_WHOLE = '"owner": "o", "host": "h", "pid": 1, "started": 1, "heartbeat": 1'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '"x"',
        '{"a": 1}',
        "[" * 100_000,
        f"{{{_WHOLE}, 'x'",
        f'{{{_WHOLE}, "pid": "x"}}',
        f'{{{_WHOLE}, "pid": 1.5}}',
        f'{{{_WHOLE}, "host": "\\u001b]0;title"}}',
        f'{{{_WHOLE}, "heartbeat": NaN}}',
        f'{{{_WHOLE}, "heartbeat": 1{"0" * 400}}}',
    ],
)
def test_what_is_no_whole_lease_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "lease.json").write_text(text)
    assert lease.holder(tmp_path) is None and not lease.held(tmp_path)
    mine = lease.take(tmp_path)
    assert mine is not None
    mine.release()


def test_a_lease_of_another_version_counts(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text(f'{{{_WHOLE}, "newer": 1}}')
    assert lease.take(tmp_path) is None


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / ".lease.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"1/\.lease\.lock: cannot be locked"):
        lease.take(tmp_path / "1")
    assert (tmp_path / "precious").read_text() == "text"
