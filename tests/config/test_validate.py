import json
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from nml_ray.config.document import parse
from nml_ray.config.errors import UserError
from nml_ray.config.override import override
from nml_ray.config.patterns import EXPECTED
from nml_ray.config.settings import Count, Ratio, Settings
from nml_ray.config.validate import Misplaced, validate


class Shift(Settings):
    kind: Literal["shift"] = "shift"
    pixels: Count = 3


class Crop(Settings):
    kind: Literal["resized_crop"]
    scale: tuple[float, float] = (0.1, 1.0)


class Icons(Settings):
    shard_size: Count = 2048


class Given(Settings):
    train: str | None = None


class Inner(Settings):
    ratios: tuple[Ratio, ...] = ()
    kind: Literal["symmetric", "asymmetric"] = "symmetric"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    fast: bool = False
    augment: Annotated[Shift | Crop, Field(discriminator="kind")] = Shift()

    @model_validator(mode="after")
    def _check(self) -> "Inner":
        if self.kind == "asymmetric" and self.fast:
            raise ValueError("asymmetric noise cannot be fast")
        return self


class Outer(Settings):
    @model_validator(mode="after")
    def _fits(self) -> "Outer":
        if self.name == "odd" and self.epochs > 1:
            raise Misplaced("an odd one has one epoch", "epochs")
        return self

    name: str
    noise: Inner = Inner()
    epochs: Count = 1
    parts: tuple[Inner, ...] = ()
    data: Icons | Given | None = None
    free: dict[str, Inner] | None = None


def message(text: str, *assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        validate(Outer, override(parse(text, "job.yaml"), assignments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_right_document_becomes_settings() -> None:
    settings = validate(Outer, parse("name: x\nnoise:\n  ratios: [0, 0.10, .5, 1.0]\n  rate: 1e-1\n", "f"))
    assert settings.noise.ratios == ("0", "0.1", "0.5", "1")
    assert settings.noise.rate == 0.1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: x\nnoise:\n  ratio: [0]\n",
            "job.yaml:3: unknown key 'ratio'; expected one of ratios, kind, rate, fast, augment; did you mean 'ratios",
        ),
        ("name: x\nepoch: 3\n", "job.yaml:2: unknown key 'epoch'; expected one of name, noise, epochs"),
        (
            "name: x\nnoise:\n  kind: symetric\n",
            "job.yaml:3: noise.kind = 'symetric'; expected one of symmetric, asymmetric; did you mean 'symmetric'?",
        ),
        ("name: x\nnoise:\n  ratios:\n  - 0\n  - 1e-1\n", "job.yaml:5: noise.ratios.1 = 1e-1: a ratio is"),
        ("name: x\nnoise: {ratios: [1.5]}\n", "job.yaml:2: noise.ratios.0 = 1.5: a ratio lies between"),
        ("name: x\nepochs: many\n", "job.yaml:2: epochs = 'many'; expected a whole number"),
        ("name: x\nepochs: 1.5\n", "job.yaml:2: epochs = 1.5; expected a whole number"),
        ("name: x\nepochs: 0\n", "job.yaml:2: epochs = 0; expected at least 1"),
        ("name: x\nepochs: true\n", "job.yaml:2: epochs = true; expected a whole number"),
        ("name: x\nepochs: '6'\n", "job.yaml:2: epochs = '6'; expected a whole number"),
        ("name: x\nnoise: {fast: 1}\n", "job.yaml:2: noise.fast = 1; expected true or false"),
        ("name: x\nnoise: {rate: 1}\n", "job.yaml:2: noise.rate = 1; expected less than 1"),
        ("name: 7\n", "job.yaml:1: name = 7; expected text"),
        ("epochs: 1\n", "job.yaml:1: 'name' is missing"),
        ("name: x\nnoise: 3\n", "job.yaml:2: noise = 3; expected a section"),
        ("name: x\nparts: {a: 1}\n", "job.yaml:2: parts = a section with a; expected a list"),
        (
            "name: x\nparts:\n- kind: symmetric\n- kinds: a\n",
            "job.yaml:4: unknown key 'kinds'; expected one of ratios, kind, rate, fast, augment; did you mean 'kind'?",
        ),
        (
            "name: x\nnoise:\n  augment:\n    kind: shift\n    pixel: 1\n",
            "job.yaml:5: unknown key 'pixel'; expected one of kind, pixels; did you mean 'pixels'?",
        ),
        (
            "name: x\nnoise:\n  augment: {kind: shit}\n",
            "job.yaml:3: noise.augment.kind = shit; expected one of shift, resized_crop; did you mean 'shift'?",
        ),
        (
            "name: x\nnoise:\n  kind: asymmetric\n  fast: true\n",
            "job.yaml:2: noise: asymmetric noise cannot be fast",
        ),
        ("name: odd\nepochs: 2\n", "job.yaml:2: an odd one has one epoch"),
        ("name: x\nfree:\n  a: {rat: 1}\n", "job.yaml:3: unknown key 'rat'; expected one of ratios"),
        ("name: x\ndata:\n  shard_size: x\n", "job.yaml:3: data.shard_size = 'x'; expected a whole number"),
        ("name: x\ndata:\n  shard_siz: 1\n", "job.yaml:3: unknown key 'shard_siz'"),
        ("- a\n", "job.yaml:1: ['a']; expected a section"),
    ],
)
def test_each_mistake_has_its_message(text: str, expected: str) -> None:
    assert message(text).startswith(expected)


def test_the_place_of_an_override_is_the_flag() -> None:
    assert message("name: x\n", "noise.kind=sym").startswith(
        "--set noise.kind=sym: noise.kind = 'sym'; expected one of"
    )


def test_of_several_mistakes_the_first_in_the_file_is_told_and_the_rest_counted() -> None:
    text = message("name: x\nnoise:\n  kind: a\nepochs: -1\nfoo: 1\n")
    assert text.startswith("job.yaml:3: noise.kind = 'a' (and 2 more mistakes in this file); expected one of")


def test_every_pattern_is_told_in_words() -> None:
    schemas = sorted((Path(__file__).parents[2] / "docs/reference").glob("*.schema.json"))
    patterns = {
        json.loads(f'"{found}"')
        for path in schemas
        for found in re.findall(r'"pattern": "((?:[^"\\\\]|\\\\.)*)"', path.read_text())
    }
    assert len(schemas) >= 2 and patterns and patterns <= set(EXPECTED)
