import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nml_ray.config.document import WrittenFloat, load, parse, plain
from nml_ray.config.errors import UserError
from nml_ray.config.settings import exact_ratio

TEXT = """\
name: demo
noise:
  kind: symmetric
  ratios: [0, 0.10,
    .5]
heads:
  - head: mlp
    seed: 3
"""


def test_every_value_knows_its_line() -> None:
    document = parse(TEXT, "job.yaml")
    assert document.where(("name",)) == "job.yaml:1"
    assert document.where(("noise",)) == "job.yaml:2"
    assert document.where(("noise", "ratios", 1)) == "job.yaml:4"
    assert document.where(("noise", "ratios", 2)) == "job.yaml:5"
    assert document.where(("heads", 0, "seed")) == "job.yaml:8"
    assert document.where(("heads", 0, "absent")) == "job.yaml:7"


def test_numbers_are_numbers_and_keep_their_text() -> None:
    ratios = parse(TEXT, "job.yaml").data["noise"]["ratios"]
    assert ratios == [0, 0.1, 0.5]
    assert [str(ratio) for ratio in ratios] == ["0", "0.10", ".5"]
    assert [exact_ratio(ratio) for ratio in ratios] == ["0", "0.1", "0.5"]
    assert f"{pickle.loads(pickle.dumps(ratios[1]))}" == "0.10"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("12", 12),
        ("012", 12),
        ("-4", -4),
        ("5.", 5.0),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        (".nan", ".nan"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
    ],
)
def test_scalars_of_the_core_schema(text: str, value: Any) -> None:
    read = parse(f"a: {text}", "f").data["a"]
    assert read == value
    assert isinstance(read, type(value))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_survives(number: float) -> None:
    read = parse(f"a: {number!r}", "f").data["a"]
    assert read == number
    assert isinstance(read, WrittenFloat)
    assert type(plain(read)) is float


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3", "key 'a' twice"),
        ("a:\n  - !!python/object:os.system x\n", "f:2", "!!python/object"),
        ("a: !secret x\n", "f:1", "!secret"),
        ("a: [1,\nb: 2\n", "f:3", "begun in line 1"),
        ("a: &x [*x]\n", "f:1", "contains itself"),
        ("? [a, b]\n: 1\n", "f:1", "a key that is a list"),
        ("a: 1\n\tb: 2\n", "f:2", "not valid YAML"),
        ("a:\n  " + "[" * 5000, "f:2", "more than 50 sections or lists"),
        ("a:\n  " + "[" * 5000 + "]" * 5000, "f:2", "more than 50 sections or lists"),
        ("- " * 5000 + "x", "f:1", "more than 50 sections or lists"),
        ("{a: " * 5000 + "1" + "}" * 5000, "f:1", "more than 50 sections or lists"),
        ("a: 1\nb: " + "9" * 5000, "f:2", "a number of 5,000 digits"),
    ],
)
def test_what_is_refused_names_its_line(text: str, place: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, "f")
    assert str(caught.value).startswith(place + ": ")
    assert words in str(caught.value)


def test_an_alias_is_the_value_it_names() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n", "f").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_few_aliases_cannot_mean_millions_of_values() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    with pytest.raises(UserError, match=r"f:\d+: aliases that mean more than 10,000 values"):
        parse(bomb, "f")
    assert len(parse("- &x [1, 2]\n" + "- *x\n" * 3000, "f").data) == 3001


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    for name, words in (("none.yaml", "no such file"), ("latin.yaml", "latin.yaml:2: is not UTF-8"), ("", "directory")):
        with pytest.raises(UserError, match=words):
            load(tmp_path / name)


def test_a_misspelt_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").touch()
    with pytest.raises(UserError, match=r"there is no such file; did you mean 'demo\.yaml'\?"):
        load(tmp_path / "demo.yml")
