"""Every random choice of the noise is as it says: chi-squared over 200 fixed seeds, the p-values uniform (KS)."""

import numpy as np
import pytest
from scipy import stats

from nml_ray.data.config import NoiseSettings
from nml_ray.data.draw import key_hashes
from nml_ray.data.noise import make_ledger

SEEDS, SAMPLES, CLASSES, GROUPS = range(200), 1000, 5, 10
HASHES = key_hashes(f"s{i}" for i in range(SAMPLES))
LABELS = np.arange(SAMPLES, dtype=np.int64) % CLASSES
GROUP = np.arange(SAMPLES) // CLASSES % GROUPS  # 20 samples of each class in each group
Q = np.array(
    [[0, 1, 0, 0, 0], [0.5, 0, 0.3, 0.2, 0], [0, 0, 0, 0, 0], [0.25, 0.25, 0.25, 0, 0.25], [0, 0.1, 0, 0.9, 0]]
)
T = np.array([[0.6, 0.1, 0.1, 0.1, 0.1], [0, 1, 0, 0, 0], [0.2] * 5, [0, 0, 0.5, 0.5, 0], [0.05, 0.15, 0.3, 0.4, 0.1]])


def ledgers(**noise):
    """The ledger of every seed; each caption is different from all others."""
    captions = [f"caption {i}" for i in range(SAMPLES)]
    for seed in SEEDS:
        (arm,) = NoiseSettings(seed=seed, **noise).arms()
        yield make_ledger(arm, HASHES, LABELS, CLASSES, captions)


def assert_uniform(values):
    assert len(values) == len(SEEDS)
    assert stats.kstest(values, "uniform").pvalue > 0.001


def spread_of(selected, share):
    """P-value of how many samples each group has among the selected, drawn without replacement with this share."""
    counts = np.bincount(GROUP[selected], minlength=GROUPS)
    expected = SAMPLES * share / GROUPS
    statistic = np.sum((counts - expected) ** 2) / expected / (1 - share)
    return stats.chi2.sf(statistic, GROUPS - 1)


def of_rows(ledger, matrix, chosen):
    """P-value of the labels of the chosen samples, given their rows of a matrix."""
    statistic, freedom = 0.0, 0
    for clean, row in enumerate(matrix):
        counts = np.bincount(ledger.given[chosen & (clean == LABELS)], minlength=CLASSES)
        expected = row * counts.sum()
        assert not counts[row == 0].any()
        if counts.any():
            statistic += float(np.sum((counts - expected)[row > 0] ** 2 / expected[row > 0]))
            freedom += int(np.count_nonzero(row)) - 1
    return stats.chi2.sf(statistic, freedom)


@pytest.mark.parametrize(
    "noise",
    [
        {"kind": "symmetric"},
        {"kind": "symmetric", "stratify": False},
        {"kind": "caption_swap"},
    ],
    ids=str,
)
def test_which_samples_are_wrong(noise):
    assert_uniform([spread_of(ledger.selected, 0.3) for ledger in ledgers(ratios=["0.3"], **noise)])


def test_which_samples_are_wrong_one_by_one():
    values = []
    for ledger in ledgers(kind="symmetric", ratios=["0.3"], count="bernoulli"):
        counts = np.bincount(GROUP[ledger.selected], minlength=GROUPS)
        size = SAMPLES / GROUPS
        values.append(stats.chi2.sf(np.sum((counts - 0.3 * size) ** 2) / (size * 0.3 * 0.7), GROUPS))
    assert_uniform(values)


@pytest.mark.parametrize("over", ["others", "all"])
@pytest.mark.parametrize("options", [{}, {"stratify": False}, {"count": "bernoulli"}], ids=str)
def test_symmetric_labels(over, options):
    matrix = np.full((CLASSES, CLASSES), 1 / CLASSES)
    if over == "others":
        matrix = (1 - np.eye(CLASSES)) / (CLASSES - 1)
    made = ledgers(kind="symmetric", ratios=["0.5"], over=over, **options)
    assert_uniform([of_rows(ledger, matrix, ledger.selected) for ledger in made])


@pytest.mark.parametrize("options", [{}, {"stratify": False}, {"of": "subset"}, {"count": "bernoulli"}], ids=str)
def test_asymmetric_labels(options):
    made = ledgers(kind="asymmetric", ratios=["0.5"], matrix=Q.tolist(), **options)
    assert_uniform([of_rows(ledger, Q, ledger.selected) for ledger in made])


def test_transition_labels():
    made = ledgers(kind="transition", matrix=T.tolist())
    assert_uniform([of_rows(ledger, T, np.ones(SAMPLES, bool)) for ledger in made])


def test_whose_caption_a_sample_gets():
    """The distance from a sample to its partner, of pairs drawn without regard to it, in steps of 100."""
    own = np.arange(SAMPLES)
    distances = np.repeat(np.arange(1, SAMPLES), SAMPLES - np.arange(1, SAMPLES))
    expected = np.bincount(distances // 100, minlength=10) / len(distances)
    values = []
    for ledger in ledgers(kind="caption_swap", ratios=["1"]):
        first = own < ledger.given
        counts = np.bincount((ledger.given - own)[first] // 100, minlength=10)
        values.append(stats.chisquare(counts, expected * first.sum()).pvalue)
    assert_uniform(values)
