"""Remote cases of the five hundred (see `test_fuzz`): an object store that fails, or whose objects are damaged.

What passes ends with exactly the local batches. What does not is an error that names the place, a counted hole, or,
where the damage came too late to matter or lies where nothing is read, the local batches again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nml_ray.data import remote_files, remote_indexing
from nml_ray.storage import patience, remote, shard_cache
from nml_ray.storage.link import Link
from nml_ray.storage.location import Location
from nml_ray.storage.patience import Patience
from tests.fuzzing import CASES, Fed, feed, parts, write_sound
from tests.object_store import Bucket, Fault

pytestmark = pytest.mark.long

EPOCHS = 2
ENDINGS = (".tar", ".index.arrow", "dataset.json", "")  # "": every request, listings too
WEIGHTS = {False: (0.35, 0.25, 0.15, 0.25), True: (0.6, 0.1, 0.1, 0.2)}  # of the endings; True: while it is fed
QUICK_PART, *SLOW_PARTS = parts("remote", 4)
PASSING, LASTING, OBJECTS = "a fault that passes", "a fault that stays", "damaged objects"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_sound(tmp_path_factory.mktemp("sound") / "data")


@pytest.fixture(scope="module")
def local(sound) -> Fed:
    return feed(sound, epochs=EPOCHS)


@dataclass
class Store:
    """A sound data set on an object store, and the chance of a case."""

    bucket: Bucket
    url: Location
    sound: Path
    rng: np.random.Generator
    during: bool

    def an_ending(self) -> str:
        """Of the paths that a case is about."""
        return str(self.rng.choice(ENDINGS, p=WEIGHTS[self.during]))

    def put(self, name: str, data: bytes, aside: Path) -> None:
        """Replace an object."""
        (aside / "object").write_bytes(data)
        remote.upload(aside / "object", self.url / name)

    def a_file(self, ending: str) -> str:
        """The name of one of the objects with an ending."""
        names = sorted(path.name for path in self.sound.iterdir() if path.name.endswith(ending))
        return names[self.rng.integers(len(names))]


def a_fault(store: Store, passing: bool) -> tuple[str, Callable[[], None]]:
    """A fault of the store's answers, and what makes it begin."""
    rng, ending = store.rng, store.an_ending()
    kinds = {
        "dropped in the body": Fault(keep=int(rng.integers(0, 2000))),
        "cut": Fault(keep=int(rng.integers(0, 2000)), short=True),
        "busy": Fault(status=503),
        "broken": Fault(status=500),
        **({"slow": Fault(delay=float(rng.uniform(0.01, 0.05)))} if passing else {"denied": Fault(status=403)}),
    }
    kind = list(kinds)[rng.integers(len(kinds))]
    first, seen = int(rng.integers(0, 3)), dict[tuple[str, str], int]()
    times = 1 if kind == "cut" else int(rng.integers(1, 4))  # what is short is taken for another object the second time

    def spoil(method: str, path: str) -> Fault | None:
        asked = method, path.partition("?")[0]
        if not asked[1].endswith(ending) or (kind in ("dropped in the body", "cut") and method != "GET"):
            return None
        seen[asked] = seen.get(asked, 0) + 1
        struck = first < seen[asked] <= first + times if passing and kind != "slow" else True
        return kinds[kind] if struck else None

    def begin() -> None:
        store.bucket.faults.spoil = spoil

    return f"{kind}: {ending or 'everything'}", begin


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data)))
    stretch = rng.bytes(min(len(data) - start, int(rng.integers(1, 4096))))
    return data[:start] + stretch + data[start + len(stretch) :]


def damaged_object(store: Store, aside: Path) -> tuple[str, Callable[[], None], str]:
    """One object of the data set removed, or replaced by something else; what does it; its name."""
    name, change = store.a_file(store.an_ending() or ".tar"), (None, flip, cut, overwrite)[store.rng.integers(4)]

    def strike() -> None:
        if change is None:
            remote.remove(store.url / name)
        else:
            store.put(name, change((store.sound / name).read_bytes(), store.rng), aside)

    return f"{name} {change.__name__ if change else 'removed'}", strike, name


def settle(monkeypatch, seconds: float) -> None:
    """How long passing errors are tried again; and no time is lost on looks for room in the cache."""
    monkeypatch.setattr(shard_cache, "_LOOK", 0.005)
    little = Patience(first=0.005, most=0.01, total=seconds)
    monkeypatch.setattr(patience, "PATIENCE", little)
    for module in (remote_files, remote_indexing):
        monkeypatch.setattr(module, "QUICK", little)


def check_error(error: str, damage: str) -> None:
    """A line or two that name the place."""
    assert 20 < len(error) < 1500 and "Traceback" not in error, (damage, error)
    assert "s3://" in error or "shard cache" in error, (damage, error)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("cases", [QUICK_PART, *(pytest.param(part, marks=pytest.mark.slow) for part in SLOW_PARTS)])
def test_damage_by_an_object_store(bucket: Bucket, sound, local, tmp_path, monkeypatch, cases):
    """A third each: faults that pass, faults that stay, objects that are damaged; half of them while it is fed."""
    url = bucket.put(sound, "data")
    whole = sum(path.stat().st_size for path in sound.iterdir())
    largest = max(path.stat().st_size for path in sound.iterdir())
    for case in cases:
        group, during = (PASSING, LASTING, OBJECTS)[case // 4 % 3], bool(case // 12 % 2)
        store = Store(bucket, url, sound, np.random.default_rng(case), during)
        if group == OBJECTS:
            damage, strike, changed = damaged_object(store, tmp_path)
        else:
            damage, strike = a_fault(store, group == PASSING)
        settle(monkeypatch, 5.0 if group == PASSING else 0.1)
        small = during or not store.rng.integers(4)  # tars are brought again and again, also after the damage
        limit = whole - largest if small else 2 * whole
        link = Link(str(url), str(tmp_path / f"cache-{case}"), f"{limit}B")
        if not during:
            strike()
        fed = feed(link, strike if during else None, EPOCHS)
        bucket.faults.spoil = lambda method, path: None
        words = f"case {case}, {group}, {damage}, {'during' if during else 'before'}, {'small' if small else 'large'}"
        if fed.error:
            assert group != PASSING, (words, fed.error)
            check_error(fed.error, words)
            assert fed.steps == local.steps[: len(fed.steps)] or fed.holes, words
        elif fed.holes:
            assert group == OBJECTS and fed.samples == local.samples, words
        else:
            assert fed == local, words
        if group == OBJECTS:
            store.put(changed, (sound / changed).read_bytes(), tmp_path)


def test_each_kind_of_remote_case_is_as_frequent():
    groups = [case // 4 % 3 for cases in (QUICK_PART, *SLOW_PARTS) for case in cases]
    assert len(groups) == CASES["remote"] and [groups.count(group) for group in range(3)] == [20, 20, 20]
