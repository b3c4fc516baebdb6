import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.config.errors import UserError
from nml_ray.features.extract import extract_all
from nml_ray.features.plan import ShardDone, all_items

pytestmark = pytest.mark.ray


def files(directory: str) -> dict[str, bytes]:
    """What counts: a killed actor may leave what it was writing aside, under a hidden name."""
    root = Path(directory)
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def test_actors_leave_the_same_bytes_as_this_process(shared_ray, make_plan, capfd):
    from nml_ray.features.ray_data import extract_on_ray

    inline, on_ray = make_plan("inline"), make_plan("ray")
    items = all_items(inline)
    extract_all(inline, items, lambda images: None)
    capfd.readouterr()
    heard: list[int] = []
    done = extract_on_ray(on_ray, items, workers=(2, 2), report=lambda shard: heard.append(shard.rows))
    assert sorted(heard) == [5, 5, 9, 9]
    assert sorted((shard.split, shard.shard) for shard in done) == sorted((item.split, item.shard) for item in items)
    for one, other in zip(inline.encoders, on_ray.encoders, strict=True):
        assert len(files(one.attempt)) == 8
        assert files(one.attempt) == files(other.attempt)
    # Ray's C++ core has a line for each actor pool, which the session silences or not.
    lines = [line for line in "".join(capfd.readouterr()).splitlines() if "core_worker.cc" not in line]
    assert lines == []


def test_a_pool_that_grows_leaves_the_same_bytes(shared_ray, make_plan):
    from nml_ray.features.ray_data import extract_on_ray

    inline, on_ray = make_plan("inline"), make_plan("ray")
    items = all_items(inline)
    extract_all(inline, items, lambda images: None)
    done = extract_on_ray(on_ray, items, workers=(1, 4), report=lambda shard: None)
    assert len(done) == len(items)
    for one, other in zip(inline.encoders, on_ray.encoders, strict=True):
        assert files(one.attempt) == files(other.attempt)


def test_mistakes_of_the_users_come_back_as_such(shared_ray, make_plan, encoders):
    from nml_ray.features.ray_data import extract_on_ray

    (encoders["colour"] / "encoder.safetensors").unlink()
    plan = make_plan()
    with pytest.raises(UserError, match=r"colour/encoder\.safetensors: no such file"):
        extract_on_ray(plan, all_items(plan), workers=(1, 1), report=lambda shard: None)


def test_it_ends_where_no_node_has_room_any_more(shared_ray, make_plan):
    from nml_ray.features.ray_data import extract_on_ray

    plan = replace(make_plan(), decode_threads=500)
    with pytest.raises(UserError, match=r"run\.extract_workers: .* no node with 501 CPUs"):
        extract_on_ray(plan, all_items(plan), workers=(1, 1), report=lambda shard: None, patience=1)


@pytest.mark.kill
def test_the_shards_of_a_killed_actor_go_to_another(shared_ray, make_plan):
    import ray
    from ray.util.state import list_actors

    from nml_ray.features.ray_data import extract_on_ray

    inline, on_ray = make_plan("inline"), make_plan("ray")
    items = all_items(inline)
    extract_all(inline, items, lambda images: None)
    killed: list[int] = []

    def kill_once(_: ShardDone) -> None:
        if not killed:
            own = ray.get_runtime_context().gcs_address
            actors = list_actors(address=own, filters=[("state", "=", "ALIVE")], detail=True)
            killed.extend(actor.pid for actor in actors if "_ShardWorker" in actor.class_name)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    done = extract_on_ray(on_ray, items, workers=(1, 1), report=kill_once)
    assert killed
    assert len(done) == len(items)
    for one, other in zip(inline.encoders, on_ray.encoders, strict=True):
        assert files(one.attempt) == files(other.attempt)
