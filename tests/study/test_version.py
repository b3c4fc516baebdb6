"""Two jobs of one study's name: each keeps what it refers to, and the study's own files are of one of them."""

import json
from pathlib import Path

import pytest
import yaml

from nml_ray.cli.main import cli
from nml_ray.config.errors import UserError
from nml_ray.storage.artifact import Store
from nml_ray.study.garbage_removal import look, remove
from nml_ray.study.garbage_scan import named
from nml_ray.study.listing import Listing, read_stages
from nml_ray.study.plan import Planned
from nml_ray.study.stage import Stage
from nml_ray.study.version import HISTORY, VERSION, Version, key_of, names_of, running
from tests.study.garbage_storage import digest, make, there


def job(ratio: str, **run: object) -> dict[str, object]:
    return {"name": "s", "noise": {"ratios": [ratio]}, "run": run}


def version(store: Store, ratio: str, **run: object) -> Version:
    data = job(ratio, **run)
    return Version(store.root / "studies/s", data, yaml.safe_dump(data).encode())


def plan(*keys: tuple[str, int]) -> dict[str, Planned]:
    return {f"{kind}/{n}": Planned(Stage(f"{kind}/{n}", kind, 1, {}, "x:y"), digest(n), "to do") for kind, n in keys}


def begun(store: Store, ratio: str, *keys: tuple[str, int]) -> tuple[Version, Listing]:
    one = version(store, ratio)
    listing = Listing(one.directory, one)
    listing.begin(plan(*keys))
    return one, listing


def pair(store: Store) -> tuple[str, set[str]]:
    directory = store.root / "studies/s"
    (ratio,) = yaml.safe_load((directory / "job.yaml").read_text())["noise"]["ratios"]
    return ratio, set(read_stages(directory) or {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    make(store, "shards", 1)
    for number in (2, 3):
        make(store, "pretrain", number, inputs={"shards": f"shards/{digest(1)}"})
    return store


def test_how_it_runs_makes_no_other_job():
    assert key_of(job("0", workers=1)) == key_of(job("0", workers=2)) != key_of(job("0.1"))


def test_of_two_jobs_at_once_the_studys_files_are_of_the_one_begun_last(store: Store) -> None:
    first, listing = begun(store, "0", ("pretrain", 2))
    assert pair(store) == ("0", {"pretrain/2"}) and first.latest
    second, other = begun(store, "0.1", ("pretrain", 3))
    listing.begin(plan(("pretrain", 2), ("extract", 4)))
    listing.end()
    assert pair(store) == ("0.1", {"pretrain/3"}) and second.latest and not first.latest
    kept = json.loads((first.place / VERSION).read_text())
    assert kept["job"] == job("0") and set(kept["stages"]) == {"pretrain/2", "extract/4"}
    other.end()
    again, _ = begun(store, "0", ("pretrain", 2))
    assert pair(store) == ("0", {"pretrain/2"}) and again.key == first.key and not second.latest
    assert names_of(first.place) == {f"pretrain/{digest(2)}", f"extract/{digest(4)}"}, "also what it named before"


def test_who_runs_another_job_of_the_name_is_told(store: Store) -> None:
    first, second = version(store, "0"), version(store, "0.1")
    with running(store, first) as others:
        assert others == []
        with running(store, version(store, "0", workers=2)) as same, running(store, second) as told:
            assert same == [] and len(told) == 1 and f"{HISTORY}/{first.key}" in told[0] and "process" in told[0]
    with running(store, second) as others:
        assert others == []


def test_gc_keeps_what_an_earlier_job_refers_to_until_it_is_asked(store: Store) -> None:
    first, _ = begun(store, "0", ("pretrain", 2))
    begun(store, "0.1", ("pretrain", 3))
    going = look(store, 1)
    assert going.artifacts == () and [one.key for one in going.earlier] == [("pretrain", digest(2))]
    with running(store, first):
        assert look(store, 1, earlier=True).artifacts == (), "it runs"
    asked = look(store, 1, earlier=True)
    assert [one.key for one in asked.artifacts] == [("pretrain", digest(2))] and asked.earlier == ()
    assert remove(store, asked, 1).count == 0, "it is removed only where that is asked too"
    assert remove(store, asked, 1, earlier=True).count == 1
    assert there(store) == {("shards", 1), ("pretrain", 3)}


def test_gc_says_what_only_earlier_jobs_refer_to(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    begun(store, "0", ("pretrain", 2))
    begun(store, "0.1", ("pretrain", 3))
    command = ["gc", "--storage", str(store.root)]
    cli(command, standalone_mode=False)
    out = capsys.readouterr().out
    assert "1 more, " in out and "--earlier-runs" in out and "pretrain/" not in out
    cli([*command, "--earlier-runs", "--remove"], standalone_mode=False)
    assert f"pretrain/{digest(2)}" in capsys.readouterr().out and there(store) == {("shards", 1), ("pretrain", 3)}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": 1}', '{"stages": {}, "before": ["../../x"]}', '{"stages": {"a": 1}}']
)
def test_what_cannot_be_read_keeps_everything(store: Store, text: str) -> None:
    first, _ = begun(store, "0", ("pretrain", 2))
    begun(store, "0.1", ("pretrain", 3))
    (first.place / VERSION).write_text(text)
    with pytest.raises(UserError, match=f"studies/s/{HISTORY}/{first.key}/{VERSION}: cannot be read"):
        named(store)
