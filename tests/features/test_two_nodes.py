"""A node that dies in the middle of an extraction: its shards go to another, and the files are those of one process."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from nml_ray.features.extract import extract_all, facts_of
from nml_ray.features.plan import all_items
from nml_ray.features.store import read_split

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.kill]


def files(directory: str) -> dict[str, bytes]:
    root = Path(directory)
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def test_a_killed_node(make_plan, tmp_path):
    inline, on_ray = make_plan("inline"), make_plan("ray")
    items = all_items(inline)
    extract_all(inline, items, lambda images: None)
    (tmp_path / "plan.json").write_text(json.dumps(asdict(on_ray)))
    script = Path(__file__).with_name("two_nodes.py")
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, script, tmp_path / "plan.json"],
        env=environment,
        stdout=subprocess.PIPE,
        timeout=280,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == sorted(f"{item.split}/{item.shard}" for item in items)
    for place, (one, other) in enumerate(zip(inline.encoders, on_ray.encoders, strict=True)):
        assert files(one.attempt) == files(other.attempt)
        assert facts_of(on_ray, place, items)["samples"] == {"train": 23, "test": 5}
        assert set(Counter(read_split(Path(other.attempt), "train").keys).values()) == {1}
