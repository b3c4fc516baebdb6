"""What GPUs can do at most, by their names."""

from collections.abc import Mapping

# Dense peaks in 1e12 FLOP/s as their makers publish them: 16-bit matrix units (summing in float32), and float32
# without TF32. The first name that the device's name contains counts.
PEAKS: Mapping[str, tuple[float, float]] = {
    "B200": (2250, 75),
    "H200": (989, 67),
    "H100 PCIe": (756, 51),
    "H100 NVL": (835, 60),
    "H100": (989, 67),
    "GH200": (989, 67),
    "H20": (148, 44),
    "H800": (989, 67),
    "A800": (312, 19.5),
    "A100": (312, 19.5),
    "A10G": (70, 35),
    "A10": (125, 31.2),
    "A30": (165, 10.3),
    "A40": (150, 37.4),
    "RTX A6000": (155, 38.7),
    "RTX 6000 Ada": (364, 91.1),
    "RTX 3090": (71, 35.6),
    "RTX 4090": (165, 82.6),
    "RTX 5090": (210, 104.8),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "V100": (125, 15.7),
    "T4": (65, 8.1),
}


def peak_of(device: str, precision: str) -> float | None:
    """FLOP/s of a device by its name, such as "NVIDIA H100 80GB HBM3"; None where it is not known."""
    for name, (half, single) in PEAKS.items():
        if name in device:
            return 1e12 * (single if precision == "float32" else half)
    return None
