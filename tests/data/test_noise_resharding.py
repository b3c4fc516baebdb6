"""The same noise after tars are sharded anew: other sizes, another shuffle, another place for every sample."""

import numpy as np
import pytest

from nml_ray.cli.main import call
from nml_ray.data.config import NoiseSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.indexing import index_directory, set_known_bad
from nml_ray.data.labels import noise_ledger
from nml_ray.data.ledger import write_ledger
from nml_ray.data.order import epoch_order
from nml_ray.data.shards import write_tar

MATRIX = [[0, 0.5, 0.5, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
ARMS = [
    *({"kind": "symmetric", "ratios": ["0.3"], "stratify": stratify} for stratify in (True, False)),
    {"kind": "symmetric", "ratios": ["0.3"], "count": "bernoulli", "over": "all"},
    {"kind": "asymmetric", "ratios": ["0.3"], "matrix": MATRIX},
    {"kind": "transition", "matrix": np.full((4, 4), 0.25).tolist()},
    {"kind": "caption_swap", "ratios": ["0.4"]},
]


def sample(number):
    caption = f" Photo  of {'a' if number % 3 else 'A'} thing {number // 2}"  # some are equal, in more than one way
    return f"dir/é{number:03d}", {"jpg": b"image %d" % number, "cls": b"%d" % (number % 4), "txt": caption.encode()}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The same samples as somebody's tars of uneven sizes, and sharded anew from them in two ways."""
    root = tmp_path_factory.mktemp("sharded")
    (root / "in").mkdir()
    for shard, (first, stop) in enumerate(((0, 7), (7, 150), (150, 151), (151, 240))):
        write_tar(root / f"in/x-{shard}.tar", (sample(number) for number in range(first, stop)))
    index_directory(root / "in")
    set_known_bad(root / "in", ["dir/é005", "dir/é200"])
    for name, size, seed in (("small", "17", "0"), ("large", "100", "5")):
        command = ["data", "shard", str(root / "in"), str(root / name), "--samples-per-shard", size, "--seed", seed]
        assert call(command) == 0
    return [Dataset.open(root / name) for name in ("in", "small", "large")]


def test_the_shards_differ(sharded):
    assert [len(data.info.shards) for data in sharded] == [4, 15, 3]
    assert len({tuple(data.keys.to_pylist()) for data in sharded}) == 3
    assert [len(data.good) for data in sharded] == [238] * 3


@pytest.mark.parametrize("noise", ARMS, ids=lambda noise: noise["kind"])
def test_the_ledger_is_the_same(sharded, noise, tmp_path):
    (arm,) = NoiseSettings(seed=3, **noise).arms()
    summaries = [
        write_ledger(tmp_path / "ledger.parquet", data.keys.take(data.good), noise_ledger(data, arm), 4)
        for data in sharded
    ]
    assert summaries[0] == summaries[1] == summaries[2] and summaries[0]["changed"] > 20


def test_the_full_order_is_the_same(sharded):
    fed = [
        [
            data.key(int(data.good[place]))
            for place in epoch_order(data.key_hash[data.good], seed=1, epoch=2, batch=16).batch(5)
        ]
        for data in sharded
    ]
    assert fed[0] == fed[1] == fed[2]
