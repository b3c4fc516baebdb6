import pytest
from hypothesis import given
from hypothesis import strategies as st

from nml_ray.config.errors import UserError
from nml_ray.study.graph import batches, ordered, until
from nml_ray.study.stage import Stage, digests


def stage(name: str, *sources: str, kind: str = "", group: str = "", settings: object = None) -> Stage:
    inputs = {source: source for source in sources}
    return Stage(name, kind or name, 1, {"of": settings}, "m:f", inputs, group)


@st.composite
def graphs(draw: st.DrawFn) -> list[Stage]:
    count = draw(st.integers(1, 9))
    stages: list[Stage] = []
    for number in range(count):
        sources = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        group = draw(st.sampled_from(["", "g"]))
        depth = 1 + max((int(stages[source].kind) for source in sources), default=0)
        stages.append(stage(f"s{number}", *(f"s{source}" for source in sources), kind=str(depth), group=group))
    return draw(st.permutations(stages))


@given(graphs())
def test_inputs_come_first_in_any_graph(stages: list[Stage]) -> None:
    order = list(ordered(stages))
    assert sorted(order) == sorted(one.name for one in stages)
    for one in stages:
        assert all(order.index(source) < order.index(one.name) for source in one.inputs)


@given(graphs())
def test_batches_cover_each_stage_once_after_its_inputs(stages: list[Stage]) -> None:
    order = ordered(stages)
    seen: set[str] = set()
    for batch in batches(order):
        kinds = {(order[name].kind, order[name].group) for name in batch}
        assert len(kinds) == 1
        assert all(source in seen for name in batch for source in order[name].inputs)
        seen.update(batch)
    assert seen == set(order)


def test_the_order_given_is_kept_where_it_can_be() -> None:
    assert list(ordered([stage("c"), stage("b", "a"), stage("a")])) == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([stage("a"), stage("a")], "two stages"),
        ([stage("a", "b")], "which no stage makes"),
        ([stage("a", "b"), stage("b", "a")], "need each other"),
    ],
)
def test_graphs_that_cannot_be(stages: list[Stage], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ordered(stages)


def test_until_takes_a_stage_or_a_kind_with_what_it_needs() -> None:
    stages = ordered(
        [stage("a"), stage("p/1", "a", kind="p"), stage("p/2", "a", kind="p"), stage("x", "p/1"), stage("y", "x")]
    )
    assert list(until(stages, "p")) == ["a", "p/1", "p/2"]
    assert list(until(stages, "x")) == ["a", "p/1", "x"]
    with pytest.raises(UserError, match=r"--until: no stage 'yy'.*one of a, p, x, y; did you mean 'y'"):
        until(stages, "yy")


def test_groups_share_a_batch_within_their_kind() -> None:
    stages = ordered(
        [
            stage("a"),
            stage("p/1", "a", kind="p", group="0"),
            stage("l", "a"),
            stage("p/2", "a", kind="p", group="0"),
            stage("q/1", "p/1", kind="q", group="0"),
            stage("q/2", "p/2", kind="q", group="0"),
        ]
    )
    assert batches(stages) == [["a"], ["p/1", "p/2"], ["l"], ["q/1", "q/2"]]


def test_a_batch_does_not_wait_for_what_is_there_already() -> None:
    stages = ordered([stage("a"), stage("b", "a")])
    assert batches({"b": stages["b"]}) == [["b"]]


def test_digests_follow_settings_and_inputs_only() -> None:
    base = digests(ordered([stage("a"), stage("b", "a")]))
    again = digests(ordered([stage("a", group="x"), stage("b", "a")]))
    other = digests(ordered([stage("a", settings=1), stage("b", "a")]))
    assert base == again
    assert base["a"] != other["a"]
    assert base["b"] != other["b"]
