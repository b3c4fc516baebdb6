"""The report stage: what lies in artifacts of all kinds comes together in one page."""

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nml_ray.analysis.results import EpochCurve, HeadScore
from nml_ray.data.dataset_info import DatasetInfo, save_info
from nml_ray.storage.artifact import Artifact, Store
from nml_ray.study.execute import HEADLINE
from nml_ray.study.stage import Stage
from nml_ray.study.stages import report
from nml_ray.study.task import Context, Task

FACTS = {"versions": {"torch": "1"}, "machine": {"cpus": 2}}


def keep(store: Store, kind: str, digest: str, files: dict[str, object], **facts: object) -> Artifact:
    """A finished artifact with JSON files."""
    attempt = store.attempt(kind, digest, stage=f"{kind}/{digest}", **FACTS, **facts)
    for name, data in files.items():
        (attempt.path / name).write_text(json.dumps(data))
    return attempt.finish()


def shards(store: Store) -> Artifact:
    attempt = store.attempt("shards", "s", stage="shards", settings={"shard_size": 8}, **FACTS)
    for split, samples, bad in (("pretrain", 40, ("a", "b")), ("test", 10, ())):
        (attempt.path / split).mkdir()
        info = DatasetInfo(
            classes=("x", "y"),
            shards=(),
            samples=samples,
            digest=split,
            known_bad=bad,
            source="here",
            licence="CC0-1.0",
        )
        save_info(attempt.path / split, info)
    return attempt.finish()


def pretrained(store: Store, ratio: str) -> Artifact:
    settings = {"pretrain": {"epochs": 2}, "noise": {"ratio": ratio}, "seed": 0}
    attempt = store.attempt("pretrain", f"p{ratio}", stage=f"pretrain/{ratio}", settings=settings, **FACTS)
    flipped = None if ratio == "0" else 0.25
    rows = [asdict(EpochCurve(epoch, 1.0, 0.5, flipped, flipped, flipped)) for epoch in (1, 0)]
    types = [("epoch", pa.int64())] + [(name, pa.float64()) for name in list(rows[0])[1:]]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(types)), attempt.path / "curves.parquet")
    return attempt.finish()


def arm(store: Store, ratio: str, accuracy: float) -> dict[str, Artifact]:
    extract = keep(store, "extract", f"e{ratio}", {}, settings={"extract": {"batch": 8}}, inputs={"shards": "shards/s"})
    inputs = {"extract": f"extract/{extract.digest}"}
    measures = {"count": 10, "singular_values": [3.0, 1.0], "sve": 0.56, "lsvr": 0.29}
    scores = {split: {"accuracy": accuracy, "macro_f1": accuracy} for split in ("validation", "test")}
    z = {"test": {"raw": {"count": 10, "sve": 0.56, "lsvr": 0.29}}}
    score = asdict(HeadScore("linear_probe", 0, {"preset": "paper"}, scores, z))
    return {
        f"ledger/{ratio}": keep(
            store, "ledger", f"l{ratio}", {"summary.json": {"realised": float(ratio)}}, settings={}
        ),
        f"pretrain/{ratio}": pretrained(store, ratio),
        f"spectrum/{ratio}": keep(
            store, "spectrum", f"m{ratio}", {"spectrum.json": {"test": {"raw": measures}}}, settings={}, inputs=inputs
        ),
        f"heads/{ratio}": keep(store, "heads", f"h{ratio}", {"results.json": [score]}, settings={}, inputs=inputs),
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def task_of(store: Store, inputs: dict[str, Artifact], arms: list[dict[str, object]], data: dict[str, str]) -> Task:
    settings = {"name": "small", "title": "A small study", "arms": arms, "data": data}
    stage = Stage("report", "report", 1, settings, "", {role: role for role in inputs})
    return Task(stage, inputs, store.attempt("report", "r"))


def entry(ratio: str | None, roles: dict[str, str], kind: str = "symmetric") -> dict[str, object]:
    return {"ratio": ratio, "kind": kind, "seed": 0, "roles": roles}


@pytest.mark.long
def test_a_whole_study(store: Store) -> None:
    made = {ratio: arm(store, ratio, accuracy) for ratio, accuracy in (("0", 0.8), ("0.3", 0.6))}
    inputs = {"shards": shards(store), **made["0"], **made["0.3"]}
    arms = [entry(ratio, {name.partition("/")[0]: name for name in own}) for ratio, own in made.items()]
    task = task_of(store, inputs, arms, {"pretrain": "shards", "test": "shards"})
    report.run([task], Context(store, True, 1, None, lambda: None))

    artifact = store.artifact("report", "r")
    assert artifact is not None
    page = (artifact.path / "report.html").read_text()
    assert "A small study" in page and "here; CC0-1.0" in page and "extract/e0.3" in page
    assert {path.suffix for path in artifact.path.iterdir()} >= {".html", ".csv"}
    said = (artifact.path / HEADLINE).read_text().replace("\xa0", " ")
    assert said.startswith(
        "−20.0 points in domain: 30 % wrong labels in pre-training moved the linear probe from 80.0 % to 60.0 %."
    )

    result = report.study_result(task, store)
    assert [(facts.name, facts.samples, facts.classes) for facts in result.data] == [
        ("pretrain", 38, 2),
        ("test", 10, 2),
    ]
    assert result.arms[1].heads[0].spectra["test"]["raw"]["sve"] == 0.56
    assert "What the heads did to the feature space" in page
    assert [curve.epoch for curve in result.arms[1].curves] == [0, 1]
    assert result.made_from["settings"]["pretrain"] == {
        "pretrain": {"epochs": 2},
        "noise": {"ratio": {"each of": ["0", "0.3"]}},
        "seed": 0,
    }
    kinds = [stage["kind"] for stage in result.made_from["stages"]]
    assert kinds == ["shards", *(kind for kind in ("ledger", "pretrain", "extract", "spectrum", "heads") for _ in "ab")]


def test_only_pretraining(store: Store) -> None:
    task = task_of(store, {"p": pretrained(store, "0")}, [entry("0", {"pretrain": "p"})], {})
    result = report.study_result(task, store)
    assert result.arms[0].curves and not result.arms[0].heads and not result.arms[0].spectra
    report.run([task], Context(store, True, 1, None, lambda: None))
    assert (task.attempt.path / "curves.csv").exists()


def test_given_features_bring_their_own_counts(store: Store) -> None:
    own = arm(store, "0", 0.8)
    roles = {"spectrum": "spectrum/0", "heads": "heads/0"}
    inputs = {role: own[role] for role in roles.values()}
    given = Artifact("shards", "g", store.root, {"given": {"test": "there"}})
    task = task_of(store, {**inputs, "given": given}, [entry("0", roles, "my features")], {})
    result = report.study_result(task, store)
    assert [(facts.name, facts.samples) for facts in result.data] == [("test", 10)]
    assert {"name": "shards, given", "kind": "shards", "digest": "g", "seconds": None} in result.made_from["stages"]
    report.run([task], Context(store, True, 1, None, lambda: None))
    said = (task.attempt.path / HEADLINE).read_text().replace("\xa0", " ")
    assert said.splitlines()[0] == "my features, in domain: Linear probe 80.0 %."


def test_noise_without_a_ratio_stands_at_what_it_realised(store: Store) -> None:
    ledger = keep(store, "ledger", "l", {"summary.json": {"realised": 0.12344}}, settings={})
    found = report.arm_result(entry(None, {"ledger": "l"}, "transition"), {"l": ledger})
    assert (found.ratio, found.realised) == ("0.1234", 0.12344)
