"""The cache on the local disk: each file once, never above its limit, never one that is in use; whoever dies."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nml_ray.config.errors import UserError
from nml_ray.storage import shard_cache
from nml_ray.storage.shard_cache import CachedFile, ShardCache, size_of, size_text

SIZE = 1000


def bring(text: bytes = b"x", calls: list | None = None):
    def write(descriptor: int) -> None:
        if calls is not None:
            calls.append(text)
        os.pwrite(descriptor, text * SIZE, 0)

    return write


@pytest.fixture
def cache(tmp_path) -> ShardCache:
    return ShardCache(tmp_path / "cache", 3 * SIZE)


def names(cache: ShardCache) -> set[str]:
    return {path.name for path in cache.files.iterdir()}


def content(held: CachedFile) -> bytes:
    return os.pread(held.descriptor, 2 * SIZE, 0)


def test_a_file_is_brought_once(cache):
    calls: list = []
    for _ in range(2):
        assert content(cache.fetch("a", SIZE, bring(b"a", calls))) == b"a" * SIZE
    assert calls == [b"a"] and names(cache) == {"a"} and cache.holds("a")


def test_what_has_not_been_used_for_longest_goes_first(cache):
    for number, name in enumerate("abc"):
        cache.fetch(name, SIZE, bring())
        os.utime(cache.files / name, (number, number))
    cache.fetch("a", SIZE, bring())
    cache.fetch("d", SIZE, bring())
    assert names(cache) == {"a", "c", "d"}


def test_what_is_in_use_stays(cache):
    held = [cache.fetch(name, SIZE, bring(name.encode())) for name in "ab"]
    for name in "cdef":
        cache.fetch(name, SIZE, bring())
    assert {"a", "b"} < names(cache) and len(names(cache)) == 3
    assert [content(one) for one in held] == [b"a" * SIZE, b"b" * SIZE]


def test_a_cache_full_of_files_in_use(cache):
    held = [cache.fetch(name, SIZE, bring()) for name in "abc"]
    with pytest.raises(
        UserError, match=r"of 3 kB is full of files in use; expected a larger one \(run\.shard_cache_size"
    ):
        cache.fetch("d", SIZE, bring(), patience=0)
    cache.fetch("d", SIZE, bring(), lambda: bool(held and held.pop()), patience=0)
    assert len(held) == 2 and names(cache) == {"a", "b", "d"}
    threading.Timer(0.3, held.clear).start()
    cache.fetch("e", SIZE, bring())
    with pytest.raises(UserError, match="is too small for a file of 4 kB"):
        cache.fetch("f", 4 * SIZE, bring())


def test_what_fails_leaves_nothing(cache):
    def fail(descriptor: int) -> None:
        os.pwrite(descriptor, b"half", 0)
        raise UserError("the server is gone")

    with pytest.raises(UserError, match="the server is gone"):
        cache.fetch("a", SIZE, fail)
    assert names(cache) == set()
    assert content(cache.fetch("a", SIZE, bring(b"a"))) == b"a" * SIZE


def test_a_full_disk_is_told(cache):
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="its disk is full"):
        cache.fetch("a", SIZE, fail)
    assert names(cache) == set()


def test_indices_outlive_shards(cache):
    cache.fetch("a.index.arrow", SIZE, bring())
    for name in "bcde":
        cache.fetch(name, SIZE, bring())
    assert "a.index.arrow" in names(cache)


def test_many_threads_want_few_files(cache):
    calls: list = []

    def work(number: int) -> None:
        for turn in range(30):
            name = "abcde"[(number + turn) % 5]
            held = cache.fetch(name, SIZE, bring(name.encode(), calls))
            assert content(held) == name.encode() * SIZE

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(path.stat().st_size for path in cache.files.iterdir()) <= cache.limit


SLOW = """
import os, sys, time
from pathlib import Path
from nml_ray.storage.shard_cache import ShardCache
directory, log, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def bring(descriptor):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n")
    os.pwrite(descriptor, b"a" * 500, 0)
    time.sleep(pause)
    os.pwrite(descriptor, b"a" * 500, 500)
held = ShardCache(directory, 3000).fetch("a", 1000, bring)
assert os.pread(held.descriptor, 2000, 0) == b"a" * 1000
"""


def start(cache: ShardCache, log: Path, pause: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SLOW, str(cache.directory), str(log), str(pause)])


def wait_for(path: Path) -> None:
    while not path.exists() or not path.read_text():
        time.sleep(0.02)


def test_several_processes_bring_a_file_once(cache, tmp_path):
    processes = [start(cache, tmp_path / "log", 0.5) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().split()) == 1 and names(cache) == {"a"}


def test_a_killed_process_leaves_nothing_half_and_holds_nobody_up(cache, tmp_path):
    first = start(cache, tmp_path / "log", 600)
    wait_for(tmp_path / "log")
    assert names(cache) == {"a.part"}
    second = start(cache, tmp_path / "log", 0)
    for name in "bcd":  # room for two beside what is on its way, which stays
        cache.fetch(name, SIZE, bring())
    assert names(cache) == {"a.part", "c", "d"}
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert second.wait(60) == 0
    assert "a" in names(cache) and "a.part" not in names(cache)
    assert len((tmp_path / "log").read_text().split()) == 2


def test_what_a_dead_process_left_is_removed_for_room(cache):
    cache.fetch("a", SIZE, bring())
    (cache.files / "z.part").write_bytes(bytes(2 * SIZE))
    os.utime(cache.files / "z.part", (1, 1))
    cache.fetch("b", SIZE, bring())
    assert names(cache) == {"a", "b"}


STRESS = """
import fcntl, os, random, sys
from pathlib import Path
from nml_ray.config.errors import UserError
from nml_ray.storage.shard_cache import ShardCache
cache, dice, held, most = ShardCache(Path(sys.argv[1]), 60_000), random.Random(int(sys.argv[2])), [], 0
for turn in range(int(sys.argv[3])):
    number = dice.randrange(12)
    size = 8_000 + number * 1000
    def bring(descriptor):
        if dice.random() < 0.2:
            raise OSError(5, "dropped")
        os.pwrite(descriptor, bytes([number]) * size, 0)
    try:
        file = cache.fetch(f"n{number}", size, bring, lambda: bool(held and held.pop(0)), 0.02)
        assert os.pread(file.descriptor, 2 * size, 0) == bytes([number]) * size
        assert os.fstat(file.descriptor).st_nlink == 1, "removed while in use"
        held = [*held[-1:], file]
    except (OSError, UserError):
        held.clear()
    with open(cache.directory / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sizes = {}
        for entry in os.scandir(cache.files):
            try:
                status = entry.stat()
                sizes[status.st_ino] = status.st_size
            except FileNotFoundError:
                pass
        most = max(most, sum(sizes.values()))
print(most)
"""


def test_three_processes_keep_the_limit(tmp_path):
    arguments = [sys.executable, "-c", STRESS, str(tmp_path / "cache")]
    processes = [
        subprocess.Popen([*arguments, str(seed), "150"], stdout=subprocess.PIPE, text=True) for seed in range(3)
    ]
    most = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0] and max(most) <= 60_000
    assert not list((tmp_path / "cache/files").glob("*.part"))


def test_a_file_takes_its_name_only_while_nobody_counts(cache):
    """What is being renamed would be seen under neither name by who makes room, and more than the limit be brought."""
    fetched: list = []
    brought, counting = threading.Event(), threading.Event()

    def until_counting(descriptor: int) -> None:
        bring()(descriptor)
        brought.set()
        counting.wait()

    def fetch() -> None:
        fetched.append(cache.fetch("b", SIZE, until_counting))

    thread = threading.Thread(target=fetch)
    thread.start()
    brought.wait()
    with open(cache.directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        counting.set()
        thread.join(0.3)
        assert names(cache) == {"b.part"}
    thread.join()
    assert names(cache) == {"b"} and content(fetched[0]) == b"x" * SIZE


def test_who_waits_for_another_may_give_up(cache):
    class GivenUp(Exception):
        pass

    def give_up() -> None:
        raise GivenUp

    cache.fetch("a", SIZE, bring())
    for lock in ("lock", "locks/b"):
        with open(cache.directory / lock, "w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(GivenUp):
                cache.fetch("b", SIZE, bring(), check=give_up)
    held = [cache.fetch(name, SIZE, bring()) for name in "abc"]
    with pytest.raises(GivenUp):
        cache.fetch("d", SIZE, bring(), check=give_up)
    assert names(cache) == {"a", "b", "c"} and len(held) == 3


def test_sizes():
    assert [size_of(text) for text in ("50GB", "800 MB", "1.5TB", "1GiB", "7", "7B", "2g", "1.5TiB", "0.1kB")] == [
        *(50 * 10**9, 8 * 10**8, 15 * 10**11, 2**30, 7, 7, 2 * 10**9, 3 * 2**39, 100)
    ]
    for text in ("", "GB", "-1GB", "5 parsecs", "0GB", "0.5B", "0.0001kB"):
        with pytest.raises(UserError, match="is no size; expected one such as 50GB"):
            size_of(text)
    told = {0: "0 B", 7: "7 B", 999.7: "1 kB", 1234: "1.23 kB", 5e6: "5 MB", 1.5e12: "1,500 GB"}
    assert {size: size_text(size) for size in told} == told


def test_room_is_what_the_disk_has(cache, monkeypatch):
    assert cache.room() == cache.limit
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert cache.room() == 1


def test_the_default_lies_below_the_users_cache_directory(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert shard_cache.default_directory() == Path("/somewhere/nml_ray/shards")
