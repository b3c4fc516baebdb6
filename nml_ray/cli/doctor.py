"""`nml-ray doctor`: what this machine can do, and what holds a job back on it."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nml_ray.cli.options import open_job
from nml_ray.config.errors import UserError
from nml_ray.storage.mirror import working_root
from nml_ray.storage.shard_cache import size_text

if TYPE_CHECKING:
    from nml_ray.study.doctor.examine import Examination
    from nml_ray.study.doctor.verdict import Rates, Verdict, Work

BAR = 30  # characters


@click.command()
@click.argument("job", metavar="[JOB]", required=False)
@click.option(
    "--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Override a setting of the job. May be repeated."
)
@click.option("--storage", metavar="DIR", help="Where artifacts lie; the job's run.storage, or runs, when left out.")
@click.option("--data", metavar="DIR", help="Indexed tars to measure with, in place of the job's training set.")
@click.option(
    "--seconds", type=click.FloatRange(0.5), default=15.0, show_default=True, help="Of all measures together, about."
)
@click.option("--json", "file", metavar="FILE", type=click.Path(path_type=Path), help="Write all numbers as JSON.")
def doctor(
    job: str | None,
    assignments: tuple[str, ...],
    storage: str | None,
    data: str | None,
    seconds: float,
    file: Path | None,
) -> None:
    """Measure this machine: cores, memory, disks, decoding, GPU. With a JOB, say what holds it back and what to change.

    For a job, real training steps, its loader and its disk are timed for a few seconds; from those numbers come the
    bottleneck (read, decode, copy, compute, or too few cores for both of decode and compute), the hours of the whole
    job, and every change that would save a twentieth of them. Nothing is trained or kept. Other programs that run at
    the same time make the numbers smaller.

    \b
    Examples:
      nml-ray doctor
      nml-ray doctor demo
      nml-ray doctor my.yaml --set run.decode_threads=4 --seconds 60
      nml-ray doctor --data /data/imagenet-tars --json machine.json
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as a run has it; read when torch is imported
    from nml_ray.study.doctor.examine import examine

    if assignments and job is None:
        raise UserError("there is no job to change", where="--set", expected="JOB too")
    settings = open_job(job, assignments, storage) if job else None
    place = working_root(settings.run.storage, settings.run.scratch) if settings else working_root(storage or "runs")
    began = time.monotonic()
    try:
        found = examine(settings, data, place, seconds, lambda what: click.echo(f"measuring {what}", err=True))
    except OSError as error:
        reason = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        raise UserError(f"cannot be measured: {reason}", where=str(place), expected="a disk to write to") from None
    click.echo(f"measured in {time.monotonic() - began:.0f} s\n", err=True)
    for line in lines(found, settings.name if settings else ""):
        click.echo(line)
    if file:
        try:
            file.write_text(found.as_json(), encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot be written ({error.strerror})", where=f"--json {file}") from None


def lines(found: "Examination", job: str) -> Iterator[str]:
    """What is shown."""
    yield from _machine_lines(found)
    if found.data:
        yield f"data      {found.data.directory}: {found.data.samples:,} images of {size_text(found.data.bytes_each)}"
        yield f"          one thread decodes {found.data.decode:,.0f} of them a second, without crop and resize"
    if found.rates and found.work and found.verdict:
        yield ""
        yield from _job_lines(job, found.rates, found.work, found.verdict)
    if found.extraction:
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in found.extraction.items() if name != "hours")
        yield f"extraction: {_time(found.extraction['hours'])} (images/s of a forward pass: {rates})"
    yield from (f"note: {note}" for note in found.notes)


def _machine_lines(found: "Examination") -> Iterator[str]:
    quota = "no quota" if found.cores.quota is None else f"quota {found.cores.quota:g}"
    yield f"cores     {found.cores.usable:g} usable ({found.cores.allowed} allowed, {quota})"
    yield f"memory    {size_text(found.memory.total)}, {size_text(found.memory.available)} available"
    gpu = found.gpu
    yield (
        f"GPU       {gpu.name}, {size_text(gpu.memory)}, copies {size_text(gpu.copy)}/s" if gpu else "GPU       no GPU"
    )
    for disk in found.disks:
        write = f", writes {size_text(disk.write)}/s" if disk.write else ""
        doubt = " (from memory: its cache cannot be emptied)" if disk.from_memory else ""
        free = f"{size_text(disk.free)} free, " if disk.free else ""
        yield f"disk      {disk.path}"
        yield f"          {free}reads {size_text(disk.cold)}/s cold{doubt}, {size_text(disk.warm)}/s warm{write}"
    size = size_text(found.photo_bytes)
    yield f"decoding  photographs of 500x375, {size}: {found.photo_decode:,.0f}/s by one thread;"
    yield "          with random crop to 224 and flip, images/s:"
    most = max(found.photo_loader.values())
    for threads, rate in found.photo_loader.items():
        times = f"  {rate / found.photo_loader[1]:.1f} x" if threads > 1 else ""
        name = f"{threads:>3} thread{'s' if threads > 1 else ' '}"
        yield f"          {name} {rate:>8,.0f}  {'#' * _length(rate, most)}{times}"


def _job_lines(job: str, rates: "Rates", work: "Work", verdict: "Verdict") -> Iterator[str]:
    arms = work.arms_per_worker
    yield (
        f"job {job}: {rates.workers} worker(s) of {rates.threads} computing and {rates.decode_threads} decoding "
        f"thread(s), {arms} arm(s) each"
    )
    yield "what each part of a worker allows, images/s (bars: each # is a factor of 1.4):"
    least = min(verdict.limits.values())
    for part, rate in verdict.limits.items():
        mark = "  <- bottleneck" if part == verdict.bottleneck else ""
        yield f"  {part:<8} {rate:>10,.0f}  {'#' * _steps(rate, least)}{mark}"
    yield f"bottleneck: {verdict.bottleneck}: {verdict.reason}"
    runs = f"{work.seeds} seed(s) x {work.arms} arm(s) x {work.epochs} epoch(s)"
    yield f"pre-training: {verdict.images:,.0f} images/s, {_time(verdict.hours)} for {runs}"
    if not verdict.advice:
        yield "what to change: nothing that was measured saves a twentieth of the time on this machine"
        return
    yield "what to change, each by itself:"
    for one in verdict.advice:
        yield f"  {_time(one.hours):>8}, {one.images:,.0f} images/s: {one.change}"


def _length(rate: float, most: float) -> int:
    return max(1, round(BAR * rate / most))


def _steps(rate: float, least: float) -> int:
    """A logarithmic bar: rates differ by orders of magnitude."""
    return min(2 * BAR, 1 + round(math.log(max(rate / least, 1), 1.4)))


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:,.1f} h"
