"""The moving average of the weights."""

import torch
from torch import nn

from nml_ray.pretrain.average import WeightAverage, average_decay
from nml_ray.pretrain.recipe_config import AverageSettings


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(memory_format=torch.channels_last)


def stepped(net: nn.Module, step: int) -> nn.Module:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator))
            else:
                value.add_(1)
    return net


def test_is_the_recursion_over_weights_and_statistics():
    net, settings = model(), AverageSettings(decay=0.9, warmup=False)
    average = WeightAverage(net, settings)
    expected = {name: value.clone().double() for name, value in net.state_dict().items()}
    for step in range(5):
        average.update(stepped(net, step), step)
        for name, value in net.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value.double()
    found = average.model.state_dict()
    assert found["1.num_batches_tracked"] == 5
    for name in expected.keys() - {"1.num_batches_tracked"}:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not average.model.training and net.training


def test_decay_grows_to_its_limit():
    settings = AverageSettings(decay=0.99)
    assert average_decay(0, settings) == 0.1
    assert average_decay(90, settings) == 0.91
    assert average_decay(10_000, settings) == 0.99
