from typing import Any

import pytest
from pydantic import BaseModel

from nml_ray.config.document import parse
from nml_ray.config.errors import UserError
from nml_ray.config.validate import validate
from nml_ray.study.job import Job

BASE = "name: demo\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("heads: {}\n", "job.yaml:2: 'heads' needs features: add a section 'pretrain', 'encoders' or 'features'"),
        ("pretrain: {}\n", "job.yaml:2: 'pretrain' needs images"),
        ("noise: {ratios: [0.1]}\n", "job.yaml:2: 'noise' needs images"),
        ("data: {icons: {}}\n", "job.yaml:2: nothing uses 'data'"),
        ("extract: {}\n", "job.yaml:2: 'extract' needs an encoder"),
        ("data: {shards: {train: x}}\npretrain: {}\n", "job.yaml:3: 'pretrain' needs a training set"),
        ("data: {shards: {train: x}}\nencoders: [{}]\nheads: {}\n", "job.yaml:4: 'heads' needs features of validation"),
        ("data: {icons: {}}\nencoders: [{}]\n", "job.yaml:3: nothing uses 'encoders'"),
        (
            "data: {icons: {}}\nencoders: [{}]\nextract:\n  splits: [train, pretrain]\n",
            "job.yaml:5: the data has no downstream split 'pretrain', only train, validation, test, ood",
        ),
        ("features: {train: a, validation: b, test: c}\n", "job.yaml:2: nothing uses 'features'"),
        ("data: {icons: {}}\npretrain: {}\nnoise: {kind: caption_swap, ratios: [0.1]}\n", "job.yaml:4: supervised"),
        (
            "data: {shards: {pretrain: x, pretrain_validation: y}}\nnoise: {ratios: [0.1]}\n",
            "job.yaml:2: only supervised pre-training is validated with images",
        ),
        ("data: {icons: {}}\npretrane: {}\n", "job.yaml:3: unknown key 'pretrane'"),
        ("run: {storge: x}\n", "job.yaml:2: unknown key 'storge'"),
        ("run: {arms: swep}\n", "job.yaml:2: run.arms = 'swep'; expected one of shared, sweep; did you mean 'sweep'?"),
    ],
)
def test_sections_that_do_not_fit_are_named(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(Job, parse(BASE + text, "job.yaml"))
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("name", ["Demo", "-a", "a b", "../x", ""])
def test_names_that_cannot_be_directories(name: str) -> None:
    with pytest.raises(UserError, match=r"job\.yaml:1: name"):
        validate(Job, parse(f"name: '{name}'\n", "job.yaml"))


def test_fewer_cpus_than_a_worker_needs_are_refused() -> None:
    text = "name: a\nthreads: 4\ndata: {icons: {}}\npretrain: {}\nrun:\n  cpus: 5\n  decode_threads: 2\n"
    said = "5 CPUs are too few: 1 worker(s) of 4 computing thread(s) and 2 decoding need 6"
    with pytest.raises(UserError) as caught:
        validate(Job, parse(text, "job.yaml"))
    assert str(caught.value).startswith("job.yaml:6: ") and said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("data: {icons: {}}\npretrain: {}\n", 3),
        ("data: {icons: {}}\npretrain: {microbatch: 128}\nrun: {workers: 2, decode_threads: 3}\n", 10),
        ("data: {icons: {}}\nencoders: [{}]\nextract: {}\nrun: {decode_threads: 4}\n", 6),
        ("features: {train: a, validation: b, test: c}\nspectrum: {}\nrun: {decode_threads: 4}\n", 2),
    ],
)
def test_cpus_count_the_threads_that_compute_and_those_that_decode(text: str, least: int) -> None:
    assert validate(Job, parse(BASE + "threads: 2\n" + text, "job.yaml")).least_cpus() == least


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ("0", "run.workers = 0; expected at least 1"),
        ("[0, 2]", "run.workers.0 = 0; expected at least 1"),
        ("[2, 1]", "run.workers = [2, 1]: MIN 2 is more than MAX 1"),
        ("[1, 2, 3]", "run.workers = [1, 2, 3]: workers are a whole number, or [MIN, MAX]"),
        ("'2'", "run.workers = '2': workers are a whole number, or [MIN, MAX]"),
        ("[1, 5]", "a batch of 256 is cut into 4 microbatch(es), too few for 5 workers"),
    ],
)
def test_workers_that_are_no_number_or_range_are_refused(workers: str, words: str) -> None:
    text = f"name: a\ndata: {{icons: {{}}}}\npretrain: {{microbatch: 64}}\nrun:\n  workers: {workers}\n"
    with pytest.raises(UserError) as caught:
        validate(Job, parse(text, "job.yaml"))
    assert str(caught.value).startswith(f"job.yaml:5: {words}")


def test_elastic_workers_need_cpus_for_the_fewest() -> None:
    text = "name: a\ndata: {icons: {}}\npretrain: {microbatch: 64}\nrun: {workers: [2, 4]}\n"
    job = validate(Job, parse(text, "job.yaml"))
    assert (job.run.least_workers, job.run.most_workers, job.least_cpus()) == (2, 4, 4)
    assert Job.model_validate(job.model_dump(mode="json")) == job


def test_more_workers_than_microbatches_are_refused() -> None:
    text = "name: a\ndata: {icons: {}}\npretrain: {batch: 256, microbatch: 128}\nrun:\n  workers: 3\n"
    with pytest.raises(UserError, match=r"job\.yaml:5: .*2 microbatch.*too few for 3 workers"):
        validate(Job, parse(text, "job.yaml"))


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    found: set[type[BaseModel]] = set()
    todo: list[Any] = [model]
    while todo:
        kind = todo.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if kind not in found:
                found.add(kind)
                todo.extend(info.annotation for info in kind.model_fields.values())
        else:
            todo.extend(getattr(kind, "__args__", ()))
    return found


def test_every_field_of_a_job_is_documented() -> None:
    found = models(Job)
    assert len(found) > 10
    undocumented = [
        f"{model.__name__}.{name}"
        for model in found
        for name, info in model.model_fields.items()
        if not info.description and name not in ("kind",)
    ]
    assert undocumented == []
