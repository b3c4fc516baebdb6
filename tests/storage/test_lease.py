import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

from nml_ray.storage import lease
from nml_ray.storage.atomic import write_json


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


def test_a_lease_expires_sixty_seconds_after_the_last_beat() -> None:
    elsewhere = lease.Holder("o", "another-host", 1, 0, heartbeat=1000.0)
    assert elsewhere.alive(1059.9)
    assert not elsewhere.alive(1060.0)


def test_an_expired_lease_is_taken_over_and_not_given_back_by_the_old_holder(tmp_path: Path) -> None:
    old = lease.take(tmp_path, clock=lambda: time.time() - 100)
    assert old is not None
    new = lease.take(tmp_path)
    assert new is not None
    old.release()
    found = lease.holder(tmp_path)
    assert found is not None
    assert found.owner == new.owner
    new.release()


def test_a_killed_process_loses_its_lease_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from nml_ray.storage import lease\n"
        "assert lease.take(Path(sys.argv[1])); print('taken', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"taken\n"
    assert lease.take(tmp_path) is None
    holder.kill()
    holder.wait()
    mine = lease.take(tmp_path)
    assert mine is not None
    mine.release()


def test_a_later_process_of_the_same_pid_is_not_the_holder(tmp_path: Path) -> None:
    started = lease.process_started(os.getpid())
    mine = lease.Holder("o", socket.gethostname(), os.getpid(), started, time.time())
    assert mine.alive(time.time())
    assert not replace(mine, started=started + 1).alive(time.time())


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


def test_a_torn_lease_is_none(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("")
    assert lease.holder(tmp_path) is None
