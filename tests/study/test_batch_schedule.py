"""Batches run after their inputs, side by side only as far as the cluster has room, and none waits for ever."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nml_ray.study.graph import ordered
from nml_ray.study.schedule import Batch, Node, Schedule, batches_of, fits, shared
from nml_ray.study.stage import Resources, Stage

KINDS = [
    Resources(),
    Resources(1, 0, 1),
    Resources(2, 0, 1),
    Resources(1, 0, 3),
    Resources(3, 0, 2),
    Resources(1, 0.5, 2),
]


@st.composite
def graphs(draw: st.DrawFn) -> list[Batch]:
    count = draw(st.integers(1, 10))
    return [
        Batch(
            (f"b{n}",),
            frozenset(draw(st.sets(st.integers(0, n - 1), max_size=3)) if n else ()),
            draw(st.sampled_from(KINDS)),
        )
        for n in range(count)
    ]


def clusters() -> st.SearchStrategy[list[Node]]:
    node = st.builds(lambda cpus, gpus: {"CPU": cpus, "GPU": gpus}, st.integers(1, 6), st.integers(0, 2))
    return st.lists(node, max_size=3)


@given(graphs(), clusters(), st.data())
def test_every_batch_runs_once_after_its_inputs_and_within_the_cluster(graph, nodes, choose):
    schedule, ended, started = Schedule(graph), set[int](), list[int]()
    while not schedule.finished:
        now = schedule.start(nodes)
        started += now
        assert schedule.running
        for number in now:
            assert graph[number].after <= ended
        on_cluster = [n for n in schedule.running if graph[n].resources.processes]
        assert len(schedule.running) - len(on_cluster) <= 1
        if len(on_cluster) > 1:
            for name, amount in (("CPU", "cpus"), ("GPU", "gpus")):
                taken = sum(getattr(graph[n].resources, amount) * graph[n].resources.processes for n in on_cluster)
                assert taken <= sum(node[name] for node in nodes) + 1e-6
        done = choose.draw(st.sampled_from(sorted(schedule.running)))
        schedule.end(done)
        ended.add(done)
    assert sorted(started) == list(range(len(graph)))


@given(graphs(), clusters(), st.data())
def test_a_batch_that_waits_for_room_is_passed_by_none(graph, nodes, choose):
    waiting: set[int] = set()
    ended: set[int] = set()
    schedule = Schedule(graph)
    while not schedule.finished:
        for number in schedule.start(nodes):
            if graph[number].resources.processes:
                assert all(number < other or other == number for other in waiting)
            waiting.discard(number)
        waiting = {
            n
            for n, batch in enumerate(graph)
            if batch.after <= ended and n not in ended | schedule.running and batch.resources.processes
        }
        done = choose.draw(st.sampled_from(sorted(schedule.running)))
        schedule.end(done)
        ended.add(done)


@given(graphs(), clusters(), st.data())
def test_the_same_ends_start_the_same(graph, nodes, choose):
    def run(ends: list[int]) -> list[list[int]]:
        schedule, seen = Schedule(graph), list[list[int]]()
        while not schedule.finished:
            seen.append(schedule.start(nodes))
            schedule.end(ends.pop(0) if ends else min(schedule.running))
        return seen

    assert run([]) == run([])


@given(graphs())
def test_one_after_the_other_keeps_the_order_of_the_graph(graph):
    schedule, order = Schedule(graph), list[int]()
    while not schedule.finished:
        order.append(schedule.start_next())
        schedule.end(order[-1])
    assert order == list(range(len(graph)))


@given(clusters(), st.lists(st.sampled_from(KINDS[1:]), min_size=1, max_size=4), st.randoms())
def test_what_fits_finds_room_wherever_the_others_are(nodes, resources, shuffled):
    """Every process is put on any node that has room for it, in any order."""
    if not fits(nodes, resources):
        return
    left = [dict(node) for node in nodes]
    processes = [one for one in resources for _ in range(one.processes)]
    shuffled.shuffle(processes)
    for one in processes:
        places = [n for n in left if n["CPU"] >= one.cpus and n["GPU"] >= one.gpus - 1e-9]
        assert places
        place = shuffled.choice(places)
        place["CPU"] -= one.cpus
        place["GPU"] -= one.gpus


ONE = Resources(1, 0, 1)


@pytest.mark.parametrize(
    ("nodes", "resources", "there"),
    [
        ([{"CPU": 2}], [ONE, ONE], True),
        ([{"CPU": 2}], [ONE, ONE, ONE], False),
        ([{"CPU": 2}, {"CPU": 2}], [ONE, ONE, Resources(2, 0, 1)], False),  # one on each node leaves no room for two
        ([{"CPU": 3}, {"CPU": 3}], [ONE, Resources(2, 0, 1)], True),
        ([{"CPU": 8, "GPU": 1}], [Resources(2, 0.1, 7), Resources(2, 0.3, 1)], False),
        ([{"CPU": 20, "GPU": 1}], [Resources(2, 0.1, 7), Resources(2, 0.3, 1)], True),
        ([], [ONE], False),
    ],
)
def test_room(nodes, resources, there):
    assert fits(nodes, resources) is there


def test_a_batch_larger_than_the_cluster_runs_alone():
    graph = [Batch((str(n),), frozenset(), one) for n, one in enumerate([ONE, Resources(4, 0, 1), ONE, Resources()])]
    schedule = Schedule(graph)
    nodes = [{"CPU": 2}]
    assert schedule.start(nodes) == [3, 0]
    schedule.end(0)
    assert schedule.start(nodes) == [1]
    schedule.end(3)
    assert schedule.start(nodes) == []
    schedule.end(1)
    assert schedule.start(nodes) == [2]


def test_a_cluster_that_has_grown_takes_more():
    schedule = Schedule([Batch((str(n),), frozenset(), ONE) for n in range(3)])
    assert schedule.start([{"CPU": 1}]) == [0]
    assert schedule.wants_cluster
    assert schedule.start([{"CPU": 1}, {"CPU": 2}]) == [1, 2]
    assert not schedule.wants_cluster


def test_arms_have_workers_together():
    arm = Resources(3, 1, 2, together=2)
    assert shared([arm] * 5).processes == 6
    assert shared([Resources(3, 1, 2)] * 5).processes == 2
    assert shared([Resources()] * 5).processes == 0


def test_batches_know_what_they_come_after():
    def stage(name: str, kind: str, group: str, inputs: Mapping[str, str], resources: Resources = ONE) -> Stage:
        return Stage(name, kind, 1, {}, "m:f", inputs, group, resources)

    stages = [
        stage("a", "a", "", {}, Resources()),
        stage("p/1", "p", "g", {"x": "a"}),
        stage("p/2", "p", "g", {"x": "a"}),
        stage("q", "q", "", {"x": "p/2", "y": "elsewhere"}),
    ]
    found = batches_of(ordered(stages[:3]) | {"q": stages[3]})
    assert [batch.names for batch in found] == [("a",), ("p/1", "p/2"), ("q",)]
    assert [set(batch.after) for batch in found] == [set(), {0}, {1}]
    assert [batch.resources.processes for batch in found] == [0, 1, 1]
