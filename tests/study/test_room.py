"""Whether a job's stages have room: each process on one node, as many as there are nodes for."""

from math import inf

import pytest

from nml_ray.cluster.size import Size
from nml_ray.config.document import Document
from nml_ray.config.errors import UserError
from nml_ray.config.validate import validate
from nml_ray.study.job import Job
from nml_ray.study.room import misfits
from nml_ray.study.sweep_room import trial_misfits

JOB = {
    "name": "s",
    "data": {"icons": {}},
    "noise": {"ratios": ["0", "0.1", "0.2"]},
    "pretrain": {"seeds": [0, 1], "batch": 64, "microbatch": 4},
    "extract": {},
    "heads": {"sweep": [{"head": "linear_probe"}]},
}
ALL = ("pretrain", "extract", "heads")


def job_of(**changes) -> tuple[Job, Document]:
    document = Document("job.yaml", JOB | changes)
    return validate(Job, document), document


def room(nodes, kinds=ALL, inline=False, most=None, **run) -> list[str]:
    """What is said; the first misfit is raised."""
    size = Size(tuple(nodes), "more nodes in the cluster file", most)
    wrong, lines = misfits(*job_of(run=run), size, kinds, inline)
    if wrong:
        raise wrong[0].error
    return lines


def test_workers_live_on_one_node_each() -> None:
    assert room([{"CPU": 4}], workers=2) == ["room: 2 runs of pre-training, up to 1 at a time"]
    with pytest.raises(UserError) as refused:
        room([{"CPU": 3}, {"CPU": 1}], workers=2)
    assert str(refused.value) == (
        "job.yaml: pre-training takes 2 process(es) that need 2 CPUs each, on one node; the cluster has"
        " room for 1 (nodes: 1 with 3 CPUs, 1 with 1 CPU); expected more nodes in the cluster file, or less"
        " run.workers, threads or run.decode_threads"
    )


def test_only_what_is_to_do_counts() -> None:
    assert room([{"CPU": 1}], kinds=("heads",), workers=2) == []
    with pytest.raises(UserError, match=r"extraction takes 1 .* need 2 CPUs"):
        room([{"CPU": 1}], kinds=("extract",))


def test_gpus_count_where_they_are_asked_for() -> None:
    nodes = [{"CPU": 8, "GPU": 2}] * 2
    assert room(nodes, workers=4, device="cuda") == ["room: 2 runs of pre-training, up to 1 at a time"]
    with pytest.raises(UserError, match=r"2 CPUs and 1 GPU each.*room for 4 \(nodes: 2 with 8 CPUs and 2 GPUs\)"):
        room(nodes, workers=5, device="cuda")
    with pytest.raises(UserError, match=r"extraction .* 3 GPUs each"):
        room(nodes, kinds=("extract",), device="cuda", extract_gpus=3)
    assert room(nodes, kinds=("extract",), device="cuda", extract_gpus=0.1) == []
    with pytest.raises(UserError, match=r"fitting heads .*run.head_device: cpu"):
        room([{"CPU": 8}], kinds=("heads",), head_device="cuda")


def test_fewer_workers_than_wished_and_trials_side_by_side_are_said() -> None:
    assert room([{"CPU": 6}], workers=[2, 8])[0] == "room: pre-training gets 3 of up to 8 workers"
    assert room([{"CPU": 8}], arms="sweep") == ["room: 6 runs of pre-training, up to 4 at a time"]
    assert room([{"CPU": 8}], arms_per_worker=2) == ["room: 4 runs of pre-training, up to 4 at a time"]


def test_of_many_nodes_those_count_that_there_are_at_once() -> None:
    nodes = [{"CPU": 2}, *[{"CPU": 4}] * 3, *[{"CPU": 8}] * 3]
    assert room(nodes, most=3, workers=12) == ["room: 2 runs of pre-training, up to 1 at a time"]
    with pytest.raises(
        UserError, match=r"room for 12 \(nodes: 1 with 2 CPUs, 3 .*, 3 with 8 CPUs, 3 of them at most\)"
    ):
        room(nodes, most=3, workers=13)


def test_what_is_not_known_has_room() -> None:
    assert room([{"CPU": inf, "GPU": inf}], workers=16, device="cuda")[0].endswith("up to 2 at a time")
    with pytest.raises(UserError, match=r"room for 0 \(nodes: 1 with 0 GPUs\)"):
        room([{"CPU": inf, "GPU": 0}], workers=16, device="cuda")


def test_extraction_begins_with_its_fewest_processes() -> None:
    assert room([{"CPU": 4}], ("extract",), extract_workers=[2, 4]) == ["room: extraction gets 2 of up to 4 workers"]
    with pytest.raises(UserError, match=r"extraction takes 3 .*less run.extract_workers"):
        room([{"CPU": 4}], ("extract",), extract_workers=3)


def test_inline_one_process_needs_a_gpu_alone() -> None:
    assert room([{"CPU": 1}], inline=True, workers=8) == []
    assert room([{"CPU": 1, "GPU": 1}], inline=True, workers=8, device="cuda", head_device="cuda") == []
    with pytest.raises(UserError, match=r"pre-training takes 1 process\(es\) that need 1 GPU each"):
        room([{"CPU": 8}], inline=True, device="cuda")


def test_each_trial_has_room_by_itself_and_the_whole_tells_how_many() -> None:
    search = {"pretrain.epochs": [1, 2], "noise.ratios": [["0"], ["0", "0.1"]]}
    sweep = {"search": search, "metric": "heads.score"}
    job, document = job_of(sweep=sweep, run={"workers": 2, "arms_per_worker": 1})
    nodes = ({"CPU": 4},) * 3
    size = Size(nodes, "more nodes in the cluster file")
    told = "room: 4 trials with up to 12 runs of pre-training, 3 at a time"
    assert trial_misfits(job, document, size, ALL) == ({}, [told])
    small = Size(({"CPU": 2},), "more nodes in the cluster file")
    wrong, lines = trial_misfits(job, document, small, ALL)
    assert len(wrong) == 4 and lines == []
    name, first = next(iter(wrong.items()))
    assert name.startswith("0 (") and [one.kind for one in first] == ["pretrain"]
    assert {str(found[0].error) for found in wrong.values()} == {str(first[0].error)}
    assert trial_misfits(job, document, small, ("heads",)) == ({}, [])
