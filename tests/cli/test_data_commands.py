"""`nml-ray data shard`, `verify` and `inspect` as a user meets them."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from nml_ray.cli.main import call
from nml_ray.cli.options import class_names
from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.indexing import index_directory
from tests.small_images import image_tree, picture, sorted_tars


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    image_tree(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["shard", "verify", "inspect", "index"])
def test_every_command_shows_an_example_of_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["data", command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text and f"nml-ray data {command}" in text


def test_from_a_folder_to_a_contact_sheet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "images/cat/readme.txt").write_text("x")
    command = ["data", "shard", "images", "out", "--samples-per-shard", "10", "--licence", "CC0-1.0"]
    assert call(command) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("24 samples, 3 classes, 3 tars, digest ")
    assert "files that are no images, left out: 1 (.txt: 1)" in captured.err
    assert call(command) == 0
    assert "3 tars (3 kept)" in capsys.readouterr().out
    assert call(["data", "verify", "out"]) == 0
    out = capsys.readouterr().out
    assert out.count("sound") == 7 and "images   can be decoded" in out
    assert call(["data", "inspect", "out", "--sheet", "sheet.png", "--batch", "8"]) == 0
    out = capsys.readouterr().out
    assert "3, 8 to 8 samples each" in out and "cat 8, dog 8, owl 8" in out and "CC0-1.0" in out
    assert "9 jpg, 9 png, 6 webp" in out and "warning" not in out
    assert Image.open(here / "sheet.png").size[1] == 3 * 100 + 4


def test_verify_fails_and_marks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "images/cat/cat.v0.jpg").write_bytes(picture(0)[:200])
    assert call(["data", "shard", "images", "out", "--short-side", "8"]) == 0
    assert "images that cannot be decoded and are in the tars as they came: 1 (the first is 'cat/cat_v0')" in (
        capsys.readouterr().err
    )
    assert call(["data", "verify", "out"]) == 1
    out = capsys.readouterr().out
    assert "1 wrong" in out and "key 'cat/cat_v0' cannot be decoded (" in out and "--mark-bad" in out
    assert call(["data", "verify", "out", "--mark-bad"]) == 0
    assert "excluded from now on: 1 undecodable images" in capsys.readouterr().out
    assert json.loads((here / "out/dataset.json").read_text())["known_bad"] == ["cat/cat_v0"]
    assert call(["data", "verify", "out", "--no-decode"]) == 0
    assert "not looked at" in capsys.readouterr().out
    assert call(["data", "inspect", "out"]) == 0
    assert "24, 1 of them known to be bad" in capsys.readouterr().out


def test_class_sorted_tars_are_warned_of_and_mended(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sorted_tars(here / "in")
    before = index_directory(here / "in")
    options = ["--batch", "64", "--lanes", "8", "--shuffle-block", "10"]
    assert call(["data", "inspect", "in", *options]) == 0
    out = capsys.readouterr().out
    assert "below 80 %: the shards are sorted by class" in out and "nml-ray data shard in OUT" in out
    assert call(["data", "shard", "in", "out", "--samples-per-shard", "250"]) == 0
    assert call(["data", "inspect", "out", *options]) == 0
    assert "below 80 %" not in capsys.readouterr().out
    assert Dataset.open(here / "out").digest == before.digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shard", "imags", "out"], "SOURCE: 'imags' does not exist; expected an image folder"),
        (["shard", "images", "images/out"], "images/out: lies in the source images"),
        (["shard", "torchvision:CIFAR10", "out"], "torchvision:CIFAR10: where are its files?"),
        (["shard", "images", "out", "--classes", "none.txt"], "none.txt: cannot be read"),
        (["shard", "images", "s3://bucket/out?endpoint=x"], "OUT: option 'endpoint' of an s3:// URL"),
        (["shard", "pipe:cat in.tar", "out"], "SOURCE: 'pipe:' would run a shell command"),
        (["shard", "torchvision:CIFAR10", "out", "--root", "."], "torchvision:CIFAR10: Dataset not found"),
        (["shard", "images", "out", "--ray", "auto", "--workers", "2"], "--workers: 2, and --ray too"),
        (["verify", "images"], "images/dataset.json: is missing"),
        (["inspect", "images"], "images/dataset.json: is missing"),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call(["data", *arguments]) == 2
    captured = capsys.readouterr()
    assert not (here / "out").exists()
    assert captured.err.startswith(f"nml-ray: {message}") and captured.err.count("\n") == 1 and captured.out == ""


def test_files_of_class_names(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffcat\r\n big dog \t\r\n\r\n\n".encode())
    assert class_names(file) == ["cat", "big dog"]
    for text, message in (
        ("cat\n\ndog\n", "names.txt, line 2: is empty"),
        ("\n", "names.txt, line 1: is empty"),
        ("cat\ndog\ncat \n", "names.txt, line 3: class 'cat' again, as in line 1"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=re.escape(message)):
            class_names(file)
