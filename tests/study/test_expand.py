import json
from pathlib import Path

import pytest

from nml_ray.config.document import parse
from nml_ray.config.errors import UserError
from nml_ray.config.override import override
from nml_ray.config.validate import validate
from nml_ray.study.expand import Study, expand
from nml_ray.study.graph import batches, ordered
from nml_ray.study.job import Job
from nml_ray.study.stage import digests

ICONS = """
name: demo
threads: 2
data: {icons: {}}
noise: {ratios: [0, 0.1, 0.30]}
pretrain: {seeds: [0, 1], epochs: 2, microbatch: 64}
spectrum: {}
heads: {seeds: [0, 1]}
"""


def job(text: str, *assignments: str) -> Job:
    return validate(Job, override(parse(text, "job.yaml"), assignments))


def study(text: str = ICONS, *assignments: str) -> Study:
    return expand(job(text, *assignments))


def digests_of(one: Study) -> dict[str, str]:
    return digests(ordered(one.stages))


def make_dataset(directory: Path, digest: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    info = {"digest": digest, "classes": ["a", "b"], "shards": [{"name": "a.tar", "digest": "s"}]}
    (directory / "dataset.json").write_text(json.dumps(info))
    return directory


def shards_job(root: Path) -> str:
    return f"""
name: own
data: {{shards: {{pretrain: {root}/p, train: {root}/a, validation: {root}/b, test: {root}/c}}}}
noise: {{ratios: [0]}}
pretrain: {{epochs: 1}}
heads: {{}}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name in "pabc":
        make_dataset(tmp_path / name, name)
    return tmp_path


def test_the_whole_pipeline_in_order() -> None:
    kinds = [stage.kind for stage in ordered(study().stages).values()]
    assert list(dict.fromkeys(kinds)) == ["shards", "ledger", "pretrain", "extract", "spectrum", "heads", "report"]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "shards": 1,
        "ledger": 3,
        "pretrain": 6,
        "extract": 6,
        "spectrum": 6,
        "heads": 6,
        "report": 1,
    }


def test_arms_of_a_seed_share_a_call_and_so_do_extraction_and_heads() -> None:
    sizes = {batch[0].split("/")[0]: len(batch) for batch in batches(ordered(study().stages))}
    assert sizes == {"shards": 1, "ledger": 3, "pretrain": 3, "extract": 6, "spectrum": 6, "heads": 6, "report": 1}
    swept = batches(ordered(study(ICONS, "run.arms=sweep").stages))
    assert [len(batch) for batch in swept if batch[0].startswith("pretrain")] == [6]


@pytest.mark.parametrize(
    "assignment",
    [
        "run.workers=2",
        "run.storage=elsewhere",
        "run.arms=sweep",
        "run.arms_per_worker=1",
        "run.cpus=3",
        "noise.ratios.1=0.10",
        "pretrain.order.shuffle_block=64",
    ],
)
def test_how_it_runs_is_not_hashed(assignment: str) -> None:
    assert digests_of(study(ICONS, assignment)) == digests_of(study())


@pytest.mark.parametrize(
    ("assignment", "changed"),
    [
        ("noise.ratios.3=0.5", {"report"}),
        ("pretrain.seeds=[0, 1, 2]", {"report"}),
        ("title=Other", {"report"}),
        ("heads.seeds=[0]", {"heads", "report"}),
        ("spectrum.transforms=[raw]", {"extract", "spectrum", "heads", "report"}),
        ("pretrain.epochs=3", {"pretrain", "extract", "spectrum", "heads", "report"}),
        ("pretrain.repeats=2", {"pretrain", "extract", "spectrum", "heads", "report"}),
        ("threads=1", {"pretrain", "extract", "spectrum", "heads", "report"}),
        ("noise.seed=1", {"ledger", "pretrain", "extract", "spectrum", "heads", "report"}),
        ("data.icons.shard_size=64", {"shards", "ledger", "pretrain", "extract", "spectrum", "heads", "report"}),
    ],
)
def test_a_change_reaches_what_it_defines_and_nothing_else(assignment: str, changed: set[str]) -> None:
    before, after = digests_of(study()), digests_of(study(ICONS, assignment))
    assert {name.split("/")[0] for name in before if after.get(name) != before[name]} == changed


def test_the_report_knows_its_arms_by_the_names_of_its_inputs() -> None:
    report = next(stage for stage in study().stages if stage.kind == "report")
    arms = report.settings["arms"]
    assert [(arm["ratio"], arm["seed"]) for arm in arms] == [(r, s) for s in (0, 1) for r in ("0", "0.1", "0.3")]
    assert arms[1] == {
        "ratio": "0.1",
        "kind": "symmetric",
        "seed": 0,
        "roles": {
            "ledger": "ledger/symmetric-0.1",
            "pretrain": "pretrain/symmetric-0.1/seed-0",
            "spectrum": "spectrum/symmetric-0.1/seed-0",
            "heads": "heads/symmetric-0.1/seed-0",
        },
    }
    assert all(role in report.inputs for arm in arms for role in arm["roles"].values())
    assert report.inputs["shards"] == "shards"
    assert report.settings["data"]["test"] == "shards"


def test_own_shards_are_hashed_by_content_not_by_path(own: Path, tmp_path: Path) -> None:
    before = expand(job(shards_job(own)))
    for name in "pabc":
        make_dataset(tmp_path / "moved" / name, name)
    after = expand(job(shards_job(tmp_path / "moved")))
    assert digests_of(before) == digests_of(after)
    assert after.given["shards/pretrain"].links == {"pretrain": tmp_path / "moved" / "p"}
    assert set(after.given["shards/downstream"].links) == {"train", "validation", "test"}


def test_other_downstream_data_leaves_the_encoder_alone(own: Path) -> None:
    before = digests_of(expand(job(shards_job(own))))
    make_dataset(own / "c", "other")
    after = digests_of(expand(job(shards_job(own))))
    changed = {name.split("/")[0] for name in before if after[name] != before[name]}
    assert changed == {"shards", "extract", "heads", "report"}
    assert before["shards/pretrain"] == after["shards/pretrain"]


def test_validation_images_reach_pretraining_and_nothing_before_it(own: Path) -> None:
    text = shards_job(own).replace("{shards: {", f"{{shards: {{pretrain_validation: {own}/v, ")
    before = digests_of(expand(job(shards_job(own))))
    make_dataset(own / "v", "v")
    after = expand(job(text))
    assert after.given["shards/pretrain_validation"].links == {"pretrain_validation": own / "v"}
    (pretrain,) = [stage for stage in after.stages if stage.name == "pretrain/symmetric-0/seed-0"]
    assert pretrain.inputs["validation"] == "shards/pretrain_validation"
    changed = {name for name, digest in digests_of(after).items() if before.get(name) != digest}
    assert not any(name.startswith(("ledger", "shards/pretrain/", "shards/downstream")) for name in changed)
    assert "pretrain/symmetric-0/seed-0" in changed


def test_the_layout_counts_only_where_the_order_depends_on_it(own: Path) -> None:
    def pretrain(order: str) -> str:
        return digests_of(expand(job(shards_job(own), f"pretrain.order={order}")))["pretrain/symmetric-0/seed-0"]

    full, lanes = pretrain("full"), pretrain("lanes")
    info = {"digest": "p", "classes": ["a", "b"], "shards": [{"name": "b.tar", "digest": "s"}]}
    (own / "p" / "dataset.json").write_text(json.dumps(info))
    assert pretrain("full") == full
    assert pretrain("lanes") != lanes


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.shards\.pretrain: '.*/p' is no directory"):
        expand(job(shards_job(tmp_path)))


def test_only_pretraining() -> None:
    kinds = {stage.kind for stage in study("name: p\ndata: {icons: {}}\npretrain: {}\n").stages}
    assert kinds == {"shards", "ledger", "pretrain", "report"}


def test_only_a_ledger() -> None:
    assert {s.kind for s in study("name: p\ndata: {icons: {}}\nnoise: {ratios: [0.1]}\n").stages} == {
        "shards",
        "ledger",
    }


def test_only_extraction_with_given_encoders(own: Path) -> None:
    weights = own / "w.safetensors"
    weights.write_bytes(b"w")
    text = f"""
name: e
data: {{shards: {{train: {own}/a}}}}
encoders:
- {{name: small_resnet, weights: {weights}}}
- {{name: small_resnet}}
- {{name: "timm:resnet18"}}
extract: {{}}
"""
    made = expand(job(text))
    stages = {stage.name: stage for stage in made.stages}
    assert {stage.kind for stage in stages.values()} == {"shards", "weights", "encoder", "extract"}
    assert stages["extract/small_resnet"].settings["extract"]["splits"] == ["train"]
    assert stages["extract/small_resnet"].inputs == {"shards": "shards/downstream", "encoder": "encoder/small_resnet"}
    assert stages["encoder/small_resnet"].inputs == {"weights": "weights/small_resnet"}
    assert {"encoder/small_resnet-1", "encoder/timm-resnet18"} <= set(stages)
    assert str(weights) not in json.dumps([dict(stage.settings) for stage in made.stages])
    assert made.given["weights/small_resnet"].links == {"weights.safetensors": weights}


def test_only_heads_on_given_features(tmp_path: Path) -> None:
    for name in ("a.npy", "a.labels.npy", "b.arrow", "c.arrow"):
        (tmp_path / name).write_bytes(name.encode())
    text = f"""
name: h
features: {{train: {tmp_path}/a.npy, validation: {tmp_path}/b.arrow, test: {tmp_path}/c.arrow}}
heads: {{}}
"""
    made = expand(job(text))
    order = ordered(made.stages)
    assert [stage.kind for stage in order.values()] == ["features", "extract", "heads", "report"]
    assert set(made.given["features"].links) == {"train.npy", "train.labels.npy", "validation.arrow", "test.arrow"}
    assert order["report"].settings["arms"][0]["roles"] == {"heads": "heads/given"}


def test_settings_of_all_stages_are_plain_data() -> None:
    stages = study().stages
    assert json.loads(json.dumps([dict(stage.settings) for stage in stages])) == [dict(s.settings) for s in stages]


@pytest.mark.parametrize(
    ("split", "classes", "text"),
    [
        (
            "c",
            ["b", "a"],
            "data.shards.test: {root}/c: label 0 is 'b', but 'a' in train; expected the same class names",
        ),
        ("b", ["a"], "data.shards.validation: {root}/b: label 1 is no class, but 'b' in train"),
        ("b", ["0", "1"], "label 0 is '0', but 'a' in train"),
        ("v", ["a", "c"], "data.shards.pretrain_validation: {root}/v: label 1 is 'c', but 'b' in pretrain"),
    ],
)
def test_splits_whose_labels_mean_other_classes_are_refused(own: Path, split: str, classes: list, text: str) -> None:
    make_dataset(own / "v", "v")
    file = own / split / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "classes": classes}))
    with pytest.raises(UserError) as caught:
        expand(job(shards_job(own).replace("{shards: {", f"{{shards: {{pretrain_validation: {own}/v, ")))
    assert text.format(root=own) in str(caught.value)
    assert "one --classes file" in str(caught.value)


@pytest.mark.parametrize("classes", [{"a": ["0", "1", "2"], "b": ["0", "1"], "c": []}, {"p": ["x"], "c": []}])
def test_splits_of_numbers_or_without_labels_fit_and_so_does_other_pretraining_data(own: Path, classes: dict) -> None:
    for split, names in classes.items():
        file = own / split / "dataset.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "classes": names}))
    assert expand(job(shards_job(own))).stages
