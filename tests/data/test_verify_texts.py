"""A set of texts is verified and described as what it is: no image is looked for in it."""

import shutil
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.data.verify import verify
from tests import task_layouts as layouts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("texts")
    layouts.glue(root / "downloads")
    arguments = ["--downloads", str(root / "downloads"), "--task-data", str(root / "task_data")]
    assert call(["tasks", "shard", "glue_rte", *arguments]) == 0
    return root / "task_data/glue/rte_dev"


@pytest.fixture
def texts(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tars"))


def test_a_sound_set(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = verify(texts)
    assert verdict.sound and not verdict.undecodable and verdict.looked_at["content"] == 12
    assert call(["data", "verify", str(texts)]) == 0
    assert "wrong" not in capsys.readouterr().out
    assert call(["data", "inspect", str(texts)]) == 0
    out = capsys.readouterr().out
    assert "texts " in out and "unreadable" not in out and "pixels" not in out


@pytest.mark.parametrize(
    ("what", "words"), [(b"zzz", "captions differ from the index"), (b"\xff\xfe\xff", "is not UTF-8")]
)
def test_a_text_that_was_changed_is_named(
    texts: Path, capsys: pytest.CaptureFixture[str], what: bytes, words: str
) -> None:
    (tar,) = texts.glob("*.tar")
    data = tar.read_bytes()
    start = data.index(b".txt")
    body = (start // 512 + 1) * 512  # of the first text
    tar.write_bytes(data[:body] + what + data[body + len(what) :])
    assert call(["data", "verify", str(texts)]) == 1
    assert words in capsys.readouterr().out


def test_a_tar_cut_short_is_named(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tar,) = texts.glob("*.tar")
    tar.write_bytes(tar.read_bytes()[:5000])
    assert call(["data", "verify", str(texts)]) == 1
    assert "tars: shard-000000.tar: has 5,000 bytes" in capsys.readouterr().out
