"""Downstream tasks of a job: their stages and hashes, and what is told where they do not fit."""

import json
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.config.document import parse
from nml_ray.config.errors import UserError
from nml_ray.config.override import override
from nml_ray.config.validate import validate
from nml_ray.study.expand import Study, expand
from nml_ray.study.graph import ordered
from nml_ray.study.job import Job
from nml_ray.study.stage import Stage, digests
from tests import task_layouts as layouts
from tests.models.tiny_models import tiny_bert

DEMO = """
name: demo
data: {icons: {}}
noise: {ratios: [0, 0.1]}
pretrain: {epochs: 2}
spectrum: {}
heads: {seeds: [0, 1]}
"""
PETS = """
name: pets
metric: mean_per_class
train: pets/train
test: pets/test
ood:
  drawn: pets/drawn
  toys: {shards: pets/toys, classes: {plush: [cat, dog]}}
"""


def make_dataset(directory: Path, classes: list[str], digest: str = "d") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    info = {"digest": digest, "classes": classes, "shards": [{"name": "a.tar", "digest": "s"}]}
    (directory / "dataset.json").write_text(json.dumps(info))


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, classes in {
        "train": ["cat", "dog", "owl"],
        "test": ["cat", "dog", "owl"],
        "drawn": ["owl", "cat"],
        "toys": ["car", "plush"],
    }.items():
        make_dataset(tmp_path / "task_data/pets" / name, classes, name)
    (tmp_path / "pets.yaml").write_text(PETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(*assignments: str, text: str = DEMO) -> Study:
    return expand(validate(Job, override(parse(text, "job.yaml"), assignments)))


def digests_of(one: Study) -> dict[str, str]:
    return digests(ordered(one.stages))


def stage(one: Study, name: str) -> Stage:
    return next(stage for stage in one.stages if stage.name == name)


def refused(text: str, *assignments: str, job: str = DEMO) -> None:
    with pytest.raises(UserError) as error:
        study(*assignments, text=job)
    assert text in str(error.value)


def test_a_job_without_tasks_is_hashed_as_before() -> None:
    one = study()
    heads = stage(one, "heads/symmetric-0/seed-0")
    assert set(heads.settings) == {"heads", "threads"} and set(heads.settings["heads"]) == {"seeds", "sweep"}
    assert set(stage(one, "report").settings) == {"name", "title", "arms", "data"}
    assert set(stage(one, "extract/symmetric-0/seed-0").settings) == {"extract", "transforms", "threads"}
    assert digests_of(study("heads.fractions=[1.0]")) == digests_of(one)


def test_tasks_stand_beside_the_splits_of_data_and_change_none_of_their_stages(pets: Path) -> None:
    before, after = digests_of(study()), digests_of(study("tasks=[pets.yaml]"))
    assert {name for name in before if after[name] != before[name]} == {"report"}
    arms = [f"symmetric-{ratio}/seed-0/pets" for ratio in ("0", "0.1")]
    added = {f"{kind}/{arm}" for kind in ("extract", "spectrum", "heads") for arm in arms}
    assert set(after) - set(before) == {"shards/task/pets", *added}


def test_the_stages_of_a_task(pets: Path) -> None:
    one = study("tasks=[pets.yaml]")
    extract = stage(one, "extract/symmetric-0/seed-0/pets")
    assert extract.settings["extract"]["splits"] == ["train", "test", "ood-drawn", "ood-toys"]
    assert extract.inputs == {"shards": "shards/task/pets", "encoder": "pretrain/symmetric-0/seed-0"}
    assert stage(one, "heads/symmetric-0/seed-0/pets").settings["task"] == {
        "metric": "mean_per_class",
        "cuts": {"validation": {"share": "0.1"}},
        "seed": 0,
        "ood": {"drawn": [[2], [0]], "toys": [[], [0, 1]]},
    }
    assert set(one.given["shards/task/pets"].links) == {"train", "test", "ood-drawn", "ood-toys"}
    (shown,) = stage(one, "report").settings["tasks"]
    assert (shown["metric"], shown["counts_for"], len(shown["arms"])) == ("mean_per_class", ["ood"], 2)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (("metric: mean_per_class", "metric: accuracy"), {"heads", "report"}),
        (("name: pets", "name: pets\nseed: 1"), {"spectrum", "heads", "report"}),
        (("name: pets", "name: pets\nvalidation: {keep: 5}"), {"spectrum", "heads", "report"}),
        (("{plush: [cat, dog]}", "{plush: [cat]}"), {"heads", "report"}),
        (("name: pets", "name: pets\ntitle: Pets"), {"report"}),
        (("name: pets", "name: pets\nabout: animals"), set()),
        (("train: pets/train", "train: {shards: pets/train, make: {source: pets}}"), set()),
    ],
)
def test_a_change_of_a_task_reaches_what_it_defines(pets: Path, change: tuple[str, str], changed: set[str]) -> None:
    before = digests_of(study("tasks=[pets.yaml]"))
    (pets / "pets.yaml").write_text(PETS.replace(*change))
    after = digests_of(study("tasks=[pets.yaml]"))
    assert {name.split("/")[0] for name in before if after.get(name) != before[name]} == changed


def test_where_the_data_lies_is_not_hashed(pets: Path) -> None:
    before = digests_of(study("tasks=[pets.yaml]"))
    (pets / "task_data").rename(pets / "moved")
    assert digests_of(study("tasks=[pets.yaml]", "run.task_data=moved")) == before
    make_dataset(pets / "moved/pets/test", ["cat", "dog", "owl"], "other")
    assert digests_of(study("tasks=[pets.yaml]", "run.task_data=moved")) != before


def test_fractions_are_hashed_where_they_are_not_all() -> None:
    before, after = digests_of(study()), digests_of(study("heads.fractions=[0.1, 1]"))
    assert {name.split("/")[0] for name in before if after[name] != before[name]} == {"heads", "report"}


def test_given_encoders_need_no_data_but_tasks(pets: Path) -> None:
    text = "name: own\nencoders: [{name: small_resnet}]\ntasks: [pets.yaml]\nheads: {}\n"
    names = set(digests_of(study(text=text)))
    assert names == {
        *("encoder/small_resnet", "shards/task/pets", "extract/small_resnet/pets", "heads/small_resnet/pets", "report")
    }
    # the splits of the data are a task more only where they are whole
    make_dataset(pets / "p", ["x", "y"])
    more = ("data={shards: {pretrain: p, test: task_data/pets/test}}", "noise={ratios: [0]}", "pretrain={epochs: 1}")
    assert {name for name in digests_of(study(*more, text=text)) if name.startswith("extract/")} == {
        "extract/small_resnet/pets",
        "extract/symmetric-0/seed-0/pets",
    }


def test_tasks_that_nothing_can_use_are_refused(pets: Path) -> None:
    refused(
        "'tasks' need an encoder", job="name: x\ntasks: [dtd]\nheads: {}\nfeatures: {train: a, validation: b, test: c}"
    )
    refused("nothing uses 'tasks'", "tasks=[dtd]", "heads=null", "spectrum=null")
    refused("tasks.0: no task 'cifar11'; expected a task file, or one of caltech101", "tasks=[cifar11]")
    refused("did you mean 'cifar10'?", "tasks=[cifar11]")
    refused("tasks.1: task 'pets' twice", "tasks=[pets.yaml, ./pets.yaml]")
    refused("nowhere.yaml: there is no such file", "tasks=[nowhere.yaml]")


def test_shards_that_are_not_there_are_told_with_the_command_that_makes_them(pets: Path) -> None:
    refused("task dtd, train: there are no shards at 'task_data/dtd/train'", "tasks=[dtd]")
    refused("made by `nml-ray data shard torchvision:DTD task_data/dtd/train --root DOWNLOADS", "tasks=[dtd]")


@pytest.mark.parametrize(
    ("name", "classes", "text"),
    [
        ("drawn", ["owl", "crow"], "task pets, ood-drawn: class 'crow' is none of the training set's"),
        ("drawn", ["owls"], "did you mean 'owl'?"),
        ("toys", ["car", "plushy"], "no class 'plush' in this set; expected its own names; did you mean 'plushy'?"),
        ("test", ["cat", "owl", "dog"], "task pets, test: label 1 is 'owl', but 'dog' in train"),
        ("test", ["cat", "dog"], "label 2 is no class, but 'owl' in train"),
        ("test", ["0", "1", "2", "3"], "task pets, test: 4 classes; expected the 3 of train"),
    ],
)
def test_classes_that_do_not_fit_are_refused(pets: Path, name: str, classes: list[str], text: str) -> None:
    make_dataset(pets / "task_data/pets" / name, classes)
    refused(text, "tasks=[pets.yaml]")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("metric: mean_per_class", "metric: acuracy"), "pets.yaml:3: metric = 'acuracy'; expected one of accuracy"),
        (("test: pets/test", "tset: pets/test"), "pets.yaml:5: unknown key 'tset'"),
        (("test: pets/test", "test: {cut: 0}"), "pets.yaml:5: a cut of 0 leaves one side empty"),
        (("test: pets/test", "test: {cut: 0.5, keep: 3}"), "takes either cut or keep"),
        (("train: pets/train", ""), "'train' is missing"),
        (("  drawn:", "  Drawn Ones:"), "pets.yaml:7: 'Drawn Ones': names are of small letters"),
        (("metric: mean_per_class", "metric: pearson"), "pearson compares numbers, which have no classes to match"),
        (("name: pets", "name: my pets"), "pets.yaml:2: name = 'my pets'; expected small letters, digits, - and _"),
        (("classes: {plush: [cat, dog]}", "classes: nowhere.yaml"), "task pets, ood.toys.classes: there is no file"),
    ],
)
def test_mistakes_in_a_task_file_are_placed(pets: Path, change: tuple[str, str], text: str) -> None:
    (pets / "pets.yaml").write_text(PETS.replace(*change))
    refused(text, "tasks=[pets.yaml]")


def test_numbers_of_a_regression_are_its_class_names(pets: Path) -> None:
    text = "name: pairs\nmetric: pearson\ntrain: pets/train\ntest: pets/test\nood: {other: pets/drawn}\n"
    (pets / "pairs.yaml").write_text(text)
    refused("task pairs, train: label 'cat'; expected finite numbers, for metric pearson", "tasks=[pairs.yaml]")
    for label in ("nan", "inf", "1e999"):
        make_dataset(pets / "task_data/pets/train", ["0.5", label], "train")
        refused(f"task pairs, train: label '{label}'; expected finite numbers", "tasks=[pairs.yaml]")
    for name, values in {"train": ["0.0", "2.5", "5.0"], "test": ["1.2"], "drawn": ["0", "1"]}.items():
        make_dataset(pets / "task_data/pets" / name, values)
    facts = stage(study("tasks=[pairs.yaml]"), "heads/symmetric-0/seed-0/pairs").settings["task"]
    assert facts["values"] == {"train": [0.0, 2.5, 5.0], "test": [1.2], "ood-other": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("fractions", "text"), [("[0, 1]", "fractions are above 0"), ("[0.5, 0.50]", "each different"), ("[2]", "ratio")]
)
def test_impossible_fractions(fractions: str, text: str) -> None:
    refused(text, f"heads.fractions={fractions}")


JOB = """
name: several
encoders: [{name: small_resnet, width: 4, size: 16}]
tasks: [domainnet_real, eurosat]
spectrum: {}
heads:
  fractions: [0.5, 1]
  sweep: [{head: linear_probe, fixed: {epochs: 2}}, {head: mlp, fixed: {epochs: 2}}]
"""


@pytest.mark.long
def test_one_encoder_on_several_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    layouts.domainnet(tmp_path / "downloads")
    layouts.eurosat(tmp_path / "downloads")
    for name in ("domainnet_real", "eurosat"):
        assert call(["tasks", "shard", name, "--downloads", "downloads"]) == 0
    (tmp_path / "job.yaml").write_text(JOB)
    assert call(["run", "job.yaml", "--inline"]) == 0
    said = capsys.readouterr()
    assert "Mean over 1 task in domain, small_resnet: Linear probe" in said.out + said.err
    report = tmp_path / "runs/studies/several"
    rows = (report / "task_table.csv").read_text().splitlines()
    assert [row.split('"')[1] for row in rows[1:]] == [
        "DomainNet, real, small_resnet",
        "EuroSAT, small_resnet",
        "Mean over tasks, small_resnet",
    ]
    page = (report / "report.html").read_text()
    assert 'id="tasks"' in page and 'id="fractions"' in page and "Mean over tasks" in page
    scores = (report / "task_scores.csv").read_text()
    for place in ("ood-sketch,12,accuracy", "ood-painting,12", "test,4,accuracy", ",0.5,test,", ",1,ood,"):
        assert place in scores
    assert len((report / "fractions.csv").read_text().splitlines()) == 5
    assert "\\begin{tabular}" in (report / "tables.tex").read_text()
    assert call(["plan", "job.yaml"]) == 0
    assert "8 cached, 2 given" in capsys.readouterr().out


@pytest.mark.long
def test_a_set_of_several_tasks_is_extracted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layouts.domainnet(tmp_path / "downloads")
    text = JOB.replace("eurosat", "domainnet_sketch")
    for name in ("domainnet_real", "domainnet_sketch"):
        assert call(["tasks", "shard", name, "--downloads", "downloads"]) == 0
    extracts = [stage for stage in study(text=text).stages if stage.kind == "extract"]
    assert len(extracts) == 2 and {stage.group for stage in extracts} == {"task-domainnet_real"}
    (tmp_path / "job.yaml").write_text(text)
    assert call(["run", "job.yaml", "--inline", "--until", "extract"]) == 0
    stages = json.loads((tmp_path / "runs/studies/several/stages.json").read_text())
    real, sketch = (
        tmp_path / "runs/studies/several" / stages[f"extract/small_resnet/domainnet_{name}"]["path"]
        for name in ("real", "sketch")
    )
    alike = {"test": "ood-real", "ood-sketch": "test", "ood-clipart": "ood-clipart", "ood-painting": "ood-painting"}
    for here, there in alike.items():
        files = sorted((real / here).iterdir())
        assert files and all(file.samefile(sketch / there / file.name) for file in files)
    # another encoder has none of it
    (tmp_path / "job.yaml").write_text(text.replace("width: 4", "width: 2"))
    assert call(["run", "job.yaml", "--inline", "--until", "extract"]) == 0
    made = len(list((tmp_path / "runs/extract").iterdir()))
    assert made == 4 and len(list((tmp_path / "runs/set").iterdir())) == 2 * 6


TEXTS = """
name: texts
encoders: [{name: "transformers:tiny", weights: bert, pooling: mean}]
tasks: [gluex_rte, glue_stsb]
heads: {sweep: [{head: linear_probe, fixed: {epochs: 2}}]}
"""


@pytest.mark.long
def test_a_language_model_on_tasks_of_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    layouts.glue(tmp_path / "downloads")
    layouts.gluex(tmp_path / "downloads")
    tiny_bert(tmp_path / "bert")
    for name in ("gluex_rte", "glue_stsb"):
        assert call(["tasks", "shard", name, "--downloads", "downloads"]) == 0
    (tmp_path / "job.yaml").write_text(TEXTS)
    assert call(["run", "job.yaml", "--inline"]) == 0
    scores = (tmp_path / "runs/studies/texts/task_scores.csv").read_text()
    for place in (",ood-hans,12,accuracy,", ",ood-scitail,8,accuracy,", "glue_stsb,pearson,", ",test,12,pearson,"):
        assert place in scores
