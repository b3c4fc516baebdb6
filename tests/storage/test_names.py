"""Names from elsewhere lead nowhere but below the directory that they are taken for."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nml_ray.storage.names import flaw_of


@pytest.mark.parametrize("name", ["a.tar", "train/a b.tar", "tr.ain/..a/a...tar", "é/ß.tar", "C:/x.tar"])
def test_names_below_a_directory(name):
    assert flaw_of(name) == ""


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("", "is empty"),
        ("/etc/a.tar", "is absolute"),
        ("//a.tar", "is absolute"),
        ("../a.tar", "has a part '..'"),
        ("a/../../b.tar", "has a part '..'"),
        ("a/./b.tar", "has a part '.'"),
        ("a//b.tar", "has an empty part"),
        ("a/", "has an empty part"),
        ("a\\..\\b.tar", "has a backslash"),
        ("a\0.tar", "has a control character, or one that is no Unicode"),
        ("a\n.tar", "has a control character, or one that is no Unicode"),
        ("\udcff.tar", "has a control character, or one that is no Unicode"),
    ],
)
def test_names_that_may_lead_elsewhere(name, flaw):
    assert flaw_of(name) == flaw


@given(st.text(alphabet="./\\ab\0", max_size=12))
@example("..")
def test_what_passes_stays_below(name):
    if not flaw_of(name):
        root = Path("/some/where")
        parts = (root / name).parts
        assert parts[:3] == root.parts and ".." not in parts and str(root / name) == f"{root}/{name}"
