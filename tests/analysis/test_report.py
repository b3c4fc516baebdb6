"""The report: complete for a full study, shorter for a partial one, safe against what names contain."""

import csv
import dataclasses
import html
import html.parser
import re

import pytest
from sample_study import sample_study  # type: ignore[import-not-found]

from nml_ray.analysis import report
from nml_ray.analysis.results import SplitFacts, StudyResult
from nml_ray.config.errors import UserError

RATIOS = ("0", "0.1", "0.3")
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and collects ids, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        self.links += [(tag, given[name]) for name in ("href", "src", "xlink:href", "srcset", "data") if name in given]
        assert not any(name.startswith("on") for name in given)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def study():
    return sample_study(ratios=RATIOS)


@pytest.fixture(scope="module")
def page(study):
    return report.render(study)


def test_the_page_nests_and_its_ids_are_unique(page):
    read = Page(page)
    assert len(read.ids) == len(set(read.ids))
    assert {"accuracy", "noise", "repair", "features", "heads", "spectra", "training", "data", "made"} <= set(read.ids)
    assert {link[1:] for tag, link in read.links if tag == "a" and link.startswith("#")} <= set(read.ids)


def test_nothing_is_loaded_from_anywhere(page):
    outside = [(tag, link) for tag, link in Page(page).links if not link.startswith("#")]
    assert outside == [("a", "https://arxiv.org/abs/2309.17002")]
    assert not re.search(r"<script|<iframe|@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_equal_studies_give_equal_pages(page, study):
    again = report.render(sample_study(ratios=RATIOS))
    assert again == page


def test_hostile_names_stay_text(study):
    evil = '<script>alert("x")</script>&\'"><img src=x onerror=alert(1)>'
    made = {
        "settings": {evil: {"name": evil}},
        "versions": {evil: evil},
        "machine": {evil: [evil]},
        "stages": [{"name": evil, "kind": evil, "digest": evil, "seconds": 1.0}],
        "sources": [{"split": evil, "source": evil, "licence": evil}],
    }
    arms = [
        dataclasses.replace(
            arm,
            kind=evil,
            heads=[dataclasses.replace(score, head=evil, settings={}) for score in arm.heads[:2]],
            spectra=[dataclasses.replace(one, split=evil, transform=evil) for one in arm.spectra[:1]],
        )
        for arm in study.arms
    ]
    text = report.render(StudyResult(evil, evil, arms, [SplitFacts(evil, 1, 1, evil)], made))
    read = Page(text)
    assert "<script" not in text and "<img" not in text
    assert read.text.count('alert("x")') >= 10


def test_a_partial_study_leaves_out_what_it_lacks(study):
    bare = [dataclasses.replace(arm, heads=(), spectra=()) for arm in study.arms]
    ids = Page(report.render(dataclasses.replace(study, arms=bare))).ids
    assert "training" in ids and not {"accuracy", "noise", "repair", "features", "heads", "spectra"} & set(ids)

    heads = [dataclasses.replace(arm, curves=(), spectra=()) for arm in study.arms if arm.ratio == "0"]
    ids = Page(report.render(StudyResult("heads", "", heads))).ids
    assert {"accuracy", "heads"} <= set(ids) and not {"noise", "features", "training"} & set(ids)

    Page(report.render(StudyResult("empty", "", [])))


def test_heads_without_a_linear_probe_are_held_against_the_encoders_features(study, page):
    own = "changes nothing: its line is the encoder's own features"
    assert own in html.unescape(page) and "Encoder&#39;s features" not in page
    arms = [dataclasses.replace(arm, heads=[one for one in arm.heads if one.head == "mlp"]) for arm in study.arms]
    text = html.unescape(report.render(dataclasses.replace(study, arms=arms)))
    assert own not in text and "Encoder's features" in text


@pytest.mark.long
def test_the_csv_files_hold_the_numbers_of_the_page(tmp_path, study, page):
    written = report.write_report(study, tmp_path / "out")
    names = [path.name for path in written]
    assert names == [
        "report.html",
        "scores.csv",
        "paper_table.csv",
        "differences.csv",
        "gains.csv",
        "measures.csv",
        "spectra.csv",
        "curves.csv",
        "tables.tex",
        "tables.txt",
        "tables.md",
    ]
    rows = list(csv.DictReader((tmp_path / "out" / "paper_table.csv").open(encoding="utf-8")))
    mean, half = (float(rows[-1]["Out of domain, MLP" + part]) for part in ("", ", half width"))
    assert f"{mean:.1f}\xa0±\xa0{half:.1f}" in page
    assert len((tmp_path / "out" / "curves.csv").read_text().splitlines()) == 1 + 6 * 12


def test_files_without_rows_are_not_written(tmp_path, study):
    bare = [dataclasses.replace(arm, heads=(), spectra=()) for arm in study.arms]
    written = report.write_report(dataclasses.replace(study, arms=bare), tmp_path)
    assert [path.name for path in written] == ["report.html", "curves.csv"]


def test_two_kinds_of_noise_are_not_mixed(tmp_path, study):
    other = dataclasses.replace(study.arms[1], kind="asymmetric")
    with pytest.raises(
        UserError, match=r"noise 0\.1 with seed 0 is there twice, of kind symmetric and of kind asymmetric"
    ):
        report.write_report(dataclasses.replace(study, arms=[*study.arms, other]), tmp_path)


def plain(lines):
    return [line.replace("\xa0", " ") for line in lines]


def test_headline_claims_no_more_than_two_seeds_allow(study):
    lines = plain(report.headline(study))
    assert lines[1] == (
        "−3.5 ± 14.0 points out of domain: 30 % wrong labels in pre-training moved the linear probe from 53.5 % to "
        "50.0 %. 2 pre-training seeds cannot tell this from zero."
    )
    assert lines[4:6] == [
        "+5.2 ± 5.1 points out of domain: on the 30 % encoder NMTune (paper) reaches 55.2 %, the linear probe 50.0 %. "
        "This stands out over 2 pre-training seeds.",
        "0.0 ± 12.1 points of repair out of domain: that gain minus the +5.2 ± 7.0 on the clean encoder. "
        "2 pre-training seeds cannot tell this from zero.",
    ]
    assert lines[6] == (
        "SVE +0.078 ± 0.064 in domain (4.776 to 4.854), LSVR +0.171 ± 0.032 out of domain (2.489 to 2.660) with 30 % "
        "wrong labels."
    )
    assert lines[-1].startswith("± is half of a 95 % t interval over 2 pre-training seeds")
    assert max(len(re.findall(r"[.!?](?= |$)", line)) for line in lines) == 2


def test_headline_of_one_seed_names_the_other_yardstick_and_says_why():
    lines = plain(report.headline(sample_study(ratios=RATIOS, seeds=(0,))))
    assert lines[1].startswith("−2.4 points out of domain")
    assert lines[1].endswith("This is within the sampling error of 687 test samples (± 5.3).")
    assert lines[4].endswith("This is beyond the sampling error of 687 test samples (± 5.3), but from one seed.")
    assert lines[-1].startswith("One pre-training seed: no intervals.")


def test_headline_of_what_there_is():
    study = sample_study(ratios=("0.1",), seeds=(0,))
    assert plain(report.headline(study))[0] == (
        "3.1 % of the flipped samples get their wrong label in the last epoch, 54.2 % their true one (10 % encoder)."
    )
    assert plain(report.headline(study))[1] == (
        "10 % encoder, in domain: Linear probe 77.8 %, MLP 79.8 %, NMTune (paper) 82.8 %, NMTune (official) 82.9 %."
    )
    bare = dataclasses.replace(study, arms=[dataclasses.replace(arm, heads=(), spectra=()) for arm in study.arms])
    assert "54.2 % their true one" in plain(report.headline(bare))[0]
    assert report.headline(dataclasses.replace(study, arms=[])) == []


def test_given_encoders_stand_beside_the_study_and_enter_no_mean(study):
    given = [dataclasses.replace(study.arms[0], kind=name, seed=0, curves=()) for name in ("resnet18", "vit_s16")]
    ids = Page(report.render(dataclasses.replace(study, arms=given))).ids
    assert {"encoders", "given-spectra", "encoders-test", "spectrum-ood-raw-given"} <= set(ids)
    assert not {"accuracy", "noise", "training"} & set(ids)
    lines = plain(report.headline(dataclasses.replace(study, arms=given)))
    assert lines[0].startswith("resnet18, in domain: Linear probe 78.7 %") and len(lines) == 4

    both = dataclasses.replace(study, arms=[*study.arms, *given])
    assert plain(report.headline(both))[:4] == plain(report.headline(study))[:4]
    read = Page(report.render(both))
    assert {"accuracy", "encoders"} <= set(read.ids) and len(read.ids) == len(set(read.ids))
