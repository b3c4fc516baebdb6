"""Known noise on real digits, against what cleanlab estimates of it (confident learning, arXiv 1911.00068).

Out-of-sample probabilities come from nearest neighbours, right for 96 to 98 % of the clean labels whatever the noise;
the tolerances leave room for the rest.
"""

import numpy as np
import pytest

from nml_ray.data.config import NoiseSettings
from nml_ray.data.draw import key_hashes
from nml_ray.data.noise import make_ledger, realised_matrix

RATE = 0.025  # how far the estimated rate may lie off,
ENTRY, MEAN = 0.12, 0.01  # an entry of the estimated matrix, and its entries on average

CONFUSED = np.zeros((10, 10))  # of digits: 1 and 7, 3 and 8, 5 as 6, 4 as 9, 0 as 6 or 9
for _row, _column, _share in (
    (1, 7, 1),
    (7, 1, 1),
    (3, 8, 1),
    (8, 3, 1),
    (5, 6, 1),
    (4, 9, 1),
    (0, 6, 0.5),
    (0, 9, 0.5),
):
    CONFUSED[_row, _column] = _share
KINDS = [
    {"kind": "symmetric", "ratios": ["0.2"]},
    {"kind": "symmetric", "ratios": ["0.3"], "stratify": False},
    {"kind": "symmetric", "ratios": ["0.25"], "count": "bernoulli"},
    {"kind": "asymmetric", "ratios": ["0.2"], "matrix": CONFUSED.tolist()},
    {"kind": "transition", "matrix": (0.75 * np.eye(10) + 0.25 * np.roll(np.eye(10), 1, axis=1)).tolist()},
]


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images / 16, labels


@pytest.mark.parametrize("noise", KINDS, ids=lambda noise: noise["kind"])
def test_cleanlab_estimates_the_noise_that_the_ledger_holds(digits, noise):
    count, issues = pytest.importorskip("cleanlab.count"), pytest.importorskip("cleanlab.filter")
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    images, clean = digits
    (arm,) = NoiseSettings(seed=1, **noise).arms()
    ledger = make_ledger(arm, key_hashes(f"digit-{i}" for i in range(len(clean))), clean, 10)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = KNeighborsClassifier(30)
    probabilities = cross_val_predict(model, images, ledger.given, cv=folds, method="predict_proba")

    counts = count.compute_confident_joint(ledger.given, probabilities)
    joint = count.estimate_joint(ledger.given, probabilities, confident_joint=counts)
    assert abs(1 - np.trace(joint) - ledger.realised) < RATE

    _, given_of_clean, _ = count.estimate_latent(counts, ledger.given)
    rows = realised_matrix(ledger.clean, ledger.given, 10) / np.bincount(clean)[:, None]
    off = np.abs(given_of_clean.T - rows)
    assert off.max() < ENTRY and off.mean() < MEAN

    wrong = ledger.given != ledger.clean
    flagged = issues.find_label_issues(ledger.given, probabilities, n_jobs=1)
    assert wrong[flagged].mean() > 0.9
    assert flagged[wrong].mean() > 0.8
