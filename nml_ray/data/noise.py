"""Label noise as a function of (kind, ratio, seed, key): which labels are wrong, and what they become.

Every kind is a pure function of the samples' key hashes and clean labels, so one set of shards serves every kind,
ratio and seed, and re-sharding changes nothing. Kinds follow the literature: symmetric and asymmetric as in Patrini et
al. 2017 (arXiv 1609.03683), caption swap as in Chen et al. 2024 (arXiv 2309.17002, section 2.1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.captions import caption_digests, caption_pairs
from nml_ray.data.config import NoiseArm
from nml_ray.data.draw import Draws, draw, key_hashes, uniform
from nml_ray.data.ratio import draw_threshold, rounded_count, rounded_pairs

Labels = NDArray[np.signedinteger]
Mask = NDArray[np.bool_]
Matrix = NDArray[np.float64]

ROW_SUM_TOLERANCE = 1e-9


@dataclass(frozen=True)
class NoiseLedger:
    """What an arm did to every sample, in the order of the data set.

    For labels, `clean` and `given` are labels. For `caption_swap` they are sample numbers: its own, and that of the
    sample whose caption it carries. `selected` is true also where the given label happens to equal the clean one.
    """

    kind: str
    asked: str | None
    clean: Labels
    given: Labels
    selected: Mask
    draw: Draws
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> int:
        """How many samples carry another label or caption than their own."""
        return int(np.count_nonzero(self.clean != self.given))

    @property
    def realised(self) -> float:
        """The share of samples that carry another label or caption than their own."""
        return self.changed / len(self.clean) if len(self.clean) else 0.0


def make_ledger(
    arm: NoiseArm, key_hash: Draws, labels: Labels, classes: int, captions: Iterable[str | None] | None = None
) -> NoiseLedger:
    """The noise of one arm over the good samples of the training split.

    Args:
        arm: kind, ratio, seed and options.
        key_hash: uint64[N].
        labels: clean labels, int[N], -1 where a sample has none (allowed for `caption_swap` alone).
        classes: K, from dataset.json.
        captions: N captions in sample order, read once, for `caption_swap` alone.

    Raises:
        UserError: the noise asked for cannot be made from these samples.
    """
    if arm.kind == "caption_swap":
        if captions is None:
            raise UserError("the data has no captions", where="noise.kind: caption_swap", expected="captions")
        return _caption_swap(arm, key_hash, captions)
    _check_labels(arm.kind, labels, classes)
    if arm.kind == "symmetric":
        return _symmetric(arm, key_hash, labels, classes)
    if arm.kind == "asymmetric":
        return _asymmetric(arm, key_hash, labels, classes)
    if arm.kind == "transition":
        return _transition(arm, key_hash, labels, classes)
    return _from_file(arm, key_hash, labels, classes)


def stratified_places(draws: Draws, labels: Labels, seed: int) -> NDArray[np.float64]:
    """Where in the order of turning wrong each sample stands, spread evenly over the classes: float64[N].

    Sample of rank k (by draw) among the N_c of class c comes at (k + u_c) / N_c, with one offset u_c per class; ties
    are broken by draw.
    """
    by_class, bounds = _by_class(labels, int(labels.max(initial=-1)) + 1)
    offset = uniform(draw("class", seed, key_hashes(str(c) for c in range(len(bounds) - 1))))
    places = np.empty(len(labels), dtype=np.float64)
    for c, (start, stop) in enumerate(pairwise(bounds.tolist())):
        own = by_class[start:stop]
        ranked = own[np.argsort(draws[own])]
        places[ranked] = (np.arange(len(own), dtype=np.float64) + offset[c]) / np.float64(len(own))
    return places


def _by_class(labels: Labels, classes: int) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """Samples sorted by class (uint32[N]), and where each class begins, and N: int64[classes + 1]."""
    short = labels.astype(np.min_scalar_type(classes))  # numbers of 16 bits are sorted in one pass
    return np.argsort(short, kind="stable").astype(np.uint32), np.cumsum([0, *np.bincount(labels, minlength=classes)])


def _first(count: int, draws: Draws, places: NDArray[np.float64] | None = None) -> Mask:
    """Marks the `count` samples that come first by (place, draw), or by draw alone."""
    chosen = np.zeros(len(draws), dtype=bool)
    if not count:
        return chosen
    keys = draws if places is None else places
    last = np.partition(keys, count - 1)[count - 1]
    chosen[keys < last] = True
    tied = np.flatnonzero(keys == last)
    chosen[tied[np.argsort(draws[tied])[: count - np.count_nonzero(chosen)]]] = True
    return chosen


def inverse_cdf(row: Matrix, u: NDArray[np.float64]) -> Labels:
    """Labels drawn from one row of probabilities: the first j with u < cdf_j, else the last j with row_j > 0."""
    drawn = np.searchsorted(np.cumsum(row), u, side="right").astype(np.int64)
    return np.where(drawn < len(row), drawn, np.flatnonzero(row)[-1])


def realised_matrix(clean: Labels, given: Labels, classes: int) -> NDArray[np.int64]:
    """How many samples of each clean class (row) carry each label (column): int64[K, K]."""
    return np.bincount(clean * classes + given, minlength=classes * classes).reshape(classes, classes)


def _check_labels(kind: str, labels: Labels, classes: int) -> None:
    where = f"noise.kind: {kind}"
    if classes < 2:
        raise UserError(f"the data has {classes} classes", where=where, expected="at least 2")
    if len(labels) and labels.min() < 0:
        raise UserError(f"{np.count_nonzero(labels < 0)} samples have no label", where=where, expected="a label each")
    if len(labels) and labels.max() >= classes:
        raise UserError(f"label {labels.max()}", where=where, expected=f"labels from 0 to {classes - 1}")


def _select(arm: NoiseArm, draws: Draws, labels: Labels, count: int) -> Mask:
    """Which of the given (eligible) samples are wrong; `count` counts unless the selection is Bernoulli."""
    if arm.options["count"] == "bernoulli":
        threshold = draw_threshold(arm.ratio or "0")
        return np.ones(len(draws), dtype=bool) if threshold == 2**64 else draws < np.uint64(threshold)
    return _first(count, draws, stratified_places(draws, labels, arm.seed) if arm.options["stratify"] else None)


def _no_change(arm: NoiseArm, samples: int, selected: Mask) -> tuple[str, ...]:
    if arm.ratio in (None, "0") or selected.any():
        return ()
    return (f"noise ratio {arm.ratio} of {samples} samples rounds to no change",)


def _symmetric(arm: NoiseArm, key_hash: Draws, labels: Labels, classes: int) -> NoiseLedger:
    draws = draw("select", arm.seed, key_hash)
    selected = _select(arm, draws, labels, rounded_count(arm.ratio or "0", len(labels)))
    places = np.flatnonzero(selected)
    number, own = draw("symmetric", arm.seed, key_hash[places]), labels[places]
    if arm.options["over"] == "all":
        wrong = (number % np.uint64(classes)).astype(labels.dtype)
    else:
        wrong = (number % np.uint64(classes - 1)).astype(labels.dtype)
        wrong += wrong >= own
    given = labels.copy()
    given[places] = wrong
    return NoiseLedger(arm.kind, arm.ratio, labels, given, selected, draws, _no_change(arm, len(labels), selected))


def _asymmetric(arm: NoiseArm, key_hash: Draws, labels: Labels, classes: int) -> NoiseLedger:
    matrix = _matrix(arm, classes, zero_diagonal=True)
    draws = draw("select", arm.seed, key_hash)
    eligible = np.flatnonzero((matrix.sum(axis=1) > 0)[labels])
    bernoulli = arm.options["count"] == "bernoulli"
    count = rounded_count(arm.ratio or "0", len(eligible) if arm.options.get("of") == "subset" else len(labels))
    if not bernoulli and count > len(eligible):
        raise UserError(
            f"ratio {arm.ratio} of {len(labels)} samples is {count}, but only {len(eligible)} may change",
            where="noise.ratios",
            expected=f"at most {len(eligible)}/{len(labels)}, or 'of: subset'",
        )
    selected = np.zeros(len(labels), dtype=bool)
    selected[eligible] = _select(arm, draws[eligible], labels[eligible], count)
    given = labels.copy()
    places = np.flatnonzero(selected)
    given[places] = _redrawn(labels[places], matrix, uniform(draw("asymmetric", arm.seed, key_hash[places])))
    return NoiseLedger(arm.kind, arm.ratio, labels, given, selected, draws, _no_change(arm, len(labels), selected))


def _transition(arm: NoiseArm, key_hash: Draws, labels: Labels, classes: int) -> NoiseLedger:
    matrix = _matrix(arm, classes, zero_diagonal=False)
    given = _redrawn(labels, matrix, uniform(draw("transition", arm.seed, key_hash)))
    selected = np.ones(len(labels), dtype=bool)
    return NoiseLedger(arm.kind, None, labels, given, selected, draw("select", arm.seed, key_hash))


def _redrawn(labels: Labels, matrix: Matrix, u: NDArray[np.float64]) -> Labels:
    """A label for each sample, drawn by its uniform number from the matrix row of its clean label."""
    given = labels.copy()
    by_class, bounds = _by_class(labels, len(matrix))
    for c, (start, stop) in enumerate(pairwise(bounds.tolist())):
        if stop > start:
            given[by_class[start:stop]] = inverse_cdf(matrix[c], u[by_class[start:stop]])
    return given


def _matrix(arm: NoiseArm, classes: int, zero_diagonal: bool) -> Matrix:
    """The arm's matrix as float64[K, K].

    Raises:
        UserError: wrong shape, a negative number, a row with another sum, a diagonal where none is allowed.
    """
    where = f"noise.matrix ({arm.kind})"
    rows = arm.options["matrix"]
    if len(rows) != classes or any(len(row) != classes for row in rows):
        shape = f"{len(rows)} x {len(rows[0]) if rows else 0}"
        raise UserError(f"a matrix of {shape}", where=where, expected=f"{classes} x {classes}, one row per class")
    matrix = np.asarray(rows, dtype=np.float64)
    if not np.all(np.isfinite(matrix)) or np.any(matrix < 0):
        raise UserError("a negative or infinite number", where=where, expected="probabilities")
    if zero_diagonal and np.any(np.diagonal(matrix) != 0):
        raise UserError(
            f"row {np.flatnonzero(np.diagonal(matrix))[0]} keeps its own class", where=where, expected="a zero diagonal"
        )
    sums = matrix.sum(axis=1)
    good = np.abs(sums - 1) <= ROW_SUM_TOLERANCE
    if zero_diagonal:
        good |= sums == 0
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        allowed = "rows that sum to 1 (or to 0 for classes that stay clean)" if zero_diagonal else "rows that sum to 1"
        raise UserError(f"row {row} sums to {float(sums[row])!r}", where=where, expected=allowed)
    return matrix


def _caption_swap(arm: NoiseArm, key_hash: Draws, captions: Iterable[str | None]) -> NoiseLedger:
    samples = len(key_hash)
    draws = draw("select", arm.seed, key_hash)
    count = rounded_pairs(arm.ratio or "0", samples)
    small: type[np.signedinteger] = np.int32 if samples < 2**31 else np.int64
    own: Labels = np.arange(samples, dtype=small)
    given = own.copy()
    if count:
        pairs = caption_pairs(draws, caption_digests(captions), count)
        if count > len(pairs):
            raise UserError(
                f"ratio {arm.ratio} of {samples} captions needs {count} pairs, but only {len(pairs)} differ",
                where="noise.ratios",
                expected=f"at most {2 * len(pairs)}/{samples}",
            )
        given[pairs[:, 0]], given[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    selected = given != own
    return NoiseLedger(arm.kind, arm.ratio, own, given, selected, draws, _no_change(arm, samples, selected))


def _from_file(arm: NoiseArm, key_hash: Draws, labels: Labels, classes: int) -> NoiseLedger:
    keys, wrong = read_label_file(arm.file)
    hashes = key_hashes(keys)
    order = np.argsort(hashes)
    place = np.searchsorted(hashes[order], key_hash)
    row = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(key_hash), dtype=np.int64)
    found = hashes[row] == key_hash if len(order) else np.zeros(len(key_hash), dtype=bool)
    if not found.all():
        raise UserError(
            f"{np.count_nonzero(~found)} of {len(key_hash)} samples have no row (the first is sample "
            f"{np.flatnonzero(~found)[0]} of the data set)",
            where=arm.file,
            expected="a label for every key",
        )
    given = wrong[row]
    if len(given) and (given.min() < 0 or given.max() >= classes):
        bad = int(given.min() if given.min() < 0 else given.max())
        raise UserError(f"label {bad}", where=arm.file, expected=f"labels from 0 to {classes - 1}")
    extra = len(hashes) - len(key_hash)
    warnings = (f"{arm.file}: {extra} rows name no good sample of the data",) if extra else ()
    everyone = np.ones(len(labels), dtype=bool)
    return NoiseLedger(arm.kind, None, labels, given, everyone, draw("select", arm.seed, key_hash), warnings)


def read_label_file(path: str) -> tuple[Sequence[str], Labels]:
    """The keys and labels (int64) of a Parquet file of (key, label).

    Raises:
        UserError: not such a file, a key twice, a label missing or no whole number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["key", "label"])
        keys, labels = table["key"].cast(pa.string()), table["label"].cast(pa.int64())
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(
            f"not readable as labels ({error})", where=path, expected="Parquet of key (string), label (integer)"
        ) from None
    if labels.null_count or keys.null_count:
        raise UserError("a row without key or label", where=path, expected="both in every row")
    counts = pc.value_counts(keys)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise UserError(
            f"key '{twice[0]['values']}' stands there {twice[0]['counts']} times", where=path, expected="once"
        )
    return keys.to_pylist(), labels.to_numpy()
