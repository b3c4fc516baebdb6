"""Noise against the golden ledgers, its properties, and what it refuses."""

import csv
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nml_ray.config.errors import UserError
from nml_ray.data.captions import caption_digests, caption_pairs, normalised
from nml_ray.data.config import DataSettings, NoiseArm, NoiseSettings, OrderSettings
from nml_ray.data.draw import draw, key_hashes
from nml_ray.data.noise import inverse_cdf, make_ledger, realised_matrix
from nml_ray.data.ratio import draw_threshold, rounded_count, rounded_pairs
from tests.oracle_folders import folders

FOLDERS = folders("NML_ORACLES_NOISE", "noise", "ledger.csv")

# Prefix of a golden column -> (settings of the noise, does the column hold the selection).
COLUMNS = {
    "symmetric_stratified": ({"kind": "symmetric"}, False),
    "symmetric_flat": ({"kind": "symmetric", "stratify": False}, False),
    "symmetric_bernoulli": ({"kind": "symmetric", "count": "bernoulli"}, False),
    "over_all_stratified": ({"kind": "symmetric", "over": "all"}, False),
    "over_all_flat": ({"kind": "symmetric", "over": "all", "stratify": False}, False),
    "selected_stratified": ({"kind": "symmetric"}, True),
    "selected_flat": ({"kind": "symmetric", "stratify": False}, True),
    "asymmetric_stratified": ({"kind": "asymmetric"}, False),
    "asymmetric_flat": ({"kind": "asymmetric", "stratify": False}, False),
    "asymmetric_subset": ({"kind": "asymmetric", "of": "subset"}, False),
}


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(params=FOLDERS, ids=str)
def golden(request):
    return request.param


class Samples:
    """The golden data set as arrays."""

    def __init__(self, folder):
        self.rows = read_csv(folder / "ledger.csv")
        self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.keys = [row["key"] for row in self.rows]
        self.key_hash = key_hashes(self.keys)
        self.labels = np.array([int(row["clean"]) for row in self.rows], dtype=np.int64)
        self.captions = [row["caption"] for row in self.rows]

    def ledger(self, **noise):
        if noise["kind"] == "asymmetric":
            noise["matrix"] = self.settings["Q"]
        if noise["kind"] == "transition":
            noise["matrix"] = self.settings["T"]
        (arm,) = NoiseSettings(seed=self.settings["noise_seed"], **noise).arms()
        return make_ledger(arm, self.key_hash, self.labels, self.settings["K"], self.captions)


def test_every_golden_column(golden):
    samples = Samples(golden)
    seen = {"key", "clean", "caption"}
    for column in samples.rows[0]:
        prefix, _, ratio = column.rpartition("_")
        if prefix in COLUMNS:
            noise, selection = COLUMNS[prefix]
            ledger = samples.ledger(ratios=[ratio], **noise)
            found = (ledger.selected if selection else ledger.given).astype(int).astype(str).tolist()
        elif prefix == "caption_from":
            found = [samples.keys[donor] for donor in samples.ledger(kind="caption_swap", ratios=[ratio]).given]
        elif column == "transition":
            found = samples.ledger(kind="transition").given.astype(str).tolist()
        elif column == "select_draw":
            found = samples.ledger(kind="symmetric", ratios=["0"]).draw.astype(str).tolist()
        else:
            continue
        assert found == [row[column] for row in samples.rows], column
        seen.add(column)
    assert seen == set(samples.rows[0])


def test_what_must_be_refused(golden):
    samples = Samples(golden)
    for kind, ratios in samples.settings["refused"].items():
        for ratio in samples.settings["ratios"]:
            if ratio in ratios:
                with pytest.raises(UserError, match="at most"):
                    samples.ledger(kind=kind, ratios=[ratio])
            else:
                samples.ledger(kind=kind, ratios=[ratio])


def test_golden_pairs(golden):
    samples = Samples(golden)
    seed = samples.settings["noise_seed"]
    pairs = caption_pairs(draw("select", seed, samples.key_hash), caption_digests(samples.captions))
    assert len(pairs) == samples.settings["caption_pairs"]
    assert len(samples.keys) - 2 * len(pairs) == samples.settings["caption_unpaired"]


def test_golden_captions(golden):
    for row in read_csv(golden / "captions.csv"):
        assert normalised(row["caption"]) == row["normalised"]


def test_golden_inverse_cdf(golden):
    for row in read_csv(golden / "inverse_cdf.csv"):
        probabilities = np.array(json.loads(row["row"]), dtype=np.float64)
        assert inverse_cdf(probabilities, np.array([float.fromhex(row["u"])])).tolist() == [int(row["label"])]


RATIOS = st.integers(0, 10_000).map(lambda n: f"{n / 10_000:.4f}")


@st.composite
def data_sets(draw_from):
    classes = draw_from(st.integers(2, 7))
    labels = draw_from(st.lists(st.integers(0, classes - 1), min_size=1, max_size=80))
    return key_hashes(f"s{i}" for i in range(len(labels))), np.array(labels, dtype=np.int64), classes


def arm_of(ratio, **noise):
    return NoiseSettings(ratios=[ratio], **noise).arms()[0]


@settings(max_examples=60, deadline=None)
@given(data_sets(), RATIOS, RATIOS, st.booleans(), st.integers(0, 2**64 - 1))
def test_exact_counts_and_nesting(data, one, other, stratify, seed):
    low, high = sorted([one, other], key=float)
    small, large = (make_ledger(arm_of(r, seed=seed, stratify=stratify), *data) for r in (low, high))
    assert small.selected.sum() == rounded_count(low, len(data[0]))
    assert (small.given != small.clean).tolist() == small.selected.tolist()
    assert not np.any(small.selected & ~large.selected)
    assert np.array_equal(small.given[small.selected], large.given[small.selected])
    assert large.given.min() >= 0 and large.given.max() < data[2]


@settings(max_examples=40, deadline=None)
@given(data_sets(), RATIOS, st.randoms(use_true_random=False), st.sampled_from(["symmetric", "caption_swap"]))
def test_the_same_noise_after_resharding(data, ratio, random, kind):
    hashes, labels, classes = data
    captions = [f"caption {i % 5}" for i in range(len(hashes))]
    order = list(range(len(hashes)))
    random.shuffle(order)
    try:
        before = make_ledger(arm_of(ratio, kind=kind), hashes, labels, classes, captions)
    except UserError:
        return
    after = make_ledger(arm_of(ratio, kind=kind), hashes[order], labels[order], classes, [captions[i] for i in order])
    moved = np.array(order)[after.given] if kind == "caption_swap" else after.given
    assert np.array_equal(moved, before.given[order])
    assert np.array_equal(after.selected, before.selected[order])


@settings(max_examples=40, deadline=None)
@given(data_sets(), RATIOS)
def test_strata_are_even(data, ratio):
    hashes, labels, classes = data
    ledger = make_ledger(arm_of(ratio, seed=3), hashes, labels, classes)
    sizes = np.bincount(labels, minlength=classes)
    wrong = np.bincount(labels[ledger.selected], minlength=classes)
    low = max(((w - 1) / n for w, n in zip(wrong, sizes, strict=True) if n), default=0)
    high = min(((w + 1) / n for w, n in zip(wrong, sizes, strict=True) if n), default=1)
    assert low <= high  # one common t with every class within one of t * N_c


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["a", "A ", "b", "c", "d"]), max_size=60), st.integers(0, 99))
def test_caption_walk_as_defined(captions, seed):
    hashes = key_hashes(f"k{i}" for i in range(len(captions)))
    draws = draw("select", seed, hashes)
    waiting: list[int] = []
    pairs: list[list[int]] = []
    for sample in np.argsort(draws).tolist():
        mate = next((w for w in waiting if normalised(captions[w]) != normalised(captions[sample])), None)
        if mate is None:
            waiting.append(sample)
        else:
            waiting.remove(mate)
            pairs.append([mate, sample])
    assert caption_pairs(draws, caption_digests(captions)).tolist() == pairs


def test_bernoulli_share_and_ends():
    hashes, labels = key_hashes(f"s{i}" for i in range(20_000)), np.zeros(20_000, dtype=np.int64)
    shares = [make_ledger(arm_of(r, count="bernoulli"), hashes, labels, 3).realised for r in ("0", "0.25", "1")]
    assert shares[0] == 0 and shares[2] == 1 and abs(shares[1] - 0.25) < 0.01


def test_exact_arithmetic():
    assert rounded_count("0.145", 100) == 15  # 14.5 rounds up; 0.145 * 100 is 14.499999999999998 in float64
    assert rounded_count("0.0005", 1000) == 1
    assert rounded_pairs("0.305", 1000) == 153
    assert draw_threshold("1") == 2**64 and draw_threshold("0.5") == 2**63


def test_warning_when_nothing_changes():
    hashes, labels, arm = key_hashes("abc"), np.zeros(3, dtype=np.int64), arm_of("0.1")
    assert "rounds to no change" in make_ledger(arm, hashes, labels, 2).warnings[0]
    assert make_ledger(arm_of("0"), hashes, labels, 2).warnings == ()


def test_transition_reports_its_matrix():
    hashes, labels = key_hashes(f"s{i}" for i in range(1000)), np.arange(1000, dtype=np.int64) % 2
    arm = NoiseSettings(kind="transition", matrix=[[1, 0], [0.5, 0.5]]).arms()[0]
    ledger = make_ledger(arm, hashes, labels, 2)
    counts = realised_matrix(ledger.clean, ledger.given, 2)
    assert counts[0].tolist() == [500, 0] and abs(counts[1, 0] - 250) < 50
    assert ledger.selected.all() and ledger.realised == counts[1, 0] / 1000


def test_labels_from_a_file(tmp_path):
    path = str(tmp_path / "human.parquet")
    pq.write_table(pa.table({"key": ["b", "a", "x"], "label": [1, 0, 1]}), path)
    (arm,) = NoiseSettings(kind="file", file=path).arms()
    labels = np.array([1, 1], dtype=np.int64)
    ledger = make_ledger(arm, key_hashes(["a", "b"]), labels, 2)
    assert ledger.given.tolist() == [0, 1] and ledger.realised == 0.5 and ledger.warnings
    with pytest.raises(UserError, match="a label for every key"):
        make_ledger(arm, key_hashes(["a", "c"]), labels, 2)
    pq.write_table(pa.table({"key": ["a", "a"], "label": [1, 0]}), path)
    with pytest.raises(UserError, match="2 times"):
        make_ledger(arm, key_hashes(["a"]), labels[:1], 2)


@pytest.mark.parametrize(
    "noise",
    [
        {"kind": "symmetric"},
        {"kind": "symmetric", "ratios": ["0.1", ".10"]},
        {"kind": "symmetric", "ratios": ["1.1"]},
        {"kind": "symmetric", "ratios": ["1e-1"]},
        {"kind": "symmetric", "ratios": ["0.1"], "of": "subset"},
        {"kind": "symmetric", "ratios": ["0.1"], "count": "bernoulli", "stratify": True},
        {"kind": "asymmetric", "ratios": ["0.1"]},
        {"kind": "asymmetric", "ratios": ["0.1"], "matrix": [[0]], "count": "bernoulli", "of": "subset"},
        {"kind": "transition", "matrix": [[1]], "ratios": ["0.1"]},
        {"kind": "caption_swap", "ratios": ["0.1"], "stratify": True},
        {"kind": "caption_swap", "ratios": ["0.1"], "count": "exact"},
        {"kind": "file"},
        {"kind": "random", "ratios": ["0.1"]},
        {"kind": "symmetric", "ratios": ["0.1"], "seed": -1},
    ],
)
def test_settings_refused(noise):
    with pytest.raises(ValidationError):
        NoiseSettings(**noise)


@pytest.mark.parametrize(
    ("kind", "matrix"),
    [
        ("asymmetric", [[0, 1]]),
        ("asymmetric", [[0.5, 0.5], [1, 0]]),
        ("asymmetric", [[0, 0.9], [1, 0]]),
        ("transition", [[0, 0], [0, 1]]),
        ("transition", [[1.5, -0.5], [0, 1]]),
        ("transition", [[float("nan"), 1], [0, 1]]),
    ],
)
def test_matrices_refused(kind, matrix):
    ratios = {"ratios": ["0.1"]} if kind == "asymmetric" else {}
    (arm,) = NoiseSettings(kind=kind, matrix=matrix, **ratios).arms()
    with pytest.raises(UserError, match=r"noise\.matrix"):
        make_ledger(arm, key_hashes(["a", "b"]), np.array([0, 1], dtype=np.int64), 2)


def test_data_refused():
    hashes = key_hashes(["a", "b"])
    for labels, classes in (([0, -1], 2), ([0, 2], 2), ([0, 0], 1)):
        with pytest.raises(UserError, match="expected"):
            make_ledger(arm_of("0.5"), hashes, np.array(labels, dtype=np.int64), classes)
    with pytest.raises(UserError, match="caption"):
        make_ledger(arm_of("1", kind="caption_swap"), hashes, np.zeros(2, dtype=np.int64), 2, ["x", None])
    with pytest.raises(UserError, match="2/3"):
        make_ledger(
            arm_of("1", kind="caption_swap"), key_hashes("abc"), np.zeros(3, dtype=np.int64), 2, ["x", "y", "X"]
        )


def test_arms_are_plain_data(tmp_path):
    matrix = tmp_path / "q.npy"
    np.save(matrix, np.array([[0.0, 1.0], [1.0, 0.0]]))
    given_inline = NoiseSettings(kind="asymmetric", ratios=[".50", "1.0"], matrix=[[0, 1], [1, 0]]).arms()
    given_by_file = NoiseSettings(kind="asymmetric", ratios=[0.5, 1], matrix=str(matrix)).arms()
    assert given_inline == given_by_file
    assert [arm.name for arm in given_inline] == ["asymmetric-0.5", "asymmetric-1"]
    for arm in given_inline:
        assert NoiseArm.from_hashed(json.loads(json.dumps(arm.hashed()))) == arm
    with pytest.raises(UserError, match=r"noise\.matrix"):
        NoiseSettings(kind="transition", matrix="nowhere.json").arms()


def test_sources_and_orders():
    assert DataSettings(icons={}).icons.shard_size == 2048
    assert DataSettings(shards={"train": "a", "ood": "b"}).shards.splits() == {"train": "a", "ood": "b"}
    wrongs: list[dict[str, Any]] = [{}, {"icons": {}, "shards": {"train": "a"}}, {"shards": {}}]
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            DataSettings(**wrong)
    assert OrderSettings.model_validate("lanes").shuffle_block == 4096
    assert OrderSettings(shuffle_block=7).hashed() == {"kind": "full"}
    with pytest.raises(ValidationError):
        OrderSettings(lanes=3)
