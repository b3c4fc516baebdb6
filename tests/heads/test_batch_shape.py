"""Which settings share a batch, and how many: plain arithmetic."""

from typing import Any

import pytest

from nml_ray.heads.batch_shape import (
    SHARE_OF_FREE,
    Data,
    batches,
    bytes_of_one,
    even_parts,
    features_bytes,
    parameters,
    settings_that_fit,
    shape,
    treated_alike,
)
from nml_ray.heads.config import head_setting
from nml_ray.heads.modules import new_head

DATA = Data(rows=5000, dim=512, outputs=100, views=2)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ({}, {"learning_rate": 0.5, "weight_decay": 0.3, "warmup_steps": 9, "standardise": True}, True),
        ({}, {"mse_weight": 0.0, "top_k": 5, "mse_norm": "official", "residual_init": 0.5}, True),
        ({"preset": "official"}, {"batch_norm": True, "residual": True, "views": "pair"}, True),
        ({}, {"ratio": 4.0005}, True),
        ({}, {"ratio": 2}, False),
        ({}, {"layers": 2}, False),
        ({}, {"batch_norm": True}, False),
        ({}, {"residual": True}, False),
        ({}, {"batch": 128}, False),
        ({"batch": 5000}, {"batch": 9000}, True),
        ({}, {"epochs": 3}, False),
        ({}, {"views": "pair"}, False),
        ({}, {"dtype": "float64"}, False),
    ],
)
def test_what_may_share_a_batch(one: dict[str, Any], other: dict[str, Any], together: bool) -> None:
    first, second = (head_setting("nmtune", **changes) for changes in (one, other))
    assert (shape(first, DATA) == shape(second, DATA)) is together


def test_heads_that_share_a_batch() -> None:
    probe, mlp, tuned, pair = (
        head_setting("linear_probe"),
        head_setting("mlp"),
        head_setting("nmtune"),
        head_setting("nmtune", views="pair"),
    )
    assert shape(mlp, DATA) == shape(tuned, DATA) != shape(probe, DATA)
    assert shape(pair, Data(5000, 512, 100)) == shape(tuned, Data(5000, 512, 100))


@pytest.mark.parametrize(
    "setting",
    [
        head_setting("linear_probe"),
        head_setting("mlp", "official", layers=3, ratio=1.7),
        head_setting("nmtune", layers=2),
    ],
)
def test_parameters_are_counted(setting: Any) -> None:
    data = Data(rows=9, dim=7, outputs=5)
    assert parameters(setting, data) == sum(tensor.numel() for tensor in new_head(setting, 7, 5, 0).parameters())


def test_bytes_grow_with_what_there_is_to_hold() -> None:
    probe, mlp, paper = (head_setting(head) for head in ("linear_probe", "mlp", "nmtune"))
    sizes = [
        bytes_of_one(probe, DATA),
        bytes_of_one(mlp, DATA),
        bytes_of_one(paper, DATA),
        bytes_of_one(head_setting("nmtune", "official"), DATA),
        bytes_of_one(head_setting("nmtune", "official", dtype="float64"), DATA),
    ]
    assert sizes == sorted(sizes) and len(set(sizes)) == 5
    large = bytes_of_one(head_setting("nmtune", "official"), Data(5000, 2048, 100, 2))
    assert 4 * 33.6e6 * 4 < large < 1.2 * 4 * 33.6e6 * 4  # weights, gradients and moments are nearly all of it


def test_features_are_counted_once_for_each_form() -> None:
    plain, other, pair = (
        head_setting("mlp"),
        head_setting("mlp", standardise=True),
        head_setting("nmtune", "official", dtype="float64"),
    )
    assert features_bytes([plain, plain], DATA) == 4 * 5000 * 512
    assert features_bytes([plain, other], DATA) == 2 * 4 * 5000 * 512
    assert features_bytes([pair], DATA) == 2 * 8 * 5000 * 512


def test_how_many_fit() -> None:
    assert settings_that_fit(free=1000, fixed=0, each=100) == int(10 * SHARE_OF_FREE)
    assert settings_that_fit(free=1000, fixed=500, each=100) == 3
    assert settings_that_fit(free=1000, fixed=2000, each=100) == 1  # tried all the same


def test_parts_are_even() -> None:
    assert even_parts([1, 2, 3, 4, 5], 10) == [[1, 2, 3, 4, 5]]
    assert [len(part) for part in even_parts(list(range(65)), 64)] == [32, 33]
    assert [place for part in even_parts(list(range(10)), 3) for place in part] == list(range(10))


def test_memory_cuts_batches_and_neighbours_are_treated_alike() -> None:
    rates = [0.1, 0.01, 0.1, 0.01, 0.1, 0.01]
    settings = [head_setting("mlp", learning_rate=rate) for rate in rates]
    assert batches(settings, DATA, 10**12) == [[1, 3, 5, 0, 2, 4]]
    room = 2.5 * bytes_of_one(settings[0], DATA) + features_bytes(settings, DATA)
    assert batches(settings, DATA, int(room / SHARE_OF_FREE)) == [[1, 3], [5, 0], [2, 4]]
    ordered = [settings[number] for number in (1, 3, 5, 0, 2, 4)]
    assert treated_alike(ordered) == [slice(0, 3), slice(3, 6)]
    assert treated_alike(settings[:1]) == [slice(0, 1)]
