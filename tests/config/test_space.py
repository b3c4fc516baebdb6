"""Spaces: every value of a choice or range is reached, no other, and mistakes are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nml_ray.config.space import Space, space_of

SHARES = st.floats(0, 1, exclude_max=True)


@given(share=SHARES, low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6))
def test_a_uniform_number_lies_between(share, low, width):
    if low < low + width:
        assert low <= Space(uniform=(low, low + width)).at(share) <= low + width


@given(share=SHARES, low=st.floats(1e-9, 1.0), factor=st.floats(1.01, 1e6))
def test_a_log_uniform_number_lies_between(share, low, factor):
    assert low <= Space(log_uniform=(low, low * factor)).at(share) <= low * factor


def test_orders_of_magnitude_are_as_likely():
    space = Space(log_uniform=(1e-4, 1.0))
    assert [space.at(share) for share in (0.0, 0.25, 0.5, 0.75)] == [0.0001, 0.001, 0.01, 0.1]


def test_integers_are_as_likely_both_ends_among_them():
    found = [Space(integers=(2, 5)).at(number / 400) for number in range(400)]
    assert {value: found.count(value) for value in set(found)} == {2: 100, 3: 100, 4: 100, 5: 100}


def test_a_list_is_a_choice_of_different_values():
    space = Space.model_validate(space_of([[0], "x", [0], 0.5]))
    assert space.ends() == [[0], "x", 0.5]
    assert [space.at(share) for share in (0.0, 0.4, 0.9)] == [[0], "x", 0.5]


def test_a_drawn_number_has_few_digits():
    assert Space(uniform=(0.0, 1.0)).at(1 / 3) == 0.333333


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "one of choice, uniform, log_uniform, integers, not none"),
        ({"uniform": [0, 1], "integers": [0, 1]}, "not uniform and integers"),
        ({"uniform": [1, 1]}, "LOW 1.0 is not below HIGH 1.0"),
        ({"log_uniform": [0, 1]}, "LOW 0.0 is not above 0"),
        ({"integers": [0.5, 2]}, "integer"),
        ({"uniform": [0, float("inf")]}, "finite"),
        ({"choice": []}, "at least 1"),
    ],
)
def test_mistakes_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        Space.model_validate(settings)
