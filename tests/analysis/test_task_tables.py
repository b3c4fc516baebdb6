"""Tables over tasks: means, ranks and fractions, counted by hand; LaTeX that says what the table says."""

import pytest

from nml_ray.analysis import task_tables as tt
from nml_ray.analysis.latex import to_latex
from nml_ray.analysis.results import ArmResult, HeadScore, StudyResult, TaskResult
from nml_ray.analysis.tables import to_text


def score(head: str, test: float, ood: float | None = None, fraction: str = "1") -> HeadScore:
    scores = {"test": {"accuracy": test, "matthews": test - 0.5}, **({} if ood is None else {"ood": {"accuracy": ood}})}
    return HeadScore(head, 0, {}, scores, fraction=fraction)


def arm(ratio: str, seed: int, *heads: HeadScore) -> ArmResult:
    return ArmResult(ratio, float(ratio), seed, heads=heads)


TASKS = [
    TaskResult(
        "a",
        "A & co",
        "accuracy",
        [
            arm("0", 0, score("linear_probe", 0.8), score("mlp", 0.9)),
            arm("0", 1, score("linear_probe", 0.7), score("mlp", 0.7)),
            arm("0.1", 0, score("linear_probe", 0.6), score("mlp", 0.5)),
        ],
        ("test",),
    ),
    TaskResult(
        "b",
        "B",
        "matthews",
        [
            arm("0", 0, score("linear_probe", 0.9), score("mlp", 0.8)),
            arm("0", 1, score("linear_probe", 0.6), score("mlp", 0.9)),
            arm("0.1", 0, score("linear_probe", 0.5), score("mlp", 0.5)),
        ],
        ("test",),
    ),
    TaskResult("c", "C", "accuracy", [arm("0", 0, score("linear_probe", 0.1, 0.4), score("mlp", 0.1, 0.3))], ("ood",)),
]


def test_each_task_is_shown_in_its_own_metric_and_the_means_over_those_that_count() -> None:
    table = tt.task_table(TASKS)
    rows = {label.replace("\xa0", " "): [cell and round(cell.mean, 6) for cell in cells] for label, cells in table.rows}
    assert rows["A & co, 0 %"] == [0.75, 0.8, None, None]
    assert rows["B, 0 %"] == [0.25, 0.35, None, None]
    assert rows["C, 0 %"] == [0.1, 0.1, 0.4, 0.3]
    assert rows["Mean over tasks, 0 %"] == [0.5, 0.575, 0.4, 0.3]  # C counts out of domain alone
    assert rows["Mean over tasks, 10 %"] == [0.3, 0.25, None, None]
    assert table.groups == [("In domain", 2), ("Out of domain", 2)]


def test_means_are_formed_within_seeds_that_have_every_task() -> None:
    mean = tt.mean_over(TASKS, "0\xa0%", "mlp", "test")
    assert mean is not None and mean.by_seed == pytest.approx({0: 0.6, 1: 0.55}) and mean.half_width is not None
    fewer = [TASKS[0], TaskResult("b", "B", "accuracy", TASKS[1].arms[:1], ("test",))]
    mean = tt.mean_over(fewer, "0\xa0%", "mlp", "test")
    assert mean is not None and list(mean.by_seed) == [0]
    assert tt.mean_over(fewer, "10\xa0%", "mlp", "test") is None


def test_differences_of_arms_and_heads_are_paired_on_each_task() -> None:
    noise = tt.noise_table(TASKS)
    rows = {label.replace("\xa0", " "): cells for label, cells in noise.rows}
    assert list(rows) == ["A & co, 10 %", "B, 10 %"]
    cell = rows["A & co, 10 %"][0]
    assert cell is not None and cell.by_seed == pytest.approx({0: -0.2})  # seed 1 has no noisy arm
    gains = {label.replace("\xa0", " "): cells for label, cells in tt.gain_table(TASKS).rows}
    cell = gains["A & co, 0 %"][0]
    assert cell is not None and cell.by_seed == pytest.approx({0: 0.1, 1: 0.0}) and cell.half_width is not None
    assert tt.gain_table(TASKS).groups == [("In domain, over linear probe", 1), ("Out of domain, over linear probe", 1)]
    assert tt.gain_table([]).columns == [] and tt.noise_table([]).rows == []


def test_ranks_share_ties() -> None:
    assert tt.ranks([0.5, 0.9, 0.5, 0.1]) == [2.5, 1, 2.5, 4]
    probe, mlp = tt.mean_ranks(TASKS, "0\xa0%", ["linear_probe", "mlp"], "test")
    assert probe is not None and mlp is not None
    assert probe.by_seed == {0: 1.5, 1: 1.75} and mlp.by_seed == {0: 1.5, 1: 1.25}  # seed 1: a tie, and mlp ahead
    assert len(tt.rank_table(TASKS).rows) == 2


def test_fractions_have_a_row_each() -> None:
    every = [score("mlp", 0.5, fraction="0.1"), score("mlp", 0.7, fraction="1")]
    study = StudyResult("s", "S", [ArmResult("0", 0, 0, heads=every[1:], fractions=every)])
    table = tt.fraction_table(study)
    assert [(label.replace("\xa0", " "), cells[0].mean) for label, cells in table.rows] == [
        ("0 %, 10 % of the training samples", 0.5),
        ("0 %, 100 % of the training samples", 0.7),
    ]
    assert not tt.fraction_table(StudyResult("s", "S", [])).rows


def test_latex_says_what_the_table_says() -> None:
    text = to_latex(tt.task_table(TASKS), "Tasks, in %")
    assert "A \\& co, 0~\\% & 75.0~$\\pm$~63.5 & 80.0~$\\pm$~127.1 &  &  \\\\" in text
    assert "\\caption{Tasks, in \\%}" in text and " & \\multicolumn{2}{c}{In domain}" in text
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.count(" & ") for line in body[1:]} == {4}
    assert len(body) == len(to_text(tt.task_table(TASKS)).splitlines())
