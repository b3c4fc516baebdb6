"""What reaches a terminal of texts that others wrote."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nml_ray.config.terminal import harmless, plain

PICTURE = st.text(alphabet=st.sampled_from("\x1b[]0;?6nmKh\x07\r\n\tx\x9b\u202e"), max_size=30)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]0;title\x1b\\b", "ab"),
        ("\x1b[31mred\x1b[0m, two\nlines", "red, two\nlines"),
        ("over\rwritten \ud800 \u202e\x9b", "overwritten  "),
    ],
)
def test_messages_are_plain(text, shown):
    assert plain(text) == shown


def test_output_keeps_its_colours_and_bars():
    text = "\x1b[1;31mred\x1b[0m\r50 %\x1b[K\n\x1b[2Aup\ttab é 日\n"
    assert "".join(harmless([text])) == text
    assert "".join(harmless(text)) == text  # a sequence may come in pieces


def test_output_sets_no_title_and_asks_nothing():
    assert "".join(harmless(["\x1b]0;x\x07\x1b[6n\x1b[?1049h\x1bc\x9b1m\0ok"])) == "]0;x[6n[?1049hc1mok"


@given(st.lists(PICTURE, max_size=8))
def test_output_is_the_same_in_any_pieces(pieces):
    whole = "".join(pieces)
    found = "".join(harmless(pieces))
    assert found == "".join(harmless([whole]))
    assert not set(found) & {"\x07", "\x9b"}
    assert all(unicodedata.category(one) != "Cc" or one in "\x1b\n\r\t" for one in found)
