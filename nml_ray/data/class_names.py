"""Class names that are just their numbers: what a data set has whose labels were never named."""

from collections.abc import Sequence


def numbers(count: int) -> tuple[str, ...]:
    """The names "0", "1", ... of classes without names."""
    return tuple(str(number) for number in range(count))


def are_numbers(classes: Sequence[str]) -> bool:
    """Whether the names are no more than the labels themselves; so are none at all."""
    return tuple(classes) == numbers(len(classes))


def numbers_for(largest: int | None, earlier: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of numbered classes, of labels up to `largest` (None without any).

    As many as an `earlier` index of the data knew, if those are numbers too: a part of the data may lack the last
    classes, but there are no fewer of them for that.
    """
    known = len(earlier) if are_numbers(earlier) else 0
    return numbers(max(known, 0 if largest is None else largest + 1))
