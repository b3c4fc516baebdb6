"""Five hundred damaged data sets: each ends in a clear error or a counted skip, never in a hang, a crash or a loss.
Those of an object store are in `test_fuzz_remote`; how many there are of each kind is in `tests.fuzzing`.

A case damages a small data set in one way, before or after it is indexed, and then does what a user would: index it
(where the damage came before), verify it, open it, feed an epoch.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import hash_of
from nml_ray.data.index import index_path
from nml_ray.data.indexing import index_directory
from nml_ray.data.verify import verify
from tests.fuzzing import BATCH, CASES, CLASSES, SAMPLES, SHARDS, Fed, feed, parts, write_sound

pytestmark = pytest.mark.long

Damage = Callable[[Path, np.random.Generator], str]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_sound(tmp_path_factory.mktemp("sound") / "data")


def a_tar(directory: Path, rng: np.random.Generator) -> Path:
    return sorted(directory.glob("*.tar"))[rng.integers(SHARDS)]


def flipped(path: Path, place: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def members(tar: Path, directory: Path, ending: str = "") -> list[tuple[int, int]]:
    """Offset and size of members in an indexed tar, by the end of their extension."""
    dataset = Dataset.open(directory)
    (table,) = (t for t, name in zip(dataset.tables, dataset.shard_names, strict=True) if name == tar.name)
    rows = table["members"].to_pylist()
    return [(m["offset"], m["size"]) for row in rows for m in row if m["extension"].endswith(ending)]


def truncate_tar(directory: Path, rng: np.random.Generator) -> str:
    tar = a_tar(directory, rng)
    size = int(rng.integers(tar.stat().st_size))
    with open(tar, "r+b") as file:
        file.truncate(size)
    return f"{tar.name} cut to {size} bytes"


def flip_in_tar(directory: Path, rng: np.random.Generator) -> str:
    tar = a_tar(directory, rng)
    place, bit = int(rng.integers(tar.stat().st_size)), int(rng.integers(8))
    flipped(tar, place, bit)
    return f"bit {bit} of byte {place} of {tar.name} flipped"


def flip_in_image(directory: Path, rng: np.random.Generator) -> str:
    tar = a_tar(directory, rng)
    images = [m for kind in ("jpg", "png", "webp") for m in members(tar, directory, kind)]
    offset, size = images[rng.integers(len(images))]
    for _ in range(int(rng.integers(1, 30))):
        flipped(tar, offset + int(rng.integers(size)), int(rng.integers(8)))
    return f"bits flipped in the image at byte {offset} of {tar.name}"


def blank_end_of_image(directory: Path, rng: np.random.Generator) -> str:
    tar = a_tar(directory, rng)
    images = members(tar, directory, ("jpg", "png", "webp")[rng.integers(3)])
    offset, size = images[rng.integers(len(images))]
    keep = int(rng.integers(size))
    data = bytearray(tar.read_bytes())
    data[offset + keep : offset + size] = bytes(size - keep)
    tar.write_bytes(data)
    return f"the image at byte {offset} of {tar.name} ends after {keep} bytes"


def flip_in_label(directory: Path, rng: np.random.Generator) -> str:
    tar = a_tar(directory, rng)
    labels = members(tar, directory, "cls")
    offset, size = labels[rng.integers(len(labels))]
    flipped(tar, offset + int(rng.integers(size)), int(rng.integers(8)))
    return f"a label of {tar.name} changed"


def flip_in_index(directory: Path, rng: np.random.Generator) -> str:
    index = index_path(a_tar(directory, rng))
    place, bit = int(rng.integers(index.stat().st_size)), int(rng.integers(8))
    flipped(index, place, bit)
    return f"bit {bit} of byte {place} of {index.name} flipped"


def truncate_index(directory: Path, rng: np.random.Generator) -> str:
    index = index_path(a_tar(directory, rng))
    with open(index, "r+b") as file:
        file.truncate(int(rng.integers(index.stat().st_size)))
    return f"{index.name} cut"


def flip_in_info(directory: Path, rng: np.random.Generator) -> str:
    info = directory / "dataset.json"
    flipped(info, int(rng.integers(info.stat().st_size)), int(rng.integers(8)))
    return "dataset.json changed"


def remove_tar(directory: Path, rng: np.random.Generator) -> str:
    tar = a_tar(directory, rng)
    tar.unlink()
    return f"{tar.name} removed"


def remove_index(directory: Path, rng: np.random.Generator) -> str:
    index = index_path(a_tar(directory, rng))
    index.unlink()
    return f"{index.name} removed"


def empty_tar(directory: Path, rng: np.random.Generator) -> str:
    tar = a_tar(directory, rng)
    tar.write_bytes(b"" if rng.integers(2) else bytes(10240))
    return f"{tar.name} emptied"


def swap_tars(directory: Path, rng: np.random.Generator) -> str:
    one, other, *_ = rng.permutation(sorted(directory.glob("*.tar")))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return f"{one.name} and {other.name} exchanged"


def append_to_tar(directory: Path, rng: np.random.Generator) -> str:
    tar = a_tar(directory, rng)
    with open(tar, "ab") as file:
        file.write(rng.bytes(int(rng.integers(1, 2000))))
    return f"something appended to {tar.name}"


def overwrite_stretch(directory: Path, rng: np.random.Generator) -> str:
    tar = a_tar(directory, rng)
    data = bytearray(tar.read_bytes())
    start = int(rng.integers(len(data)))
    stretch = rng.bytes(min(len(data) - start, int(rng.integers(1, 4096))))
    data[start : start + len(stretch)] = stretch
    tar.write_bytes(data)
    return f"{len(stretch)} bytes of {tar.name} overwritten at {start}"


BEFORE: tuple[Damage, ...] = (truncate_tar, flip_in_tar, empty_tar, append_to_tar, overwrite_stretch, remove_tar)
AFTER: tuple[Damage, ...] = (
    *(truncate_tar, flip_in_tar, flip_in_image, blank_end_of_image, flip_in_label, flip_in_index, truncate_index),
    *(flip_in_info, remove_tar, remove_index, empty_tar, swap_tars, append_to_tar, overwrite_stretch),
)
DURING: tuple[Damage, ...] = (truncate_tar, remove_tar, overwrite_stretch, blank_end_of_image)


def test_the_sound_data_set_is_sound(sound):
    assert verify(sound).sound
    fed = feed(sound)
    assert fed == Fed(SAMPLES, 0, frozenset(hash_of(f"s{n:03d}") for n in range(SAMPLES)), "", fed.steps)


def struck(case: int, sound: Path, tmp_path: Path, kinds: tuple[Damage, ...]) -> tuple[Path, str]:
    directory = shutil.copytree(sound, tmp_path / f"case-{case}")
    rng, damage = np.random.default_rng(case), kinds[case % len(kinds)]
    return directory, with_old_times(directory, lambda: damage(directory, rng))


def with_old_times(directory: Path, damage: Callable[[], str]) -> str:
    """Do the damage as a bad disk would: a tar newer than its index would be refused for that alone."""
    before = {path: path.stat() for path in directory.iterdir()}
    words = damage()
    for path, stat in before.items():
        if path.exists():
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return words


def check_error(error: str, directory: Path, damage: str) -> None:
    """One line or two that name the place."""
    assert 20 < len(error) < 1500, (damage, error)
    assert "Traceback" not in error
    assert directory.name in error or ".tar" in error or "dataset.json" in error, (damage, error)


@pytest.mark.parametrize("cases", parts("before", 4))
def test_damage_before_indexing(sound, tmp_path, cases):
    """Either indexing tells the damage, or what it took is sound and nothing is missing without being said."""
    for case in cases:
        directory, damage = struck(case, sound, tmp_path, BEFORE)
        for index in directory.glob("*.index.arrow"):
            index.unlink()
        (directory / "dataset.json").unlink()
        try:
            info = index_directory(directory, [f"class {c}" for c in range(CLASSES)])
        except UserError as error:
            check_error(str(error), directory, damage)
            continue
        removed = SAMPLES // SHARDS * (SHARDS - len(info.shards))
        assert info.samples == SAMPLES - removed or info.warnings, damage
        fed = feed(directory)
        assert fed.error or fed.samples == info.samples // BATCH * BATCH, damage
        verdict = verify(directory)
        assert len(verdict.undecodable) == fed.holes or fed.error, (damage, verdict)
        assert not verdict.problems, (damage, verdict.problems)
        shutil.rmtree(directory)


@pytest.mark.parametrize("cases", parts("after", 6))
def test_damage_after_indexing(sound, tmp_path, cases):
    """`verify` names whatever differs; an epoch ends in an error, in counted holes, or has fed every sample."""
    for case in cases:
        directory, damage = struck(case, sound, tmp_path, AFTER)
        changed = any(
            path.read_bytes() != (directory / path.name).read_bytes() if (directory / path.name).exists() else True
            for path in sound.iterdir()
        )
        fed = feed(directory)
        if fed.error:
            check_error(fed.error, directory, damage)
        else:
            assert fed.samples == SAMPLES, damage
        try:
            verdict = verify(directory)
        except UserError as error:
            check_error(str(error), directory, damage)
            continue
        if fed.error or fed.holes:
            assert not verdict.sound, (damage, fed)
        if verdict.sound and changed:
            assert harmless(directory, sound), damage
        shutil.rmtree(directory)


def harmless(directory: Path, sound: Path) -> bool:
    """Whether the damage lies where nothing is read: between members, in the texts of dataset.json or of an index."""
    one, other = Dataset.open(directory), Dataset.open(sound)
    same = one.digest == other.digest and one.keys.equals(other.keys) and np.array_equal(one.label, other.label)
    samples = all(
        (directory / name).read_bytes()[start : start + size] == (sound / name).read_bytes()[start : start + size]
        for name in other.shard_names
        for start, size in members(sound / name, sound)
    )
    return same and samples


@pytest.mark.parametrize("cases", parts("during", 2))
def test_damage_while_training(sound, tmp_path, cases):
    """The epoch ends in an error that names the tar, in counted holes, or is fed whole (what was read ahead is)."""
    for case in cases:
        directory = shutil.copytree(sound, tmp_path / f"case-{case}")
        rng, damage = np.random.default_rng(case), DURING[case % len(DURING)]
        fed = feed(directory, partial(with_old_times, directory, partial(damage, directory, rng)))
        if fed.error:
            check_error(fed.error, directory, damage.__name__)
        else:
            assert fed.samples == SAMPLES, damage.__name__
        shutil.rmtree(directory)


def test_there_are_five_hundred():
    assert sum(CASES.values()) == 500
