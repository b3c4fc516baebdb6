"""A sample study for tests of tables, plots and the report: SAMPLE DATA, not a result.

Scores, SVE and LSVR are the rounded numbers of a first trial on the shipped icons (two pre-training seeds, two head
seeds averaged); the split into head seeds, the singular values, the heads' SVE and LSVR and the training curves are
made up by formula.
"""

import math
from typing import Any

from nml_ray.analysis.results import ArmResult, EpochCurve, HeadScore, Spectrum, SplitFacts, StudyResult

HEADS: tuple[tuple[str, dict[str, str]], ...] = (
    ("linear_probe", {}),
    ("mlp", {}),
    ("nmtune", {"preset": "paper"}),
    ("nmtune", {"preset": "official"}),
)

# for each of HEADS: what it adds to SVE and to LSVR, and the share of the noise's effect on them that it leaves
SPACES = ((0.0, 0.0, 1.0), (-0.4, 0.25, 0.4), (0.05, -0.06, 0.3), (0.12, -0.12, 0.2))

# (pre-training seed, ratio): (SVE on test, LSVR out of domain, (in, out) accuracy in percent for each of HEADS)
TRIAL = {
    (0, "0"): (4.774, 2.492, ((78.7, 52.3), (80.7, 55.1), (83.4, 57.0), (83.3, 59.2))),
    (0, "0.05"): (4.816, 2.573, ((77.5, 51.0), (79.4, 52.8), (81.6, 56.0), (81.5, 57.6))),
    (0, "0.1"): (4.833, 2.591, ((77.8, 50.5), (79.8, 52.8), (82.8, 54.6), (82.9, 55.2))),
    (0, "0.2"): (4.844, 2.623, ((77.8, 48.3), (79.4, 50.3), (81.8, 54.6), (82.1, 56.3))),
    (0, "0.3"): (4.857, 2.661, ((77.9, 49.9), (78.8, 52.6), (80.8, 55.5), (81.3, 55.6))),
    (1, "0"): (4.777, 2.486, ((78.3, 54.8), (79.7, 57.7), (82.0, 60.6), (82.5, 61.6))),
    (1, "0.05"): (4.818, 2.556, ((78.5, 52.6), (80.4, 53.9), (82.6, 57.1), (83.2, 59.2))),
    (1, "0.1"): (4.830, 2.581, ((77.9, 56.2), (79.5, 58.2), (81.3, 58.8), (82.2, 59.3))),
    (1, "0.2"): (4.842, 2.624, ((79.4, 56.3), (80.4, 57.2), (82.6, 59.6), (82.8, 59.0))),
    (1, "0.3"): (4.850, 2.660, ((78.1, 50.2), (78.9, 52.4), (81.2, 55.0), (81.9, 57.5))),
}
DATA = (
    SplitFacts("pretrain", 15606, 120, "all styles but colour and emoji"),
    SplitFacts("train", 1971, 40, "downstream classes, to fit the heads"),
    SplitFacts("validation", 660, 40, "downstream classes, to choose settings"),
    SplitFacts("test", 1315, 40, "downstream classes, in domain"),
    SplitFacts("ood", 687, 40, "downstream classes in colour and emoji styles"),
)
MADE_FROM: dict[str, Any] = {
    "settings": {
        "noise": {"kind": "symmetric", "ratios": ["0", "0.05", "0.1", "0.2", "0.3"], "seed": 0},
        "pretrain": {"epochs": 12, "batch": 256, "encoder": {"name": "small_resnet", "width": 24}},
    },
    "versions": {"nml_ray": "0.1.0", "python": "3.11", "torch": "sample"},
    "stages": [
        {"name": "shards", "kind": "shards", "digest": "5a1b2c3d4e5f6071", "seconds": 21.4},
        {"name": "pretrain-0-0", "kind": "pretrain", "digest": "0123456789abcdef", "seconds": 60.2},
        {"name": "pretrain-0.3-0", "kind": "pretrain", "digest": "fedcba9876543210", "seconds": 61.9},
        {"name": "heads-0-0", "kind": "heads", "digest": "00ff00ff00ff00ff", "seconds": 33.0},
    ],
    "sources": [{"split": "pretrain", "source": "sample", "licence": "CC0-1.0"}],
}


def spectra(sve: float, lsvr: float, ratio: str, dim: int = 96) -> tuple[Spectrum, ...]:
    """Made-up singular values with a dominant direction that weakens as noise grows, under the trial's measures."""
    noise = float(ratio)
    values = [42 * (1 - 0.4 * noise)] + [
        12 * (1 + 0.8 * noise) * (i + 1) ** -0.55 * math.exp(-i / 60) for i in range(1, dim)
    ]
    return tuple(
        Spectrum(split, transform, count, [scale * value for value in values], sve - shift, lsvr - 0.1 + shift)
        for split, count, scale, shift in (("test", 1315, 1.0, 0.0), ("ood", 687, 0.7, 0.1))
        for transform in ("raw", "official")
    )


def curves(ratio: str, seed: int, epochs: int = 12) -> tuple[EpochCurve, ...]:
    """Made-up curves: clean samples are learnt, flipped ones are fitted late and a little."""
    noise = float(ratio)
    found = []
    for epoch in range(epochs):
        done = 1 - math.exp(-(epoch + 1) / 4)
        clean = (0.82 - 0.25 * noise + 0.004 * seed) * done
        fitted, recovered = 0.01 + (0.02 + 0.06 * noise) * done**4, (0.6 - 0.3 * noise) * done
        found.append(
            EpochCurve(
                epoch,
                loss_clean=4.8 - 3.6 * clean + 2 * noise,
                accuracy_clean=clean,
                loss_flipped=4.8 + 1.8 * done - noise if noise else None,
                accuracy_flipped=fitted if noise else None,
                recovered_flipped=recovered if noise else None,
                zero_shot=0.8 * clean,
            )
        )
    return tuple(found)


def head_spectra(sve: float, lsvr: float, head: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Made-up measures of Z; under the linear probe (head 0) those of `spectra`."""
    more, less, left = SPACES[head]
    seeds = 0.0 if head == 0 else (0.004, -0.004)[seed]
    values = 4.775 + left * (sve - 4.775) + more + seeds, 2.489 + left * (lsvr - 2.489) + less + seeds
    return {
        split: {
            transform: {"count": count, "sve": values[0] - shift, "lsvr": values[1] - 0.1 + shift}
            for transform in ("raw", "official")
        }
        for split, count, shift in (("test", 1315, 0.0), ("ood", 687, 0.1))
    }


def heads(scores: tuple[tuple[float, float], ...], sve: float, lsvr: float) -> tuple[HeadScore, ...]:
    """Two head seeds that average to the trial's figure."""
    return tuple(
        HeadScore(
            head,
            seed,
            {**settings, "learning_rate": 0.01},
            {
                split: {"accuracy": value / 100 + shift, "macro_f1": value / 100 + shift - 0.02}
                for split, value in (("validation", inside + 1), ("test", inside), ("ood", outside))
            },
            head_spectra(sve, lsvr, place, seed),
        )
        for place, ((head, settings), (inside, outside)) in enumerate(zip(HEADS, scores, strict=True))
        for seed, shift in ((0, 0.002), (1, -0.002))
    )


def arms(
    ratios: tuple[str, ...] = ("0", "0.05", "0.1", "0.2", "0.3"), seeds: tuple[int, ...] = (0, 1)
) -> list[ArmResult]:
    """Arms of the trial, in order of seed and ratio."""
    return [
        ArmResult(
            ratio,
            realised=float(ratio),
            seed=seed,
            spectra=spectra(sve, lsvr, ratio),
            curves=curves(ratio, seed),
            heads=heads(scores, sve, lsvr),
        )
        for (seed, ratio), (sve, lsvr, scores) in TRIAL.items()
        if seed in seeds and ratio in ratios
    ]


def sample_study(
    ratios: tuple[str, ...] = ("0", "0.05", "0.1", "0.2", "0.3"), seeds: tuple[int, ...] = (0, 1)
) -> StudyResult:
    """The whole sample study."""
    return StudyResult("sample", "Sample data for tests: what wrong labels do", arms(ratios, seeds), DATA, MADE_FROM)
