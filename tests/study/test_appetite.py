"""Whether images come as fast as a GPU takes them."""

from dataclasses import replace

import pytest

from nml_ray.study.appetite import Feeding, hunger

# ResNet-50 on photographs: 3 x 8.2 GFLOPs at 30 % of 312 TFLOP/s
PHOTOS = Feeding(84_000, threads=1, decode_threads=4, arms=1, microbatch=256, seconds_each=3 * 8.2e9 / (0.3 * 312e12))


def test_the_estimates() -> None:
    assert replace(PHOTOS, decode_threads=1).decoded == pytest.approx(1 / 1.75e-3, rel=0.02)  # as was measured
    assert PHOTOS.taken == pytest.approx(3805, rel=0.01)
    assert replace(PHOTOS, seconds_each=1e-9, arms=2).taken == pytest.approx(256 / 5e-3 / 2)


def test_a_gpu_that_waits_is_told_with_what_helps() -> None:
    line = hunger(PHOTOS)
    assert line.startswith("decoding: 4 thread(s) give about 2,270 images/s, and the GPU takes up to 3,805 (1 arm(s)")
    assert ": run.decode_threads=7, smaller shards by `nml-ray data shard DIR OUT --short-side 256" in line
    assert "run.decode_threads=5, machines with 8 CPUs for each GPU (now 6)" in hunger(replace(PHOTOS, cpus=6))
    assert ": machines with 8 CPUs for each GPU (now 4), smaller" in hunger(replace(PHOTOS, cpus=4))
    assert "smaller shards" not in hunger(replace(PHOTOS, bytes_each=30_000, decode_threads=1))


def test_one_that_does_not_is_not_told() -> None:
    assert hunger(replace(PHOTOS, decode_threads=7)) == ""
    assert hunger(replace(PHOTOS, arms=2)) == ""
