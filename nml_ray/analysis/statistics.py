"""Means, intervals and paired differences over pre-training seeds (CONTRACTS, Statistics).

The unit of repetition is the pre-training seed: head seeds are averaged inside each, and arms are compared within a
seed, because arms of one seed share initialisation, order, augmentation and nested noise. All numbers are shares in
[0, 1] or natural-log measures, never percent.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from statistics import NormalDist

from nml_ray.analysis.results import ArmResult, HeadScore
from nml_ray.heads.config import search_name

LEVEL = 0.95
CLEAN = "0"
IN_DOMAIN = "test"
OUT_OF_DOMAIN = "ood"
NOISE_KINDS = ("symmetric", "asymmetric", "transition", "caption_swap", "file")
HEAD_ORDER = ("linear_probe", "mlp", "nmtune")
FEATURES = "features"
"""Stands among the heads for the encoder's own features."""


class Verdict(Enum):
    """What a difference may be said to show."""

    CLEAR = "the interval over seeds leaves out zero"
    WITHIN_SEEDS = "the interval over seeds holds zero"
    BEYOND_SAMPLING = "one seed; larger than the sampling error of the test set"
    WITHIN_SAMPLING = "one seed; no larger than the sampling error of the test set"
    UNKNOWN = "one seed; the size of the test set is not known"


@dataclass(frozen=True)
class Estimate:
    """A quantity measured once per pre-training seed.

    `half_width` is half of the 95 % t interval of the mean; None with one seed. `sampling` is one standard error that
    the finite test set alone would cause in one seed's value; None where it has no binomial form or no known count.
    """

    by_seed: Mapping[int, float]
    mean: float
    half_width: float | None
    sampling: float | None = None

    @property
    def seeds(self) -> int:
        """How many pre-training seeds lie behind the mean."""
        return len(self.by_seed)

    @property
    def low(self) -> float:
        """Lower end of the interval, or the mean itself without one."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval, or the mean itself without one."""
        return self.mean + (self.half_width or 0.0)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution for whole degrees of freedom and 0.5 <= probability < 1.

    By bisection of the closed form of the distribution function (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if 0.5 + _central_probability(middle, degrees) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _central_probability(theta: float, degrees: int) -> float:
    """P(|T| <= t) with theta = atan(t / sqrt(degrees))."""
    cosine, sine = math.cos(theta), math.sin(theta)
    odd = degrees % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return (theta + sine * total) * 2 / math.pi if odd else sine * total


def estimate(by_seed: Mapping[int, float], sampling: float | None = None) -> Estimate:
    """Mean and 95 % t interval of one value per pre-training seed; no interval for one seed."""
    values = list(by_seed.values())
    count = len(values)
    mean = math.fsum(values) / count
    half_width = None
    if count > 1:
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
        half_width = t_quantile((1 + LEVEL) / 2, count - 1) * deviation / math.sqrt(count)
    return Estimate(dict(sorted(by_seed.items())), mean, half_width, sampling)


def binomial_error(share: float, samples: int) -> float:
    """The standard error sqrt(p (1 - p) / n) of an accuracy measured on n samples."""
    return math.sqrt(max(share * (1 - share), 0.0) / samples)


def method_of(score: HeadScore) -> str:
    """The name that tells heads apart, as in the choice of their settings; see `heads.config.search_name`."""
    preset = score.settings.get("preset")
    return search_name(score.head, preset) if preset else score.head


def trained(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The encoders that a study pre-trained under noise; for a given encoder `kind` is its name instead."""
    return [arm for arm in arms if arm.kind in NOISE_KINDS]


def given(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The encoders (or features) that a study was given: they share no seed with anything and are never averaged."""
    return [arm for arm in arms if arm.kind not in NOISE_KINDS]


def ratios(arms: Sequence[ArmResult]) -> list[str]:
    """The noise ratios of a study, ascending."""
    return sorted({arm.ratio for arm in arms}, key=Decimal)


def seeds(arms: Sequence[ArmResult]) -> list[int]:
    """The pre-training seeds of a study, ascending."""
    return sorted({arm.seed for arm in arms})


def methods(arms: Sequence[ArmResult]) -> list[str]:
    """The heads of a study: linear probe, MLP, NMTune by preset ("paper" first), then others by name."""

    def place(method: str) -> tuple[int, bool, str]:
        head, _, preset = method.partition(":")
        return (HEAD_ORDER.index(head) if head in HEAD_ORDER else len(HEAD_ORDER), preset != "paper", method)

    return sorted({method_of(score) for arm in arms for score in arm.heads}, key=place)


def first_of(arms: Sequence[ArmResult], head: str) -> str | None:
    """The study's first method of one kind of head ("paper" before other presets); None without any.

    Never the better one on test: that would choose on test.
    """
    return next((method for method in methods(arms) if method.partition(":")[0] == head), None)


def splits(arms: Sequence[ArmResult]) -> list[str]:
    """Those of the two test splits, in domain first, that any head was scored on."""
    scored = {split for arm in arms for score in arm.heads for split in score.scores}
    return [split for split in (IN_DOMAIN, OUT_OF_DOMAIN) if split in scored]


def scores_by_seed(
    arms: Sequence[ArmResult], ratio: str, method: str, split: str, metric: str = "accuracy"
) -> dict[int, float]:
    """Pre-training seed to score, head seeds averaged inside each."""
    return _over_head_seeds(arms, ratio, method, lambda score: score.scores.get(split, {}).get(metric))


def _over_head_seeds(
    arms: Sequence[ArmResult], ratio: str, method: str, read: Callable[[HeadScore], float | None]
) -> dict[int, float]:
    found: dict[int, float] = {}
    for arm in arms:
        values = [read(score) for score in arm.heads if arm.ratio == ratio and method_of(score) == method]
        known = [value for value in values if value is not None]
        if known:
            found[arm.seed] = math.fsum(known) / len(known)
    return found


def _sampling(values: Sequence[float], metric: str, samples: int | None) -> float | None:
    """One standard error of a sum or difference of accuracies on one test set, taken as independent.

    Heads scored on the same samples err together, so for a difference this is an upper bound in practice.
    """
    if metric != "accuracy" or not samples:
        return None
    return math.sqrt(math.fsum(binomial_error(value, samples) ** 2 for value in values))


def score(
    arms: Sequence[ArmResult],
    ratio: str,
    method: str,
    split: str,
    metric: str = "accuracy",
    samples: int | None = None,
) -> Estimate | None:
    """A head's score at one noise ratio; None where it was not measured. `samples`: the size of the split."""
    found = scores_by_seed(arms, ratio, method, split, metric)
    if not found:
        return None
    mean = math.fsum(found.values()) / len(found)
    return estimate(found, _sampling([mean], metric, samples))


def _combined(terms: Sequence[tuple[int, Mapping[int, float]]], metric: str, samples: int | None) -> Estimate | None:
    """The signed sum of several scores, formed within each seed that has them all."""
    shared = set.intersection(*(set(values) for _, values in terms))
    if not shared:
        return None
    by_seed = {seed: math.fsum(sign * values[seed] for sign, values in terms) for seed in shared}
    means = [math.fsum(values[seed] for seed in shared) / len(shared) for _, values in terms]
    return estimate(by_seed, _sampling(means, metric, samples))


def ratio_difference(
    arms: Sequence[ArmResult],
    ratio: str,
    method: str,
    split: str,
    metric: str = "accuracy",
    samples: int | None = None,
    reference: str = CLEAN,
) -> Estimate | None:
    """What noise did to one head: score(ratio) - score(reference), paired within each pre-training seed."""
    noisy = scores_by_seed(arms, ratio, method, split, metric)
    clean = scores_by_seed(arms, reference, method, split, metric)
    return _combined([(1, noisy), (-1, clean)], metric, samples)


def head_difference(
    arms: Sequence[ArmResult],
    ratio: str,
    method: str,
    baseline: str,
    split: str,
    metric: str = "accuracy",
    samples: int | None = None,
) -> Estimate | None:
    """What one head gains over another on the same features: score(method) - score(baseline), paired within a seed."""
    tuned = scores_by_seed(arms, ratio, method, split, metric)
    probe = scores_by_seed(arms, ratio, baseline, split, metric)
    return _combined([(1, tuned), (-1, probe)], metric, samples)


def gap_change(
    arms: Sequence[ArmResult],
    ratio: str,
    method: str,
    baseline: str,
    split: str,
    metric: str = "accuracy",
    samples: int | None = None,
    reference: str = CLEAN,
) -> Estimate | None:
    """How much of the noise's effect a head removes: its own ratio_difference minus the baseline's, within a seed.

    Positive: the head closes part of the gap to the clean encoder. A head that lifts every encoder alike gives zero.
    """
    terms = [
        (sign, scores_by_seed(arms, of, head, split, metric))
        for sign, of, head in (
            (1, ratio, method),
            (-1, reference, method),
            (-1, ratio, baseline),
            (1, reference, baseline),
        )
    ]
    return _combined(terms, metric, samples)


def measure_by_seed(
    arms: Sequence[ArmResult], ratio: str, split: str, transform: str, measure: str
) -> dict[int, float]:
    """Pre-training seed to "sve" or "lsvr" of one split's features under one transform."""
    return {
        arm.seed: float(getattr(spectrum, measure))
        for arm in arms
        if arm.ratio == ratio
        for spectrum in arm.spectra
        if (spectrum.split, spectrum.transform) == (split, transform)
    }


def measure(arms: Sequence[ArmResult], ratio: str, split: str, transform: str, name: str) -> Estimate | None:
    """SVE or LSVR at one noise ratio."""
    found = measure_by_seed(arms, ratio, split, transform, name)
    return estimate(found) if found else None


def measure_difference(
    arms: Sequence[ArmResult], ratio: str, split: str, transform: str, name: str, reference: str = CLEAN
) -> Estimate | None:
    """What noise did to SVE or LSVR, paired within each pre-training seed."""
    noisy = measure_by_seed(arms, ratio, split, transform, name)
    clean = measure_by_seed(arms, reference, split, transform, name)
    return _combined([(1, noisy), (-1, clean)], name, None)


def spaces(arms: Sequence[ArmResult]) -> list[str]:
    """The heads whose Z was measured; before them FEATURES where no linear probe shows the encoder's own features.

    A linear probe on standardised features does not.
    """
    scores = [score for arm in arms for score in arm.heads if score.spectra]
    shown = any(score.head == "linear_probe" and not score.settings.get("standardise") for score in scores)
    found = {method_of(score) for score in scores}
    own = [FEATURES] if found and not shown and any(arm.spectra for arm in arms) else []
    return own + [method for method in methods(arms) if method in found]


def space_measure(
    arms: Sequence[ArmResult], ratio: str, space: str, split: str, transform: str, name: str
) -> Estimate | None:
    """SVE or LSVR of Z under one head, or of FEATURES, at one noise ratio; head seeds averaged inside each seed."""
    if space == FEATURES:
        return measure(arms, ratio, split, transform, name)
    found = _over_head_seeds(
        arms, ratio, space, lambda score: score.spectra.get(split, {}).get(transform, {}).get(name)
    )
    return estimate(found) if found else None


def last_epoch(arms: Sequence[ArmResult], ratio: str, column: str) -> Estimate | None:
    """A column of `EpochCurve` at each arm's last epoch; None where no arm of this ratio has it."""
    found = {arm.seed: getattr(arm.curves[-1], column) for arm in arms if arm.ratio == ratio and arm.curves}
    values = {seed: float(value) for seed, value in found.items() if value is not None}
    return estimate(values) if values else None


def verdict(difference: Estimate) -> Verdict:
    """Whether a paired difference can be told from nothing, and by which yardstick."""
    if difference.half_width is not None:
        return Verdict.CLEAR if abs(difference.mean) > difference.half_width else Verdict.WITHIN_SEEDS
    if difference.sampling is None:
        return Verdict.UNKNOWN
    beyond = abs(difference.mean) > NormalDist().inv_cdf((1 + LEVEL) / 2) * difference.sampling
    return Verdict.BEYOND_SAMPLING if beyond else Verdict.WITHIN_SAMPLING


def about_intervals(arms: Sequence[ArmResult]) -> str:
    """One sentence: what the intervals are, or why there are none."""
    count = len(seeds(arms))
    if count == 1:
        return (
            "One pre-training seed: no intervals. They would have to come from the spread between pre-training seeds, "
            "and one seed has no spread."
        )
    return f"± is half of a 95 % t interval over {count} pre-training seeds; head seeds are averaged inside each."
