"""Batches through encoders, one ahead of their features; GPUs that extraction reserves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nml_ray.config.errors import UserError
from nml_ray.features.forward import Forward
from nml_ray.features.plan import ExtractionPlan
from nml_ray.features.ray_data import actors_that_fit
from nml_ray.study.job import RunSettings

CPU = torch.device("cpu")
PLAN = ExtractionPlan("", {}, (), (), threads=1, decode_threads=1, device="cuda", gpus=1)


def test_features_come_in_their_order_whenever_they_are_taken():
    forward, encoder = Forward(CPU), torch.nn.Linear(3, 2)
    batches = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    features = np.zeros((4, 5, 2), np.float32)
    for batch, room in zip(batches, features, strict=True):
        forward.give(encoder, forward.bring(batch), room)
        forward.take(1)
    assert forward.given == 1
    assert not features[-1].any()
    forward.take()
    with torch.inference_mode():
        assert np.array_equal(features, encoder(torch.from_numpy(batches)).numpy())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_products_of_a_lower_precision_come_back_as_float32(precision):
    forward, encoder = Forward(CPU, precision), torch.nn.Linear(64, 8)
    batch, features = torch.randn(16, 64), np.zeros((16, 8), np.float32)
    forward.give(encoder, batch, features)
    forward.take()
    with torch.inference_mode():
        exact = encoder(batch).numpy()
    assert not np.array_equal(features, exact)
    assert np.allclose(features, exact, atol=0.05)


@pytest.mark.parametrize(
    ("gpus", "cluster", "actors"),
    [
        (1, {"CPU": 64, "GPU": 8}, 8),
        (0.1, {"CPU": 64, "GPU": 1}, 10),
        (0.4, {"CPU": 64, "GPU": 2}, 4),
        (2, {"CPU": 64, "GPU": 5}, 2),
        (1, {"CPU": 6, "GPU": 8}, 3),
        (0, {"CPU": 6}, 3),
        (0, {"CPU": 1}, 1),
    ],
)
def test_as_many_actors_as_cpus_and_gpus_allow(gpus, cluster, actors):
    assert actors_that_fit(replace(PLAN, gpus=gpus), cluster) == actors


def test_a_cluster_without_a_gpu_is_refused():
    with pytest.raises(UserError, match=r"run\.device: cuda: the cluster has 0 GPUs; expected at least 1"):
        actors_that_fit(PLAN, {"CPU": 64})


def test_a_share_of_a_gpu_or_whole_ones():
    assert RunSettings(extract_gpus=0.25).extract_gpus == 0.25
    with pytest.raises(ValueError, match="above a whole number"):
        RunSettings(extract_gpus=1.5)
