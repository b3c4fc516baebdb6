"""Counts and thresholds from a ratio's own decimal text, in exact arithmetic."""

from fractions import Fraction
from math import floor


def rounded_count(ratio: str, total: int) -> int:
    """floor(ratio * total + 1/2), exactly."""
    return floor(Fraction(ratio) * total + Fraction(1, 2))


def rounded_pairs(ratio: str, total: int) -> int:
    """floor(ratio * total / 2 + 1/2), exactly."""
    return floor(Fraction(ratio) * total / 2 + Fraction(1, 2))


def draw_threshold(ratio: str) -> int:
    """floor(ratio * 2^64): a draw below it is wrong with probability `ratio`."""
    return floor(Fraction(ratio) * 2**64)
