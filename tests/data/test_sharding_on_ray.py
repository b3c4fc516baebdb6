"""Tars written as tasks of Ray: the bytes of local processes, mistakes as one message, lost processes replaced."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nml_ray.config.errors import UserError
from nml_ray.data.sharding import ShardPlan, Written, write_listing, write_shard
from nml_ray.data.sources.choose import SourceOptions, opened_source
from nml_ray.storage import remote
from nml_ray.storage.location import Location
from tests.object_store import Bucket
from tests.small_images import image_tree, picture

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def shard_on_ray(source: Path, out: Path, **more: object) -> Written:
    from nml_ray.data.sharding_on_ray import spread_on_ray

    with opened_source(str(source), out) as listing:
        elsewhere = lambda plans: spread_on_ray(write_shard, plans)  # noqa: E731
        return write_listing(listing, out, samples_per_shard=5, elsewhere=elsewhere, **more)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_the_bytes_of_local_processes_and_a_second_run_keeps_them(tmp_path: Path) -> None:
    image_tree(tmp_path / "in")
    with opened_source(str(tmp_path / "in"), tmp_path / "here") as listing:
        write_listing(listing, tmp_path / "here", samples_per_shard=5)
    seen: list[tuple[int, int]] = []
    written = shard_on_ray(tmp_path / "in", tmp_path / "ray", progress=lambda *done: seen.append(done))
    assert contents(tmp_path / "ray") == contents(tmp_path / "here") and len(contents(tmp_path / "ray")) == 11
    assert seen[0] == (0, 24) and seen[-1] == (24, 24) and len(seen) == 6
    assert (written.kept, shard_on_ray(tmp_path / "in", tmp_path / "ray").kept) == (0, 5)


def test_each_task_uploads_its_own(tmp_path: Path, bucket: Bucket) -> None:
    from nml_ray.data.sharding_on_ray import spread_on_ray

    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}

    def write(plan: ShardPlan) -> tuple[int, list[str]]:
        os.environ.update(credentials)  # Ray may have been started before there was a bucket
        return write_shard(plan)

    def shard(out: Path | Location) -> Written:
        with opened_source(str(tmp_path / "in"), out, SourceOptions(shared=True)) as listing:
            return write_listing(listing, out, samples_per_shard=5, elsewhere=lambda plans: spread_on_ray(write, plans))

    image_tree(tmp_path / "in")
    shard(tmp_path / "here")
    url = bucket.at("made")
    assert shard(url).kept == 0
    assert {one.name: remote.read(url / one.name) for one in remote.objects(url)} == contents(tmp_path / "here")
    assert shard(url).kept == 5


def test_an_unreadable_image_is_one_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from nml_ray.data.sharding_on_ray import spread_on_ray

    image_tree(tmp_path / "in")
    with opened_source(str(tmp_path / "in"), tmp_path / "out") as listing:
        (tmp_path / "in/cat/cat.v0.jpg").write_bytes(b"short")
        with pytest.raises(UserError, match=r"on node [\d.]+: .*ends before .* 'cat/cat_v0'"):
            write_listing(
                listing,
                tmp_path / "out",
                samples_per_shard=5,
                elsewhere=lambda plans: spread_on_ray(write_shard, plans),
            )
    assert not (tmp_path / "out/dataset.json").exists() and not list((tmp_path / "out").glob("*.part"))
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_task_that_dies_is_begun_anew(tmp_path: Path) -> None:
    from nml_ray.data.sharding_on_ray import spread_on_ray

    def die_once(flag: str) -> str:
        if not os.path.exists(flag):
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return flag

    assert list(spread_on_ray(die_once, [str(tmp_path / "died")])) == [str(tmp_path / "died")]


def test_few_pieces_are_taken_at_a_time() -> None:
    import ray

    from nml_ray.data.processes import AHEAD
    from nml_ray.data.sharding_on_ray import spread_on_ray

    taken: list[int] = []

    def pieces() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    most = AHEAD * int(ray.cluster_resources()["CPU"])
    for done, _ in enumerate(spread_on_ray(abs, pieces()), 1):
        assert len(taken) <= done + most
    assert len(taken) == 20


def run_command(directory: Path, address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nml_ray", "data", "shard", "in", "out", "--short-side", "20", "--ray", address]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=200)


def test_the_command_joins_a_cluster_that_runs(tmp_path: Path) -> None:
    import ray

    image_tree(tmp_path / "in")
    (tmp_path / "in/cat/cat.v0.jpg").write_bytes(picture(0, size=(90, 60)))
    done = run_command(tmp_path, ray.get_runtime_context().gcs_address)
    assert done.returncode == 0 and done.stdout.startswith("24 samples, 3 classes, 1 tars, digest")
    assert [line for line in done.stderr.splitlines() if "samples" not in line] == []


def test_no_cluster_there_is_one_message(tmp_path: Path) -> None:
    done = run_command(tmp_path, "127.0.0.1:1")
    assert done.returncode == 2 and done.stderr.startswith("nml-ray: cannot join the Ray cluster at '127.0.0.1:1'")
    assert done.stderr.count("\n") == 1
