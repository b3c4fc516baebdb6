"""Jobs with objective clip: what fits together, and what the pretrain stage reads."""

import json

import pytest

from nml_ray.config.document import parse
from nml_ray.config.errors import UserError
from nml_ray.config.validate import validate
from nml_ray.study.expand import expand
from nml_ray.study.graph import ordered
from nml_ray.study.job import Job
from nml_ray.study.stage import digests

CLIP = "name: x\ndata: {icons: {}}\npretrain: {objective: clip}\n"


def job(text):
    return validate(Job, parse(text, "job.yaml"))


def pretraining(text):
    return [stage for stage in expand(job(text)).stages if stage.kind == "pretrain"]


def test_without_noise_captions_are_their_own():
    (stage,) = pretraining(CLIP)
    assert stage.settings["noise"] == {"kind": "caption_swap", "ratio": "0", "seed": 0}
    assert dict(stage.inputs) == {"shards": "shards"}


def test_zero_shot_images_are_read():
    (stage,) = pretraining(CLIP.replace("clip}", "clip, clip: {zero_shot: {split: ood}}}"))
    assert stage.inputs["zero_shot"] == "shards"


def test_zero_shot_images_of_their_own_leave_downstream_tasks_out_of_it(tmp_path):
    for split in ("pretrain", "pretrain_validation", "train", "other"):
        classes = ["of other images"] if split == "pretrain" else ["a"]
        info = {"digest": split, "classes": classes, "shards": [{"name": "a.tar", "digest": split}]}
        (tmp_path / split).mkdir()
        (tmp_path / split / "dataset.json").write_text(json.dumps(info))

    def inputs_and_digests(train):
        places = {"pretrain": "pretrain", "pretrain_validation": "pretrain_validation", "train": train}
        shards = ", ".join(f"{split}: {tmp_path / place}" for split, place in places.items())
        text = CLIP.replace("icons: {}", f"shards: {{{shards}}}") + "spectrum: {}\n"
        text = text.replace("clip}", "clip, clip: {zero_shot: {split: pretrain_validation}}}")
        stages = ordered(expand(job(text)).stages)
        (stage,) = [stage for stage in stages.values() if stage.kind == "pretrain"]
        return dict(stage.inputs), digests(stages)

    (inputs, before), (_, after) = inputs_and_digests("train"), inputs_and_digests("other")
    assert inputs == {"shards": "shards/pretrain", "zero_shot": "shards/pretrain_validation"}
    changed = {name.split("/")[0] for name in before if before[name] != after[name]}
    assert changed == {"shards", "extract", "spectrum", "report"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CLIP.replace("icons: {}", "shards: {pretrain: a, pretrain_validation: b}"), "only supervised pre-training"),
        (CLIP + "noise: {kind: symmetric, ratios: [0.1]}\n", "objective clip reads captions"),
        (CLIP.replace("objective: clip", "epochs: 1") + "noise: {kind: caption_swap, ratios: [0.1]}\n", "reads labels"),
        (CLIP.replace("clip}", "supervised, clip: {}}"), "no text tower"),
        (CLIP.replace("clip}", "clip, label_smoothing: 0.1}"), "'label_smoothing' is for labels"),
        (CLIP.replace("clip}", "clip, repeats: 2}"), "'repeats' is for labels"),
        (CLIP.replace("clip}", "clip, clip: {zero_shot: {templates: [icon]}}}"), "once"),
        (
            CLIP.replace("icons: {}", "shards: {pretrain: a}").replace("clip}", "clip, clip: {zero_shot: {}}}"),
            "no split 'test'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        job(text)
