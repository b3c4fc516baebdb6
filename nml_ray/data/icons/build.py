"""Builds the icons and their notice from the npm package: `python -m nml_ray.data.icons.build PACKAGE_DIR OUT`."""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nml_ray.data.icons import choose, families, notice, render, vocabulary
from nml_ray.data.icons.likeness import ALIKE, alike_families, normalised

PACKAGE = "@iconify/json"
COLUMNS = ("key", "png", "class", "caption", "family", "domain", "split")
SCHEMA = pa.schema([(name, pa.binary() if name == "png" else pa.string()) for name in COLUMNS])


@dataclass(frozen=True)
class Drawing:
    """An icon taken and rendered."""

    icon: choose.Candidate
    domain: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Package:
    """The part of the npm package that may be used."""

    root: Path
    version: str
    families: dict[str, families.Family]

    def read(self, prefix: str) -> dict[str, Any]:
        """The Iconify JSON of one family."""
        data: dict[str, Any] = json.loads((self.root / "json" / f"{prefix}.json").read_text(encoding="utf-8"))
        return data


def open_package(root: Path) -> Package:
    """The unpacked npm package at `root`."""
    collections = json.loads((root / "collections.json").read_text(encoding="utf-8"))
    manifest = json.loads((root / "package.json").read_text(encoding="utf-8"))
    used = {prefix: families.family_of(prefix, collections[prefix]) for prefix in families.permitted(collections)}
    return Package(root, manifest["version"], used)


def candidates_of(package: Package) -> list[choose.Candidate]:
    """Every icon of the permitted families that has a class; retired ones and aliases are left out."""
    names = {}
    for prefix in package.families:
        icons: Mapping[str, Mapping[str, Any]] = package.read(prefix)["icons"]
        names[prefix] = [name for name, icon in icons.items() if not icon.get("hidden")]
    return choose.candidates(names)


def domain_of(icon: choose.Candidate, family: families.Family) -> str:
    """Drawing style of an icon: emoji or colour by its family, else by words."""
    if family.emoji:
        return "emoji"
    return "colour" if family.coloured else vocabulary.style(icon.name, f"{family.prefix} {family.title}")


def draw(package: Package, icons: Iterable[choose.Candidate]) -> list[Drawing]:
    """The icons rendered, without blank ones, sorted by key."""
    drawings = []
    opened: tuple[str, dict[str, Any]] = ("", {})
    for icon in sorted(icons, key=lambda icon: icon.key):
        if opened[0] != icon.family:
            opened = icon.family, package.read(icon.family)
        pixels = render.rasterise(render.svg_of(opened[1]["icons"][icon.name], opened[1]))
        if not render.is_blank(pixels):
            drawings.append(Drawing(icon, domain_of(icon, package.families[icon.family]), pixels))
    return drawings


def distinct(drawings: Iterable[Drawing]) -> list[Drawing]:
    """The drawings without exact duplicates: the first by key stays."""
    first: dict[bytes, Drawing] = {}
    for drawing in drawings:
        first.setdefault(drawing.pixels.tobytes(), drawing)
    return list(first.values())


def groups_of(package: Package, drawings: list[Drawing]) -> dict[str, str]:
    """Group of every family that has a drawing: related by author, name, descent or drawings, duplicates included."""
    prefixes = sorted({drawing.icon.family for drawing in drawings})
    vectors = np.stack([normalised(drawing.pixels) for drawing in drawings])
    labels = [drawing.icon.label for drawing in drawings]
    alike = alike_families(vectors, labels, [drawing.icon.family for drawing in drawings])
    declared = families.declared_links(package.families[prefix] for prefix in prefixes)
    return families.groups(prefixes, declared + [(a, b) for a, b, _ in alike])


def splits_of(drawings: list[Drawing], downstream: frozenset[str], groups: Mapping[str, str]) -> list[str | None]:
    """Split of each drawing, None for those that belong nowhere.

    The coloured twin of a drawing that a related family has in train is left out: it would not be out of domain.
    """
    sizes = Counter(
        groups[drawing.icon.family]
        for drawing in drawings
        if drawing.icon.label in downstream and drawing.domain not in choose.OUT_OF_DOMAIN
    )
    of_group = choose.split_of_groups(sizes)
    splits = [
        choose.split_of(drawing.icon.label, drawing.domain, groups[drawing.icon.family], downstream, of_group)
        for drawing in drawings
    ]
    ood = [place for place, split in enumerate(splits) if split == "ood"]
    train = [place for place, split in enumerate(splits) if split == "train"]
    vectors = {place: normalised(drawings[place].pixels) for place in ood + train}
    marks = {place: (drawings[place].icon.label, groups[drawings[place].icon.family]) for place in ood + train}
    for place in ood:
        twins = [vectors[other] for other in train if marks[other] == marks[place]]
        if twins and float((np.stack(twins) @ vectors[place]).max()) >= ALIKE:
            splits[place] = None
    return splits


def table_of(drawings: list[Drawing], classes: list[str], groups: Mapping[str, str]) -> pa.Table:
    """The data set, sorted by split and key; the schema's metadata hold the group of each family."""
    rows = []
    splits = splits_of(drawings, frozenset(choose.downstream_classes(classes)), groups)
    for drawing, split in zip(drawings, splits, strict=True):
        if split is not None:
            icon, png = drawing.icon, render.png_of(drawing.pixels)
            caption = vocabulary.caption(icon.name)
            rows.append((split, icon.key, png, icon.label, caption, icon.family, drawing.domain))
    rows.sort(key=lambda row: row[:2])
    names = ("split", "key", "png", "class", "caption", "family", "domain")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    kept = {prefix: group for prefix, group in sorted(groups.items()) if prefix in set(columns["family"])}
    return pa.table(columns, SCHEMA).replace_schema_metadata({"groups": json.dumps(kept)})


def write(table: pa.Table, path: Path) -> None:
    """The table as one Parquet file whose bytes depend on the table and pyarrow's version alone."""
    plain = ["key", "png", "caption"]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table.column_names if name not in plain],
        column_encoding={"key": "DELTA_BYTE_ARRAY", "caption": "DELTA_BYTE_ARRAY"},
        write_statistics=False,
        row_group_size=len(table),
    )


def build(root: Path) -> tuple[pa.Table, str]:
    """The data set and the text of its notice, from the unpacked package at `root`."""
    package = open_package(root)
    icons = candidates_of(package)
    classes = choose.most_spread(icons)
    drawings = draw(package, choose.take(icons, classes))
    table = table_of(distinct(drawings), classes, groups_of(package, drawings))
    used = sorted(set(table["family"].to_pylist()))
    return table, notice.text([package.families[prefix] for prefix in used], f"{PACKAGE} {package.version}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help=f"the unpacked npm package {PACKAGE}, with collections.json")
    parser.add_argument("out", type=Path, help="folder for icons.parquet and NOTICE.md")
    options = parser.parse_args()
    table, text = build(options.package)
    options.out.mkdir(parents=True, exist_ok=True)
    write(table, options.out / "icons.parquet")
    (options.out / "NOTICE.md").write_text(text, encoding="utf-8")
    print(json.dumps(Counter(table["split"].to_pylist())))


if __name__ == "__main__":
    main()
