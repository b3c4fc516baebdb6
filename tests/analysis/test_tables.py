"""Tables: shape, numbers and the three ways to write them."""

import csv
import io

import pytest
from sample_study import arms as sample_arms  # type: ignore[import-not-found]

from nml_ray.analysis import tables
from nml_ray.analysis.results import ArmResult, HeadScore
from nml_ray.analysis.wording import number, ratio_label

SAMPLES = {"test": 1315, "ood": 687}
HEADS = ["Linear probe", "MLP", "NMTune (paper)", "NMTune (official)"]


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_paper_table_has_a_row_a_ratio_and_a_column_a_head_and_split():
    table = tables.paper_table(sample_arms(), SAMPLES)
    assert table.groups == [("In domain", 4), ("Out of domain", 4)]
    assert table.columns == HEADS * 2
    assert [label.replace("\xa0", " ") for label, _ in table.rows] == ["0 %", "5 %", "10 %", "20 %", "30 %"]
    first = table.rows[0][1][0]
    assert first is not None and first.mean == pytest.approx((0.787 + 0.783) / 2)
    assert table.text(first) == "78.5\xa0±\xa02.5"  # 12.706 * (0.787 - 0.783) / 2 = 0.0254


def test_one_seed_gives_numbers_without_interval():
    table = tables.paper_table(sample_arms(seeds=(0,)), SAMPLES)
    assert table.text(table.rows[0][1][0]) == "78.7"


def test_a_missing_cell_stays_empty():
    with_ood = ArmResult(
        "0", 0, 0, heads=[HeadScore("mlp", 0, {}, {"test": {"accuracy": 0.5}, "ood": {"accuracy": 0.4}})]
    )
    without = ArmResult("0.1", 0.1, 0, heads=[HeadScore("mlp", 0, {}, {"test": {"accuracy": 0.5}})])
    table = tables.paper_table([with_ood, without], {})
    assert table.text(table.rows[1][1][1]) == ""
    assert read(tables.to_csv(table))[1]["Out of domain, MLP"] == ""


def test_differences_are_signed_and_judged():
    table = tables.noise_table(sample_arms(seeds=(0,)), SAMPLES)
    assert len(table.rows) == 4
    cell = table.rows[-1][1][4]
    assert table.text(cell) == "−2.4"
    assert table.tone(cell) == "unclear"  # 2.4 points on 687 samples: one standard error is 2.7
    gain = tables.gain_table(sample_arms(seeds=(0,)), SAMPLES)
    assert [name for name, _ in gain.groups] == [
        "In domain, over linear probe",
        "In domain, over MLP",
        "Out of domain, over linear probe",
        "Out of domain, over MLP",
    ]
    assert gain.columns == ["NMTune (paper)", "NMTune (official)"] * 4
    assert gain.tone(gain.rows[0][1][0]) == "up"


def test_measure_table_names_split_and_transform():
    table = tables.measure_table(sample_arms())
    assert table.groups[0] == ("In domain (raw)", 2)
    assert table.columns[:2] == ["SVE", "LSVR"]
    assert table.text(table.rows[0][1][0]).startswith("4.776\xa0±")


def test_space_table_holds_sve_in_domain_and_lsvr_out_of_domain_of_every_head():
    table = tables.space_table(sample_arms(), "raw")
    assert table.groups == [("In domain, SVE", 4), ("Out of domain, LSVR", 4)]
    assert table.columns == HEADS * 2
    own = tables.measure_table(sample_arms())
    for (_, cells), (_, measures) in zip(table.rows, own.rows, strict=True):
        assert [table.text(cells[0]), table.text(cells[4])] == [own.text(measures[0]), own.text(measures[3])]
    assert table.text(table.rows[0][1][1]).startswith("4.375\xa0±")
    assert tables.measured_spaces(sample_arms()) == [
        ("test", "raw"),
        ("ood", "raw"),
        ("test", "official"),
        ("ood", "official"),
    ]


def test_the_three_formats_agree():
    table = tables.paper_table(sample_arms(seeds=(1,)), SAMPLES)
    rows = read(tables.to_csv(table))
    assert float(rows[-1]["Out of domain, NMTune (official)"]) == pytest.approx(57.5)
    assert rows[-1]["Out of domain, NMTune (official), half width"] == ""
    error = float(rows[-1]["Out of domain, NMTune (official), test set error"])
    assert error == pytest.approx(100 * (0.575 * 0.425 / 687) ** 0.5, abs=1e-5)
    assert "| 57.5 |" in tables.to_markdown(table).splitlines()[-1]
    assert tables.to_text(table).splitlines()[-1].endswith("57.5")
    widths = {line.count("|") for line in tables.to_markdown(table).splitlines()}
    assert len(widths) == 1


def test_long_rows_hold_every_number_once():
    arms = sample_arms()
    scores = tables.score_rows(arms)
    assert len(scores) == 10 * 4 * 2 * 3 * 2
    assert {row["head"] for row in scores} == {"linear_probe", "mlp", "nmtune:paper", "nmtune:official"}
    curves = read(tables.rows_to_csv(tables.curve_rows(arms)))
    assert curves[0]["loss_flipped"] == "" and float(curves[-1]["loss_flipped"]) > 0
    spectra = tables.spectrum_rows(arms)
    one = [
        row for row in spectra if (row["ratio"], row["seed"], row["split"], row["transform"]) == ("0", 0, "test", "raw")
    ]
    assert [row["index"] for row in one] == list(range(1, 97))
    assert sum(row["share"] for row in one) == pytest.approx(1)
    measures = tables.measure_rows(arms)
    assert len(measures) == 10 * (4 + 4 * 2 * 4)
    probe = [row for row in measures if row["head"] == "linear_probe" and row["head_seed"] == 0]
    own = [row for row in measures if row["head"] == ""]
    assert [{**row, "head": "", "head_seed": ""} for row in probe] == [
        row | {"sve": pytest.approx(row["sve"]), "lsvr": pytest.approx(row["lsvr"])} for row in own
    ]


def test_nothing_gives_nothing():
    assert tables.rows_to_csv([]) == ""


def test_wording_of_numbers():
    assert ratio_label("0.025") == "2.5\xa0%" and ratio_label("1") == "100\xa0%"
    assert number(-0.04, 1, signed=True) == "0.0" and number(-2.44, 1) == "−2.4"
