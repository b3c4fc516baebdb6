"""What watches over a Train run's placement group ends with the run's controller, whatever else runs on the machine."""

import time

import pytest

from nml_ray.pretrain.rendezvous import Rendezvous

pytestmark = pytest.mark.ray


def test_it_ends_once_its_controller_is_gone(shared_ray):
    import ray
    from ray.util.placement_group import placement_group, placement_group_table

    from nml_ray.pretrain.cleaner import Cleaner

    @ray.remote(num_cpus=0)
    class Controller:
        def id(self) -> str:
            return str(ray.get_runtime_context().get_actor_id())

    controller = Controller.remote()
    watched = ray.get(controller.id.remote())
    group = placement_group([{"CPU": 1}])
    cleaner = ray.remote(num_cpus=0)(Cleaner).options(lifetime="detached").remote(watched, 0.2, 5.0, 2.0)
    ray.get([cleaner.start_monitoring.remote(), cleaner.register_placement_group.remote(group)])
    ray.kill(controller)
    until = time.monotonic() + 60
    while watches(cleaner) and time.monotonic() < until:
        time.sleep(0.5)
    assert not watches(cleaner)
    assert placement_group_table(group)["state"] == "REMOVED"


def watches(cleaner) -> bool:
    """Whether its process lives."""
    from ray.util.state import get_actor

    found = get_actor(cleaner._actor_id.hex(), address=ray_address())
    return found is not None and found.state != "DEAD"


def ray_address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def test_every_run_has_it():
    from nml_ray.pretrain.cleaner import CleanerCallback
    from nml_ray.pretrain.trainer import Trainer

    trainer = Trainer(print, torch_config=Rendezvous(backend="gloo"))
    names = [type(callback).__name__ for callback in trainer._create_default_callbacks()]
    assert CleanerCallback.__name__ in names and "PlacementGroupCleanerCallback" not in names
