"""The size of `small_resnet` by arithmetic: torch takes seconds to import, which is too long for a plan."""


def small_resnet_size(width: int, channels: int, side: int) -> tuple[int, int]:
    """Parameters of `SmallResNet(width, channels)`, and FLOPs (two a multiplication) of one image's way through it.

    `side` is that of the square image, in pixels.
    """
    side = -(-side // 2)
    parameters, products = _convolution(channels, width, 3, side)
    parameters += 2 * width
    for stage in range(4):
        before, after = width * 2 ** max(stage - 1, 0), width * 2**stage
        side = -(-side // 2) if stage else side
        convolutions = [_convolution(before, after, 3, side), _convolution(after, after, 3, side)]
        if before != after:
            convolutions.append(_convolution(before, after, 1, side))
        parameters += sum(weights for weights, _ in convolutions) + 2 * after * len(convolutions)
        products += sum(count for _, count in convolutions)
    return parameters, 2 * products


def _convolution(channels_in: int, channels_out: int, kernel: int, side: int) -> tuple[int, int]:
    """Weights of a convolution without bias, and its multiplications for an output of `side` x `side`."""
    weights = channels_in * channels_out * kernel**2
    return weights, weights * side**2
