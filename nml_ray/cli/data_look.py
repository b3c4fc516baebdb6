"""`nml-ray data verify` and `nml-ray data inspect`: what a data set is like."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nml_ray.cli.data_shard import progress_lines
from nml_ray.config.errors import UserError
from nml_ray.storage.shard_cache import size_text

if TYPE_CHECKING:
    from nml_ray.data.dataset import Dataset
    from nml_ray.data.summary import Spread, Summary
    from nml_ray.data.verify import Verdict

_DIRECTORY = click.argument("directory", metavar="DIR")


@click.command()
@_DIRECTORY
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--no-decode", is_flag=True, help="Leave out the decoding of every image.")
@click.option("--mark-bad", is_flag=True, help="Exclude undecodable images (known_bad of dataset.json).")
def verify(directory: str, workers: int, no_decode: bool, mark_bad: bool) -> int:
    """Check the data set in DIR: every tar against its index, digests, counts, keys, labels, and every image.

    Exit code 1 when something is wrong. Undecodable images are named; --mark-bad excludes them from then on, which
    changes the data's digest.

    \b
    Examples:
      nml-ray data verify /data/flowers --workers 4
      nml-ray data verify /data/flowers --mark-bad
      nml-ray data verify s3://bucket/flowers --no-decode
    """
    from nml_ray.data.verify import verify as look

    verdict = look(
        directory, decode=not no_decode, mark_bad=mark_bad, workers=workers, progress=progress_lines("samples")
    )
    _tell(verdict, directory, decoded=not no_decode)
    return 0 if verdict.sound else 1


def _tell(verdict: "Verdict", directory: str, decoded: bool) -> None:
    from nml_ray.data.verify import CHECKS

    what = dict(
        zip(CHECKS, ("there and of their size", "there and fit", "as indexed", "in range"), strict=False),
        keys="unique",
        digest="as stated",
        images="can be decoded",
    )
    for check in CHECKS:
        wrong = sum(problem.count for problem in verdict.problems if problem.check == check)
        if check == "images":
            wrong = len(verdict.undecodable)
            if not decoded:
                click.echo(f"  {check:<8} {what[check]:<24} not looked at")
                continue
        state = f"{wrong:,} wrong" if wrong else "sound"
        click.echo(f"  {check:<8} {what[check]:<24} {verdict.looked_at[check]:>12,} looked at  {state}")
    for problem in verdict.problems:
        click.echo(f"{problem.check}: {problem.where}: {problem.what}")
    for one in verdict.undecodable:
        click.echo(f"images: {one.shard}: key '{one.key}' cannot be decoded ({one.reason})")
    if verdict.known_bad:
        click.echo(f"  {verdict.known_bad:,} samples are known to be bad and excluded")
    if verdict.mended:
        click.echo(f"  {len(verdict.mended):,} of them can be decoded (the first is '{verdict.mended[0]}')")
    if verdict.marked:
        click.echo(f"excluded from now on: {len(verdict.undecodable):,} undecodable images")
    elif verdict.undecodable and not verdict.problems:
        click.echo(f"to exclude them: nml-ray data verify {directory} --mark-bad")
    elif verdict.problems:
        click.echo(f"after mending it, or to accept the tars as they are: nml-ray data index {directory}")


@click.command()
@_DIRECTORY
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True, help="Batch for which mixing is told.")
@click.option("--lanes", type=click.IntRange(1), metavar="N", help="Lanes for which it is told; as order.lanes.")
@click.option("--shuffle-block", type=click.IntRange(1), default=4096, show_default=True, help="Likewise.")
@click.option("--sheet", metavar="FILE", type=click.Path(path_type=Path), help="Write a contact sheet (PNG).")
def inspect(directory: str, batch: int, lanes: int | None, shuffle_block: int, sheet: Path | None) -> None:
    """Tell what is in the data set in DIR: samples, classes, sizes, captions, shards, and how well they are mixed.

    \b
    Examples:
      nml-ray data inspect /data/flowers
      nml-ray data inspect /data/flowers --sheet flowers.png --batch 1024
    """
    from nml_ray.data.dataset import Dataset
    from nml_ray.data.summary import summarise

    dataset = Dataset.open(directory)
    if not len(dataset.good):
        raise UserError("has no good sample", where=directory, expected="at least one")
    for name, text in _lines(dataset, summarise(dataset, batch, lanes, shuffle_block)):
        click.echo(f"{name:<9} {text}")
    if sheet:
        from nml_ray.data.sheet import contact_sheet

        try:
            contact_sheet(dataset).save(sheet, "PNG")
        except OSError as error:
            raise UserError(f"cannot be written ({error.strerror})", where=f"--sheet {sheet}") from None
        click.echo(f"{'sheet':<9} {sheet}")


def _lines(dataset: "Dataset", summary: "Summary") -> list[tuple[str, str]]:
    from nml_ray.data.index import TEXT

    excluded = f", {summary.known_bad:,} of them known to be bad and excluded" if summary.known_bad else ""
    lines = [("samples", f"{summary.samples:,}{excluded}"), ("digest", dataset.digest)]
    lines += [
        (name, text) for name, text in (("source", dataset.info.source), ("licence", dataset.info.licence)) if text
    ]
    lines += _class_lines(dataset, summary)
    if summary.caption_words:
        lines.append(("captions", f"{summary.captions:,}, of {_range(summary.caption_words)} words"))
    else:
        lines.append(("captions", "none"))
    formats = ", ".join(f"{count:,} {name}" for name, count in summary.formats.items())
    if dataset.info.image == TEXT:
        lines.append(("texts", _range(summary.image_bytes, "B")))
    else:
        lines.append(("images", f"{formats}; {_range(summary.image_bytes, 'B')}"))
        sides = "; ".join(f"{name} {_range(values)}" for name, values in summary.sides.items())
        modes = ", ".join(f"{count:,} {name}" for name, count in summary.modes.items())
        lines.append(("pixels", f"{sides}; {modes} (from {summary.looked_at:,} images)"))
    lines.append(
        (
            "shards",
            f"{summary.shards:,}, of {_range(summary.shard_samples)} samples, {_range(summary.shard_bytes, 'B')}",
        )
    )
    if dataset.info.key_prefix:
        lines.append(("keys", "made unique by the names of the tars: noise depends on the sharding"))
    lines += [("warning", warning) for warning in dataset.info.warnings]
    if summary.mixing and len(dataset.classes) > 1:
        lines += summary.mixing.lines(str(dataset.directory))
    return lines


def _class_lines(dataset: "Dataset", summary: "Summary") -> list[tuple[str, str]]:
    import numpy as np

    sizes = summary.class_sizes
    if not summary.labelled:
        return [("classes", f"{len(sizes)}, no sample has a label" if len(sizes) else "none")]
    empty = int((sizes == 0).sum())
    middle = f"{sizes.min():,} to {sizes.max():,} samples each, median {np.median(sizes):,.0f}"
    bare = f", {empty} without any" if empty else ""
    lines = [("classes", f"{len(sizes):,}, {middle}{bare}")]
    order = np.argsort(-sizes, kind="stable")
    named = [f"{dataset.classes[c]} {sizes[c]:,}" for c in order]
    if len(named) > 12:
        named = [*named[:5], "...", *named[-5:]]
    lines.append(("", ", ".join(named)))
    unlabelled = summary.samples - summary.known_bad - summary.labelled
    if unlabelled:
        lines.append(("", f"{unlabelled:,} samples have no label"))
    return lines


def _range(spread: "Spread", unit: str = "") -> str:
    show = size_text if unit else lambda number: f"{number:,.0f}"
    if spread.least == spread.most:
        return show(spread.most)
    return f"{show(spread.least)} to {show(spread.most)} (median {show(spread.median)})"
