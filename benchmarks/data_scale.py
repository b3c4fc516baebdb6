"""Order, noise, ledger and audit at the size of a web data set: 1,500 shards of 10,000 samples with captions.

    .venv/bin/python benchmarks/data_scale.py          writes benchmarks/results/data_scale.json and .md
    .venv/bin/python benchmarks/data_scale.py --shards 30 --no-write      a quick look

The index is synthetic: index files and dataset.json are as `nml-ray data index` leaves them, the tars are holes of the
right size (2 GB on disk in a temporary directory, removed at the end). Each figure is from a process of its own.
Memory is the peak of the process's resident set; "own" leaves out pages of mapped files, which the system takes back
when it needs them (sampled every 20 ms). Processor time is that of the whole process, imports and opening included.
Nothing is decoded or trained.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nml_ray.data.config import NoiseArm, OrderSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.dataset_info import DatasetInfo, ShardInfo, save_info
from nml_ray.data.draw import key_hashes
from nml_ray.data.index import _FACTS as FACTS
from nml_ray.data.index import FORMAT, SCHEMA, IndexOptions, index_checksum, index_path, write_index
from nml_ray.data.indexing import write_info
from nml_ray.data.labels import noise_ledger
from nml_ray.data.ledger import write_ledger
from nml_ray.data.schedule import Schedule
from nml_ray.study.record import machine, versions

RESULTS = Path(__file__).parents[1] / "benchmarks/results"
SHARD, CLASSES, BATCH, SEED = 10_000, 1000, 4096, 0
SYMMETRIC = NoiseArm("symmetric", "0.3", 0, {"count": "exact", "stratify": True, "over": "others"})
SWAP = NoiseArm("caption_swap", "0.3", 0)
ORDERS = {"full": OrderSettings(), "lanes": OrderSettings(kind="lanes")}
PAUSE = 0.004  # seconds between steps of the epoch that is run through: 15 s an epoch


def make(directory: Path, shards: int) -> None:
    """Write the synthetic data set."""
    directory.mkdir()
    infos = []
    for shard in range(shards):
        table = index_table(np.arange(shard * SHARD, (shard + 1) * SHARD))
        tar = directory / f"shard-{shard:06d}.tar"
        size = json.loads(table.schema.metadata[FACTS])["tar_bytes"]
        with open(tar, "wb") as file:
            file.truncate(size)
        write_index(table, index_path(tar))
        checksum = index_checksum(index_path(tar))
        infos.append(ShardInfo(name=tar.name, samples=SHARD, bytes=size, digest="0" * 64, index_crc32=checksum))
    classes = tuple(map(str, range(CLASSES)))
    save_info(directory, DatasetInfo(classes=classes, shards=tuple(infos), samples=shards * SHARD, digest="0" * 64))


def index_table(numbers: np.ndarray) -> pa.Table:
    """An index of samples of two members, a JPEG of 20 to 200 kB and a JSON of label and caption."""
    rows = len(numbers)
    keys = pc.utf8_lpad(pa.array(numbers * 3**18 % 10**9).cast(pa.string()), 9, "0")  # unsorted, unique
    hashes = key_hashes(keys.to_pylist())
    image = 20_000 + (hashes % 180_000).astype(np.int64)
    blocks = 512 * np.stack([-(-image // 512), np.ones(rows, np.int64)], axis=1)
    starts = np.cumsum([0, *(512 + blocks.ravel())])
    sizes = np.stack([image, np.full(rows, 60)], axis=1).ravel()
    members = pa.StructArray.from_arrays(
        [pa.array(["jpg", "json"] * rows), pa.array(starts[:-1] + 512), pa.array(sizes)],
        fields=list(SCHEMA.field("members").type.value_type),
    )
    caption = pa.array((hashes % (1 << 23)).astype(np.int64)).cast(pa.string())  # every other one comes twice
    columns: dict[str, Any] = {
        "key": keys,
        "key_hash": pa.array(hashes),
        "label": pa.array((hashes % CLASSES).astype(np.int64)),
        "caption": pc.binary_join_element_wise("Photograph", caption, " "),
        "members": pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * rows + 1, 2, dtype=np.int32)), members),
        "content": pa.Array.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(np.repeat(hashes, 2))]),
        "image": pa.array(np.zeros(rows, np.int32)),
        "header": pa.array(starts[:-1:2]),
    }
    facts: dict[str, Any] = {"format": FORMAT, "tar_bytes": int(starts[-1]) + 1024, "rows": rows, "skipped_members": 0}
    facts |= {"without_image": 0, "first_without_image": None, "options": IndexOptions().facts()}
    arrays = [columns[name].cast(SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata({FACTS: json.dumps(facts, sort_keys=True)}))


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that an action takes, and what it returns."""
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def measure_imports(data: Path) -> dict[str, Any]:
    """Nothing but this module's imports; those of the log and the audit besides, which bring torch."""
    seconds, _ = timed(lambda: importlib.import_module("nml_ray.pretrain.audit"))
    return {"seconds": seconds}


def measure_open(data: Path) -> dict[str, Any]:
    """Dataset.open."""
    seconds, dataset = timed(lambda: Dataset.open(data))
    return {"seconds": seconds, "samples": len(dataset)}


def measure_images(data: Path) -> dict[str, Any]:
    """What a loader needs besides: where each image lies."""
    dataset = Dataset.open(data)
    seconds, _ = timed(lambda: (dataset.image_offset, dataset.image_size, dataset.image_extension, dataset.header_gap))
    return {"seconds": seconds}


def measure_plan(data: Path, order: str) -> dict[str, Any]:
    """The first batch of epoch 0, and of the middle of epoch 37 as after a resume, the data set opened before."""
    dataset = Dataset.open(data)
    schedule = Schedule(dataset, ORDERS[order], SEED, BATCH, None, epochs=1)
    first, _ = timed(lambda: schedule.batch(0))
    schedule = Schedule(dataset, ORDERS[order], SEED, BATCH, None, epochs=38)
    jump, _ = timed(lambda: schedule.batch(37 * schedule.steps_per_epoch + schedule.steps_per_epoch // 2))
    return {"seconds": first, "jump_seconds": jump}


def measure_boundary(data: Path, order: str) -> dict[str, Any]:
    """An epoch in steps of `PAUSE`, and how long the first batch of the next one takes."""
    schedule = Schedule(Dataset.open(data), ORDERS[order], SEED, BATCH, None)
    schedule.batch(0)
    waits = []
    for step in range(1, schedule.steps_per_epoch + 1):
        time.sleep(PAUSE)
        waits.append(timed(partial(schedule.batch, step))[0])
    return {"seconds": waits[-1], "median_seconds": statistics.median(waits), "longest_seconds": max(waits)}


def measure_noise(data: Path, kind: str) -> dict[str, Any]:
    """The noise of an arm, and its ledger written."""
    dataset = Dataset.open(data)
    seconds, ledger = timed(lambda: noise_ledger(dataset, SWAP if kind == "swap" else SYMMETRIC))
    keys = dataset.keys
    path = data.parent / f"{kind}.parquet"
    write_seconds, summary = timed(lambda: write_ledger(path, keys, ledger, CLASSES))
    return {"seconds": seconds, "write_seconds": write_seconds, "changed": summary["changed"]}


def measure_log(data: Path) -> dict[str, Any]:
    """Logging an epoch as it is fed, without a model; the artifact that the audit reads."""
    from nml_ray.data.loader import Microbatch
    from nml_ray.pretrain.config import PretrainSettings
    from nml_ray.pretrain.feeding import FeedingLog

    dataset = Dataset.open(data)
    settings = PretrainSettings.model_validate({"batch": BATCH, "epochs": 1})
    schedule = Schedule(dataset, settings.order, SEED, BATCH, None)
    given = dataset.label.copy()
    given[dataset.good] = noise_ledger(dataset, SYMMETRIC).given
    attempt = data.parent / "run/attempt-0001"
    attempt.mkdir(parents=True)
    log = FeedingLog([attempt], 0, dataset.key, [given])
    nothing, ones, places = np.zeros((0, 1, 1, 1), np.uint8), np.ones(BATCH, np.float32), np.arange(BATCH)

    def epoch() -> None:
        for step in range(schedule.steps_per_epoch):
            numbers = schedule.batch(step).numbers
            log.add(step, [Microbatch(places, numbers, nothing, ones, dataset.key_hash[numbers])])
        log.cut(schedule.steps_per_epoch).finish()

    seconds, _ = timed(epoch)
    record = {
        "settings": {"pretrain": settings.model_dump(mode="json"), "noise": SYMMETRIC.hashed(), "seed": SEED},
        "steps": schedule.steps_per_epoch,
        "steps_per_epoch": schedule.steps_per_epoch,
        "dropped_per_epoch": schedule.dropped_per_epoch,
        "lineage": [{"attempt": attempt.name, "from_step": 0}],
    }
    (attempt.parent / "record.json").write_text(json.dumps(record))
    return {"seconds": seconds}


def measure_audit(data: Path) -> dict[str, Any]:
    """The audit of that epoch with its ledger."""
    from nml_ray.pretrain.audit import AuditedRun, audit_run

    record = json.loads((data.parent / "run/record.json").read_text())
    run = AuditedRun("arm", data.parent / "run", record, data, ledger=data.parent / "symmetric.parquet")
    seconds, report = timed(lambda: audit_run(run))
    assert report.holds, [str(finding) for finding in report.findings]
    return {"seconds": seconds, "fed": report.epochs[0].fed}


def measure_index(data: Path) -> dict[str, Any]:
    """The end of `nml-ray data index`: all indices together, duplicates, digests, dataset.json."""
    names = [path.name for path in sorted(data.glob("*.tar"))]
    seconds, info = timed(lambda: write_info(data, names, None))
    return {"seconds": seconds, "samples": info.samples}


MEASURES: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "nothing": ("imports alone", lambda data: {"seconds": 0.0}),
    "torch": ("imports of the log and the audit, with torch", measure_imports),
    "open": ("open the data set", measure_open),
    "images": ("and where each image lies, for a loader", measure_images),
    "plan_full": ("first batch, order full", lambda data: measure_plan(data, "full")),
    "plan_lanes": ("first batch, order lanes", lambda data: measure_plan(data, "lanes")),
    "boundary_full": ("first batch of the next epoch, full", lambda data: measure_boundary(data, "full")),
    "boundary_lanes": ("first batch of the next epoch, lanes", lambda data: measure_boundary(data, "lanes")),
    "symmetric": ("symmetric noise, stratified", lambda data: measure_noise(data, "symmetric")),
    "swap": ("caption swap", lambda data: measure_noise(data, "swap")),
    "log": ("log an epoch", measure_log),
    "audit": ("audit that epoch and the ledger", measure_audit),
    "index": ("end of `data index`: duplicates, digests", measure_index),
}


def measure_here(name: str, data: Path) -> dict[str, Any]:
    """One figure in this process, with its memory in MB."""
    own, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            own[0] = max(own[0], status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = MEASURES[name][1](data)
    finally:
        ended.set()
        watcher.join()
    result["cpu_seconds"] = time.process_time()
    return {**result, "peak_mb": status("VmHWM") // 1000, "own_peak_mb": max(own[0], status("RssAnon")) // 1000}


def status(name: str) -> int:
    """A line of this process's memory, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def measure(shards: int, names: list[str]) -> dict[str, Any]:
    """Every figure, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make(data, shards)
        size = sum(path.stat().st_size for path in data.glob("*.index.arrow"))
        result: dict[str, Any] = {"shards": shards, "samples": shards * SHARD, "index_mb": size // 10**6}
        for name in names:
            command = [sys.executable, __file__, "--measure", name, "--data", str(data)]
            output = subprocess.run(command, capture_output=True, text=True, check=False)
            if output.returncode:
                raise SystemExit(f"{name}:\n{output.stderr}")
            result[name] = json.loads(output.stdout.splitlines()[-1])
            print(name, result[name], flush=True)
    return {**result, "machine": machine(), "versions": versions()}


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    extra = {"jump_seconds": "a jump", "write_seconds": "its ledger written"}
    lines = []
    for name, (what, _) in MEASURES.items():
        if name in result:
            one = result[name]
            more = "".join(f"; {words} {one[key]:.2f} s" for key, words in extra.items() if key in one)
            seconds = f"{one['seconds'] * 1000:.1f} ms" if one["seconds"] < 0.1 else f"{one['seconds']:.1f} s"
            memory = f"{one['peak_mb']} MB | {one['own_peak_mb']} MB"
            lines.append(f"| {what} | {seconds}{more} | {one['cpu_seconds']:.0f} s | {memory} |")
    where, packages = result["machine"], result["versions"]
    named = ", ".join(f"{name} {packages[name]}" for name in ("python", "numpy", "pyarrow"))
    about = (
        f"`python benchmarks/data_scale.py`: {result['samples']:,} samples in {result['shards']:,} shards, "
        f"an index of {result['index_mb']:,} MB, batches of {BATCH}; on {where['cpus']} cores of "
        f"{where['processor']}; {named}. Own memory leaves out the pages of mapped index files."
    )
    head = ["| what | time | processor, in all | peak memory | own |", "|---|---|---|---|---|"]
    return "\n".join([*head, *lines, "", about, ""])


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1500)
    parser.add_argument("--only", nargs="*", default=list(MEASURES), choices=MEASURES)
    parser.add_argument("--no-write", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure_here(arguments.measure, arguments.data)))
        return
    result = measure(arguments.shards, arguments.only)
    if not arguments.no_write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "data_scale.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "data_scale.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
