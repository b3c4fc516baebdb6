"""What may go of a storage, by what lies there and what studies name. Pure."""

from hypothesis import given
from hypothesis import strategies as st

from nml_ray.study.garbage import DAY, ORDER, File, Found, garbage, leftover_names, reached

NOW = 1_000_000_000.0


def found(kind, digest, *refers, age=10.0, **facts):
    return Found(kind, digest, {"record.json": File(5, NOW - age * DAY)}, refers=frozenset(refers), **facts)


def going(artifacts, named=(), days=1.0):
    return [one.key for one in garbage(artifacts, named, NOW, days).artifacts]


def test_what_a_study_names_keeps_what_it_reads():
    pretrain, extract, heads, trial = (
        found("pretrain", "p"),
        found("extract", "e", ("pretrain", "p")),
        found("heads", "h", ("extract", "e"), ("trial", "t")),
        found("trial", "t"),
    )
    everything = [pretrain, extract, heads, trial]
    assert going(everything, [("heads", "h")]) == []
    assert going(everything, [("extract", "e")]) == [("heads", "h"), ("trial", "t")]
    assert going(everything) == [("heads", "h"), ("trial", "t"), ("extract", "e"), ("pretrain", "p")]


def test_who_is_at_work_keeps_what_it_reads():
    encoder = found("pretrain", "p")
    at_work = found("extract", "e", ("pretrain", "p"), finished=False, held=True, age=50)
    assert going([encoder, at_work]) == []
    young = found("extract", "e", ("pretrain", "p"), finished=False, age=0.9)
    assert going([encoder, young], days=0) == []
    assert going([encoder, found("extract", "e", ("pretrain", "p"), age=0.9)], days=0) == [
        ("extract", "e"),
        ("pretrain", "p"),
    ]


def test_days_are_those_since_its_last_change_and_it_keeps_what_it_reads():
    assert going([found("pretrain", "p"), found("extract", "e", ("pretrain", "p"), age=3)], days=5) == []
    assert going([found("pretrain", "p"), found("extract", "e", age=3)], days=5) == [("pretrain", "p")]


def test_a_name_for_features_goes_with_them():
    features, name = found("extract", "e"), found("set", "s", points=("extract", "e"))
    assert going([features, name], [("extract", "e")]) == []
    assert going([features, name]) == [("set", "s"), ("extract", "e")]
    assert going([name]) == [("set", "s")]


def test_no_trial_goes_while_heads_are_planned_that_have_not_begun():
    trial = found("trial", "t")
    result = garbage([trial, found("report", "r")], [("heads", "h")], NOW, 1)
    assert [one.key for one in result.artifacts] == [("report", "r")] and result.untold == (("heads", "h"),)
    unclear = found("heads", "h", told=False)
    assert going([trial, unclear], [("heads", "h")]) == []
    assert going([trial, found("heads", "h")], [("heads", "h")]) == [("trial", "t")]


@st.composite
def storages(draw):
    """Artifacts that refer to some made before them, or to what is not there."""
    artifacts: list[Found] = []
    for number in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(ORDER))
        known = [one.key for one in artifacts] + [("shards", "absent")]
        refers = draw(st.lists(st.sampled_from(known), max_size=3))
        finished, held = draw(st.booleans()), draw(st.sampled_from([False, False, True]))
        age = draw(st.sampled_from([0.0, 0.5, 2.0, 20.0]))
        artifacts.append(found(kind, str(number), *refers, finished=finished, held=held, age=age))
    named = draw(st.lists(st.sampled_from([one.key for one in artifacts] or [("heads", "x")]), max_size=4))
    return artifacts, named, draw(st.sampled_from([0.0, 1.0, 5.0]))


@given(storages())
def test_nothing_that_stays_refers_to_what_goes(storage):
    artifacts, named, days = storage
    result = garbage(artifacts, named, NOW, days)
    gone = {one.key for one in result.artifacts}
    stays = [one for one in artifacts if one.key not in gone]
    assert not any(one.refers & gone for one in stays if one.kind != "set" or one.points is None)
    assert not gone & set(named) and not gone & reached({one.key: one for one in artifacts}, named)
    assert all(not one.held and NOW - one.changed >= days * DAY for one in result.artifacts)
    assert all(one.finished or NOW - one.changed >= DAY for one in result.artifacts)
    places = [ORDER.index(one.kind) for one in result.artifacts]
    assert places == sorted(places)


@given(storages())
def test_what_nothing_holds_goes_at_once_and_a_second_look_finds_nothing_more(storage):
    artifacts, named, days = storage
    gone = set(going(artifacts, named, days))
    left = [one for one in artifacts if one.key not in gone]
    assert going(left, named, days) == []


def test_leftovers_are_what_no_reader_of_a_finished_artifact_opens():
    names = [
        *("record.json", "attempt-0002/encoder.safetensors", "attempt-0002/fed/rank-0-000000010.arrow"),
        *("attempt-0002/best/step-000000004/model.safetensors", "attempt-0001/fed/rank-0-000000004.arrow"),
        *("attempt-0001/attempt.json", "attempt-0001/holes-0.jsonl", "attempt-0001/error.log"),
    ]
    left = [
        *("attempt-0002/checkpoints/step-000000004/state.json", "attempt-0001/checkpoints/step-000000004/state.json"),
        *("attempt-0001/encoder.safetensors", "attempt-0001/best/step-000000002/state.json"),
        *(".gone-record.json", "gone-attempt-0001/x"),
    ]
    assert leftover_names([*names, *left], "pretrain", "attempt-0002") == left
    assert leftover_names(["attempt-1/x", "attempt-2/x", "attempt-2/deep/y"], "extract", "attempt-1") == [
        "attempt-2/x",
        "attempt-2/deep/y",
    ]


def test_leftovers_on_an_object_store_are_not_what_is_named_there():
    names = ["attempt-2/held/a-model", "attempt-2/held/b-model", "attempt-2/bundles/checkpoints/1.json", "attempt-1/f"]
    assert leftover_names(names, "extract", "attempt-2", ["attempt-2/held/b-model", "attempt-1/f"]) == [
        "attempt-2/held/a-model",
        "attempt-2/bundles/checkpoints/1.json",
    ]
