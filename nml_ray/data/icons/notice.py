"""The notice that goes with the icons: who drew them, under which licence, and the licences' texts."""

from collections.abc import Sequence
from pathlib import Path

from nml_ray.data.icons.families import PERMITTED, Family

TEXTS = Path(__file__).parent / "licences"

HEAD = """# Notice for the icons in icons.parquet

`icons.parquet` holds drawings of the icon families listed here, taken from the npm package {package}.
Every drawing was changed in the same way: rasterised to 32 px grey (a 32 x 32 PNG on white).
No author endorses this use.
The package states an author for each family and no year; the copyright lines below say what it states.
Each family's licence is named by its SPDX identifier; the texts follow once each.

## Families
"""


def _entry(family: Family) -> str:
    version = family.version or "not stated"
    return "\n".join(
        [
            f"### {family.title} (`{family.prefix}`)",
            "",
            f"- Author: {family.author}",
            f"- Source: {family.url or 'not stated'}",
            f"- Version: {version}",
            f"- SPDX-License-Identifier: {family.spdx}" + (f" ({family.licence_url})" if family.licence_url else ""),
            f"- Copyright (c) {family.author}",
            "- Changes: rasterised to 32 px grey",
            "",
        ]
    )


def text(families: Sequence[Family], package: str) -> str:
    """The notice in Markdown.

    :param families: the families that occur in the data set.
    :param package: name and version of the npm package.
    """
    parts = [HEAD.format(package=package)]
    parts += [_entry(family) for family in sorted(families, key=lambda family: family.prefix)]
    parts.append("## Licences\n")
    used = {family.spdx for family in families}
    for spdx in PERMITTED:
        if spdx in used:
            licence = (TEXTS / f"{spdx}.txt").read_text(encoding="utf-8").strip()
            parts.append(f"### {spdx}\n\n```text\n{licence}\n```\n")
    return "\n".join(parts)
