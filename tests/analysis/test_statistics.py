"""Statistics against numbers worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nml_ray.analysis import statistics
from nml_ray.analysis.results import ArmResult, EpochCurve, HeadScore, Spectrum
from nml_ray.analysis.statistics import Verdict


def arm(ratio: str, seed: int, **accuracy: list[float]) -> ArmResult:
    """One arm; each head with one in-domain accuracy per head seed."""
    return ArmResult(
        ratio,
        float(ratio),
        seed,
        heads=[
            HeadScore(head, number, {}, {"test": {"accuracy": value}})
            for head, values in accuracy.items()
            for number, value in enumerate(values)
        ],
    )


STUDY = [
    arm("0", 0, linear_probe=[0.70, 0.72], nmtune=[0.76, 0.78]),
    arm("0", 1, linear_probe=[0.74, 0.74], nmtune=[0.80, 0.80]),
    arm("0.3", 0, linear_probe=[0.60, 0.64], nmtune=[0.70, 0.72]),
    arm("0.3", 1, linear_probe=[0.68, 0.68], nmtune=[0.78, 0.78]),
]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062047), (2, 4.3026527), (3, 3.1824463), (4, 2.7764451), (9, 2.2621572), (120, 1.9799304)],
)
def test_t_quantile_equals_the_printed_table(degrees, expected):
    assert statistics.t_quantile(0.975, degrees) == pytest.approx(expected, rel=1e-7)


def test_interval_of_three_seeds_by_hand():
    found = statistics.estimate({0: 1.0, 1: 2.0, 2: 3.0})
    assert found.mean == 2.0 and found.half_width is not None
    assert found.half_width == pytest.approx(4.3026527 * 1.0 / 3**0.5)
    assert (found.low, found.high) == pytest.approx((2 - found.half_width, 2 + found.half_width))


def test_one_seed_has_no_interval_and_a_sentence_says_why():
    found = statistics.score(STUDY[:1], "0", "linear_probe", "test")
    assert found is not None and found.half_width is None and found.seeds == 1
    assert "one seed has no spread" in statistics.about_intervals(STUDY[:1])
    assert "2 pre-training seeds" in statistics.about_intervals(STUDY)


def test_head_seeds_are_averaged_inside_each_pretraining_seed():
    found = statistics.score(STUDY, "0", "linear_probe", "test")
    assert found is not None
    assert found.by_seed == pytest.approx({0: 0.71, 1: 0.74})
    assert found.mean == pytest.approx(0.725)
    assert found.half_width == pytest.approx(12.7062047 * 0.015)


def test_arms_are_compared_within_a_seed():
    found = statistics.ratio_difference(STUDY, "0.3", "linear_probe", "test")
    assert found is not None
    assert found.by_seed == pytest.approx({0: -0.09, 1: -0.06})
    assert found.half_width == pytest.approx(12.7062047 * 0.015)


def test_a_seed_that_lacks_one_arm_is_left_out_of_the_pairs():
    found = statistics.ratio_difference(STUDY[:3], "0.3", "linear_probe", "test")
    assert found is not None and found.by_seed == pytest.approx({0: -0.09})
    assert statistics.ratio_difference(STUDY[2:], "0.3", "linear_probe", "test") is None


def test_heads_are_compared_on_the_same_features():
    found = statistics.head_difference(STUDY, "0.3", "nmtune", "linear_probe", "test")
    assert found is not None and found.by_seed == pytest.approx({0: 0.09, 1: 0.10})


def test_repair_is_the_change_of_the_gap_not_the_gain():
    found = statistics.gap_change(STUDY, "0.3", "nmtune", "linear_probe", "test")
    assert found is not None
    assert found.by_seed == pytest.approx({0: (0.71 - 0.77) + 0.09, 1: (0.78 - 0.80) + 0.06})


def test_binomial_error_by_hand():
    assert statistics.binomial_error(0.5, 100) == pytest.approx(0.05)
    one = statistics.score(STUDY, "0", "linear_probe", "test", samples=400)
    assert one is not None and one.sampling == pytest.approx((0.725 * 0.275 / 400) ** 0.5)
    pair = statistics.ratio_difference(STUDY, "0.3", "linear_probe", "test", samples=400)
    assert pair is not None
    assert pair.sampling == pytest.approx(((0.725 * 0.275 + 0.65 * 0.35) / 400) ** 0.5)
    assert statistics.score(STUDY, "0", "linear_probe", "test", "macro_f1", samples=400) is None


@pytest.mark.parametrize(
    ("values", "sampling", "expected"),
    [
        ({0: 0.02, 1: 0.0202, 2: 0.0198}, None, Verdict.CLEAR),
        ({0: 0.02, 1: -0.02}, None, Verdict.WITHIN_SEEDS),
        ({0: -0.03}, 0.01, Verdict.BEYOND_SAMPLING),
        ({0: -0.015}, 0.01, Verdict.WITHIN_SAMPLING),
        ({0: -0.015}, None, Verdict.UNKNOWN),
    ],
)
def test_verdicts(values, sampling, expected):
    assert statistics.verdict(statistics.estimate(values, sampling)) is expected


def test_methods_tell_presets_apart_and_keep_the_papers_order():
    heads = [
        HeadScore(head, 0, settings, {"test": {"accuracy": 0.5}})
        for head, settings in (
            ("nmtune", {"preset": "official"}),
            ("zebra", {}),
            ("nmtune", {"preset": "paper"}),
            ("mlp", {"preset": "paper"}),
            ("mlp", {"preset": "official"}),
            ("linear_probe", {}),
        )
    ]
    found = statistics.methods([ArmResult("0", 0.0, 0, heads=heads)])
    assert found == ["linear_probe", "mlp", "mlp:official", "nmtune:paper", "nmtune:official", "zebra"]


def test_ratios_are_ordered_as_decimals():
    assert statistics.ratios([arm("0.3", 0), arm("0", 0), arm("0.05", 0), arm("1", 0)]) == ["0", "0.05", "0.3", "1"]


def test_measures_are_paired_within_a_seed_too():
    def with_sve(ratio: str, seed: int, sve: float) -> ArmResult:
        return ArmResult(ratio, float(ratio), seed, spectra=[Spectrum("test", "raw", 9, [1.0], sve, 0.0)])

    study = [with_sve("0", 0, 4.0), with_sve("0.1", 0, 4.1), with_sve("0", 1, 4.2), with_sve("0.1", 1, 4.4)]
    found = statistics.measure_difference(study, "0.1", "test", "raw", "sve")
    assert found is not None and found.by_seed == pytest.approx({0: 0.1, 1: 0.2})
    assert statistics.measure(study, "0.1", "ood", "raw", "sve") is None


def with_spaces(ratio: str, seed: int, sve: dict[str, list[float]], settings: dict[str, bool]) -> ArmResult:
    """An arm with SVE 5 of its own; each head with one SVE of Z per head seed."""
    heads = [
        HeadScore(head, number, settings, {}, {"test": {"raw": {"count": 9, "sve": value, "lsvr": 1.0}}})
        for head, values in sve.items()
        for number, value in enumerate(values)
    ]
    return ArmResult(ratio, float(ratio), seed, spectra=[Spectrum("test", "raw", 9, [1.0], 5.0, 1.0)], heads=heads)


def test_measures_of_z_average_head_seeds_inside_each_pretraining_seed():
    study = [with_spaces("0", 0, {"mlp": [4.0, 4.2]}, {}), with_spaces("0", 1, {"mlp": [4.3]}, {})]
    found = statistics.space_measure(study, "0", "mlp", "test", "raw", "sve")
    assert found is not None and found.by_seed == pytest.approx({0: 4.1, 1: 4.3})
    assert found.half_width == pytest.approx(12.7062047 * 0.1)
    assert statistics.space_measure(study, "0", "mlp", "ood", "raw", "sve") is None
    own = statistics.space_measure(study, "0", statistics.FEATURES, "test", "raw", "sve")
    assert own == statistics.measure(study, "0", "test", "raw", "sve")


def test_the_encoders_features_are_shown_unless_the_linear_probe_shows_them():
    both = {"mlp": [4.0], "linear_probe": [5.0]}
    assert statistics.spaces([with_spaces("0", 0, both, {})]) == ["linear_probe", "mlp"]
    assert statistics.spaces([with_spaces("0", 0, both, {"standardise": True})]) == ["features", "linear_probe", "mlp"]
    assert statistics.spaces([with_spaces("0", 0, {"mlp": [4.0]}, {})]) == ["features", "mlp"]
    assert statistics.spaces(STUDY) == []


def test_last_epoch_skips_arms_without_flipped_samples():
    curve = EpochCurve(0, 1.0, 0.5, None, None, None)
    study = [ArmResult("0", 0.0, 0, curves=[curve])]
    assert statistics.last_epoch(study, "0", "accuracy_flipped") is None
    found = statistics.last_epoch(study, "0", "accuracy_clean")
    assert found is not None and found.mean == 0.5


@given(st.dictionaries(st.integers(0, 9), st.floats(0, 1), min_size=2), st.floats(-1, 1))
def test_a_shift_of_all_seeds_moves_the_mean_and_keeps_the_interval(values, shift):
    before = statistics.estimate(values)
    after = statistics.estimate({seed: value + shift for seed, value in values.items()})
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-12)
    assert after.half_width == pytest.approx(before.half_width, abs=1e-12)
