"""A second run of sharding keeps what is right; a run that was killed goes on where it was."""

import signal
import subprocess
import sys

import pytest

from nml_ray.config.errors import UserError
from nml_ray.data.sharding import Written, write_listing
from nml_ray.data.sources.choose import opened_source
from tests.data.sharded import contents, shard, tars
from tests.small_images import image_tree, picture


@pytest.mark.slow
def test_several_processes_write_the_same_bytes(tmp_path):
    image_tree(tmp_path / "images")
    seen: list = []
    shard(tmp_path / "images", tmp_path / "one", progress=lambda *done: seen.append(done))
    shard(tmp_path / "images", tmp_path / "two", workers=2)
    assert tars(tmp_path / "one") == tars(tmp_path / "two") and len(tars(tmp_path / "one")) == 5
    assert (tmp_path / "one/dataset.json").read_bytes() == (tmp_path / "two/dataset.json").read_bytes()
    assert seen == [(0, 24), (5, 24), (10, 24), (15, 24), (20, 24), (24, 24)]


@pytest.mark.slow
def test_an_error_in_a_process_is_told(tmp_path):
    image_tree(tmp_path / "images")
    with opened_source(str(tmp_path / "images"), tmp_path / "out") as listing:
        (tmp_path / "images/cat/cat.v0.jpg").write_bytes(b"short")
        (tmp_path / "images/dog/dog.v0.jpg").unlink()
        with pytest.raises(UserError, match=r"(ends before .* 'cat/cat_v0'|No such file.*dog\.v0\.jpg)"):
            write_listing(listing, tmp_path / "out", samples_per_shard=5, workers=2)
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_second_run_keeps_what_is_right_and_refuses_to_replace(tmp_path):
    image_tree(tmp_path / "in")
    first = shard(tmp_path / "in", tmp_path / "out")
    assert shard(tmp_path / "in", tmp_path / "out") == Written(first.info, 5, ())
    with pytest.raises(UserError, match="finished data set"):
        shard(tmp_path / "in", tmp_path / "out", seed=1)
    assert contents(tmp_path / "out"), "still whole"
    (tmp_path / "in/cat/cat.v0.jpg").write_bytes(picture(99))
    changed = shard(tmp_path / "in", tmp_path / "out", overwrite=True)
    assert changed.kept == 4 and contents(tmp_path / "out")["cat/cat_v0"][0] == picture(99)
    fewer = shard(tmp_path / "in", tmp_path / "out", overwrite=True, samples_per_shard=20)
    assert len(fewer.info.shards) == 2 == len(tars(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.arrow"))) == 2
    (tmp_path / "out" / "mine.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 other tars, such as mine\.tar"):
        shard(tmp_path / "in", tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("missing", ["dataset.json", "shard-000001.index.arrow", "shard-000002.tar"])
def test_what_a_stopped_run_left_is_completed(tmp_path, missing):
    image_tree(tmp_path / "in")
    shard(tmp_path / "in", tmp_path / "out")
    whole = tars(tmp_path / "out")
    (tmp_path / "out/dataset.json").unlink()
    (tmp_path / "out" / missing).unlink(missing_ok=True)
    (tmp_path / "out/.shard-000001.tar.0a0a0a0a.part").write_bytes(b"half")
    assert shard(tmp_path / "in", tmp_path / "out").kept == (5 if missing == "dataset.json" else 4)
    assert tars(tmp_path / "out") == whole and not list((tmp_path / "out").glob(".*"))


KILLED = """
import sys
from pathlib import Path
from nml_ray.data.sharding import write_listing
from nml_ray.data.sources.choose import opened_source

def wait(done, total):
    print(done, flush=True)
    if done >= 10:
        sys.stdin.read()

if __name__ == "__main__":
    out = Path(sys.argv[2])
    with opened_source(sys.argv[1], out) as listing:
        write_listing(listing, out, samples_per_shard=5, workers=int(sys.argv[3]), progress=wait)
"""


@pytest.mark.kill
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on(tmp_path, workers):
    image_tree(tmp_path / "in")
    shard(tmp_path / "in", tmp_path / "undisturbed")
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, "killed.py", "in", "out", str(workers)]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for line in process.stdout:
        if int(line) >= 10:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    stdout = process.stdout.read()  # ends when no process of the run is left to hold it
    assert b"24" not in stdout
    process.stdin.close()
    process.stdout.close()
    assert not (tmp_path / "out/dataset.json").exists()
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.arrow")}
    assert len(times) >= 2
    assert shard(tmp_path / "in", tmp_path / "out").kept == len(times)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in times} == times
    assert tars(tmp_path / "out") == tars(tmp_path / "undisturbed")
