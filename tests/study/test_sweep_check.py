"""What is refused of a sweep before anything runs, each with its place and the nearest valid name."""

import pytest

from nml_ray.config.document import parse
from nml_ray.config.errors import UserError
from nml_ray.config.override import override
from nml_ray.config.validate import validate
from nml_ray.study.job import Job

BASE = """
name: s
data: {icons: {}}
noise: {ratios: [0]}
pretrain: {epochs: 2}
heads: {sweep: [{head: linear_probe}, {head: nmtune}]}
"""


def job(*assignments):
    return validate(Job, override(parse(BASE, "job.yaml"), assignments))


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["sweep.search={noise.ratioz: [[0]]}"], "unknown key 'ratioz'.*did you mean 'ratios'"),
        (["sweep.search={nois.ratios: [[0]]}"], "unknown key 'nois'.*did you mean 'noise'"),
        (["sweep.search={noise.ratios: [[0], [1.1]]}"], "noise.ratios=.1.1.: .*a ratio lies between 0 and 1"),
        (["sweep.search={pretrain.epochs: [1, 0]}"], "pretrain.epochs = 0; expected at least 1"),
        (["sweep.search={noise.kind: [symmetric, caption_swap]}"], "reads labels, which caption_swap leaves"),
        (["sweep.search={heads.sweep.2.fixed.epochs: [1, x]}"], "heads.sweep.2"),
        (["sweep.search={heads.sweep.7.fixed.epochs: [1]}"], "'7' in the list 'heads.sweep'; expected a place from 0"),
        (["sweep.search={}"], "an empty section; expected at least 1"),
        (["sweep.search={noise.ratios: []}"], "expected at least 1"),
        (["sweep.search={run.workers: [1]}"], "the same for every trial"),
        (["sweep.search={noise: [{ratios: [0]}], noise.ratios: [[0]]}"], "'noise.ratios' lies in 'noise'"),
        (["sweep.search={noise.seed: {integers: [0, 3]}}"], "a grid needs a list"),
        (["sweep.search={noise.seed: [0]}", "sweep.trials=3"], "as many trials as its lists"),
        (
            ["sweep.search={pretrain.epochs: {uniform: [1, 9]}}", "sweep.kind=random", "sweep.trials=3"],
            "pretrain.epochs takes whole numbers: use integers",
        ),
        (
            ["sweep.search={heads.sweep.1.fixed.top_k: {log_uniform: [1, 9]}}", "sweep.kind=random", "sweep.trials=3"],
            "heads.sweep.1.fixed.top_k takes whole numbers: use integers",
        ),
        (["sweep.search={noise.seed: [0]}", "sweep.kind=random"], "needs a number of trials"),
        (["sweep.search={noise.seed: [0]}", "sweep.kind=randon"], "did you mean 'random'"),
        (["sweep.search={noise.seed: {integer: [0, 3]}}"], "did you mean 'integers'"),
        (["sweep.search={noise.seed: [0]}", "sweep.metric=heads.acuracy"], "did you mean 'heads.accuracy'"),
        (["sweep.search={noise.seed: [0]}", "sweep.metric=heads.test.accuracy"], "judged on validation"),
        (["sweep.search={noise.seed: [0]}", "sweep.metric=ood.accuracy"], "judged on validation"),
        (["sweep.search={noise.seed: [0]}", "sweep.metric=heads.mlp.accuracy"], "no head 'mlp', only linear_probe"),
        (["sweep.search={noise.seed: [0]}", "sweep.metric=pretrain.validation_accuracy"], "pretrain_validation"),
        (["sweep.search={noise.seed: [0]}", "sweep.metric=pretrain.zero_shot"], "only clip with zero_shot"),
        (
            ["sweep.search={noise.seed: [0]}", "tasks=[glue_rte, glue_stsb]", "sweep.metric=heads.mlp.accuracy"],
            "no head 'mlp'",
        ),
        (
            ["sweep.search={noise.seed: [0]}", "tasks=[glue_rte, glue_stsb]", "sweep.metric=heads.accuracy"],
            "task 'glue_stsb' is judged by pearson: take heads.score",
        ),
        (
            ["sweep.search={tasks: [[glue_rte], [glue_stsb]]}", "sweep.metric=heads.nmtune:paper.macro_f1"],
            "task 'glue_stsb' is judged by pearson: take heads.score",
        ),
        (
            ["sweep.search={noise.seed: [0]}", "sweep.asha={field: pretrain.epoch, epochs: [1, 3]}"],
            "unknown key 'epoch'.*did you mean 'epochs'",
        ),
        (
            ["sweep.search={pretrain.epochs: [1]}", "sweep.asha={field: pretrain.epochs, epochs: [1, 3]}"],
            "is searched, so asha cannot set it",
        ),
        (
            ["sweep.search={noise.seed: [0]}", "sweep.asha={field: pretrain.epochs, epochs: [3, 1]}"],
            "each rung has more epochs",
        ),
        (
            [
                "sweep.search={noise.seed: [0]}",
                "sweep.kind=optuna",
                "sweep.trials=3",
                "sweep.asha={field: pretrain.epochs, epochs: [1, 3]}",
            ],
            "asha takes its points from grid or random",
        ),
    ],
)
def test_mistakes_are_refused(assignments, words):
    with pytest.raises(UserError, match=words) as caught:
        job(*assignments)
    assert str(caught.value).startswith("--set sweep.")


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Optuna is not installed: pip install 'nml_ray\[optuna\]'"):
        job("sweep.search={noise.seed: [0]}", "sweep.kind=optuna", "sweep.trials=3")


def test_a_job_that_its_points_complete_is_valid():
    found = job(
        "pretrain={}", "noise=null", "sweep.search={noise.ratios: [[0], [0.10]]}", "sweep.metric=heads.accuracy"
    )
    assert found.at({"noise.ratios": [0.1]}).noise.ratios == ("0.1",)


def test_the_tasks_own_metrics_and_those_of_classes_are_measured():
    assert job("sweep.search={noise.seed: [0]}", "tasks=[glue_rte, glue_stsb]", "sweep.metric=heads.score").sweep
    assert job("sweep.search={noise.seed: [0]}", "tasks=[glue_rte]", "sweep.metric=heads.accuracy").sweep


def test_a_point_of_nothing_is_the_job():
    plain = job()
    assert plain.at({}) == plain
    assert job("sweep.search={noise.seed: [0]}").at({}) == plain


def test_a_sweep_reads_back_from_the_file_of_its_study():
    found = job("sweep.search={pretrain.epochs: {integers: [1, 3]}}", "sweep.kind=random", "sweep.trials=3")
    assert Job.model_validate(found.model_dump(mode="json")) == found
