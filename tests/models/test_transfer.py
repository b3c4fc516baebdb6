"""Tensors between host and device, as far as a CPU shows it."""

import torch

from nml_ray.models.transfer import Readback, Uploads, sent

CPU = torch.device("cpu")


def test_numbers_are_those_of_the_moment_at_which_they_were_asked_for():
    sums = torch.arange(3.0)
    numbers = Readback(sums)
    sums.zero_()
    assert numbers.read().tolist() == [0.0, 1.0, 2.0]


def test_on_a_cpu_nothing_is_copied_and_nothing_is_to_be_waited_for():
    uploads, images = Uploads(CPU), torch.zeros(2, 3)
    assert uploads.copy(images).data_ptr() == images.data_ptr() == sent(images, CPU).data_ptr()
    assert uploads.done() is None
