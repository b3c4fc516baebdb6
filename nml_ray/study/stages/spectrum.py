"""The spectrum stage: singular values, SVE and LSVR of every split from the sums taken during extraction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nml_ray.analysis import spectrum
from nml_ray.features.sums import Sums, merged
from nml_ray.storage.atomic import write_json
from nml_ray.study.task import Context, Task

SPECTRUM_FILE = "spectrum.json"


def run(tasks: Sequence[Task], context: Context) -> None:
    """Write spectrum.json: split to transform to count, singular_values (descending), sve, lsvr."""
    for task in tasks:
        write_json(task.attempt.path / SPECTRUM_FILE, spectra(task.inputs["extract"].path))
        task.attempt.finish()


def spectra(directory: Path) -> dict[str, dict[str, Any]]:
    """The spectra of all splits below a directory of extracted features."""
    splits = sorted({path.parent.name for path in directory.glob("*/*.sums.npz")})
    return {split: _split(sorted((directory / split).glob("*.sums.npz"))) for split in splits}


def _split(paths: Sequence[Path]) -> dict[str, Any]:
    sums = merged(paths)
    return {name: _measures(sums, name) for name in sums.transforms}


def _measures(sums: Sums, transform: str) -> dict[str, Any]:
    values = spectrum.singular_values(sums.gram[transform], sums.count)
    return {
        "count": sums.count,
        "singular_values": values.tolist(),
        "sve": spectrum.sve(values),
        "lsvr": spectrum.lsvr(values),
    }
