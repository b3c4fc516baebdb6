import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nml_ray.storage.atomic import create_json, read_json, write_bytes, write_json


def test_absent_file_reads_as_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") is None


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    write_json(tmp_path / "a.json", {"x": "é"})
    assert read_json(tmp_path / "a.json") == {"x": "é"}
    assert os.listdir(tmp_path) == ["a.json"]


def test_create_keeps_the_first(tmp_path: Path) -> None:
    assert create_json(tmp_path / "r.json", 1)
    assert not create_json(tmp_path / "r.json", 2)
    assert read_json(tmp_path / "r.json") == 1
    assert os.listdir(tmp_path) == ["r.json"]


def _race(path: Path, number: int, barrier, wins) -> None:
    barrier.wait()
    if create_json(path, {"winner": number, "ballast": "x" * 100_000}):
        wins.put(number)


def test_of_many_creators_one_wins_and_its_content_stands(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for round_ in range(5):
        path, barrier, wins = tmp_path / f"{round_}.json", fork.Barrier(4), fork.SimpleQueue()
        racers = [fork.Process(target=_race, args=(path, number, barrier, wins)) for number in range(4)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert read_json(path)["winner"] == wins.get()
        assert wins.empty()


@pytest.mark.long
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "state.bin"
    write_bytes(path, b"a" * 300_000)
    code = (
        "import sys; from pathlib import Path; from nml_ray.storage.atomic import write_bytes\n"
        "path = Path(sys.argv[1]); print('go', flush=True)\n"
        "while True:\n"
        "    for letter in b'ab': write_bytes(path, bytes([letter]) * 300_000, durable=False)\n"
    )
    for delay in range(5):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(20 * delay):
            content = path.read_bytes()
            assert len(content) == 300_000
            assert len(set(content)) == 1
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        content = path.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1
