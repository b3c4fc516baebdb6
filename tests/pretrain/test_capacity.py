"""Workers fit a cluster node by node, and what does not fit is refused with what is missing."""

import pytest

from nml_ray.config.errors import UserError
from nml_ray.pretrain.capacity import Need, Workers, refuse_too_few, room, trials_at_once

ONE, TWO, EIGHT = {"CPU": 1.0, "memory": 1e9}, {"CPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "need", "count"),
    [
        ([ONE, ONE], Need(2), 0),  # two CPUs in all, but on two nodes
        ([ONE, TWO], Need(2), 1),
        ([TWO, TWO], Need(1), 4),
        ([EIGHT, TWO], Need(3), 2),
        ([EIGHT, TWO], Need(2, 1), 2),  # the GPUs run out first
        ([EIGHT], Need(5, 1), 1),
        ([TWO], Need(1, 1), 0),
        ([], Need(1), 0),
    ],
)
def test_room_is_counted_by_node(nodes, need, count):
    assert room(nodes, need) == count


@pytest.mark.parametrize(
    ("cpus", "workers", "each", "at_once"),
    [(2, Workers(), 2, 1), (2, Workers(), 1, 2), (16, Workers(2, 2), 3, 2), (7, Workers(), 2, 3)],
)
def test_trials_fill_the_cluster(cpus, workers, each, at_once):
    assert trials_at_once([{"CPU": cpus}], Need(each), workers) == at_once


def test_elastic_trials_do_not_take_workers_from_each_other():
    assert trials_at_once([EIGHT, EIGHT], Need(2), Workers(1, 4)) == 2
    assert trials_at_once([EIGHT], Need(2), Workers(1, 8)) == 1


def test_what_does_not_fit_is_refused_with_what_there_is():
    with pytest.raises(UserError) as caught:
        refuse_too_few([ONE, ONE], Need(2), Workers())
    assert str(caught.value) == (
        "run.workers: 1: the cluster has room for 0 of 1 worker(s) that need 2 CPUs each, on one node "
        "(nodes: 2 with 1 CPU); expected more nodes or larger ones (run.wait_minutes waits for them), or fewer "
        "run.workers, threads or run.decode_threads"
    )


def test_the_least_of_elastic_workers_must_fit():
    refuse_too_few([TWO], Need(2), Workers(1, 8))
    with pytest.raises(UserError, match=r"run\.workers: \[2, 8\]: .* room for 1 of 2 .* \(nodes: 1 with 2 CPUs\)"):
        refuse_too_few([TWO], Need(2), Workers(2, 8))


def test_missing_gpus_are_named():
    with pytest.raises(UserError, match=r"need 2 CPUs and 1 GPU each.*1 with 8 CPUs and 2 GPUs, 1 with 2 CPUs and 0"):
        refuse_too_few([EIGHT, TWO], Need(2, 1), Workers(3, 3))
