"""A storage with artifacts that are ten days old, of which studies name some."""

import os
import time
from pathlib import Path

from nml_ray.storage.artifact import Store
from nml_ray.storage.atomic import write_json
from nml_ray.study.garbage_scan import scan

OLD = time.time() - 10 * 86400


def digest(number: int) -> str:
    return f"{number:016x}"


def make(store: Store, kind: str, number: int, size: int = 100, finished: bool = True, **facts) -> Path:
    """An artifact, ten days old."""
    attempt = store.attempt(kind, digest(number), **facts)
    (attempt.path / "deep").mkdir()
    (attempt.path / "deep/data").write_bytes(b"x" * size)
    if finished:
        attempt.finish()
    grow_old(store)
    return attempt.path


def grow_old(store: Store) -> None:
    for path in store.root.rglob("*"):
        if path.is_file():
            os.utime(path, (OLD, OLD), follow_symlinks=False)


def study(store: Store, name: str, *keys: tuple[str, int]) -> Path:
    directory = store.root / "studies" / name
    directory.mkdir(parents=True, exist_ok=True)
    entries = {f"{kind}/{number}": {"kind": kind, "digest": digest(number), "state": "to do"} for kind, number in keys}
    write_json(directory / "stages.json", entries)
    return directory


def there(store: Store) -> set[tuple[str, int]]:
    return {(one.kind, int(one.digest, 16)) for one in scan(store) if one.files}


def two_arms(root: Path) -> Store:
    """Two arms of which a study names one, with what they were made from, and leftovers."""
    store = Store(root)
    make(store, "shards", 1)
    for number in (2, 3):
        make(store, "pretrain", number, inputs={"shards": f"shards/{digest(1)}"})
        make(store, "extract", number + 10, inputs={"encoder": f"pretrain/{digest(number)}"})
    study(store, "s", ("extract", 12))
    return store
