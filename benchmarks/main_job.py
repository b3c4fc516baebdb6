"""The main job as a newcomer meets it: time, memory and leftovers of `nml-ray run jobs/demo.yaml`.

    .venv/bin/python benchmarks/main_job.py            writes benchmarks/results/main_job.json and .md

Measured on a quiet machine: the demo from nothing (with the seconds of each stage), the same again, the same with one
ratio more, and `nml-ray --help`. Memory is the largest sum, over the run's whole process tree, of proportional set
sizes (pages that processes share are counted once).
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from nml_ray.study.record import machine, versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
COMMAND = [sys.executable, "-m", "nml_ray"]
DEMO = [*COMMAND, "run", str(ROOT / "jobs/demo.yaml")]
MORE = ["--set", "noise.ratios=[0,0.1,0.3,0.5]"]
HELPS = 11


def watched(command: list[str]) -> dict[str, Any]:
    """Run a command; its exit code, seconds, peak memory in GB and the processes that outlive it."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak, seen, ended = [0.0], set(), threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            total = 0
            for one in tree(process.pid):
                seen.add(one)
                total += memory(one)
            peak[0] = max(peak[0], total / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - began
    ended.set()
    watcher.join()
    left = [one.pid for one in seen if one.pid != process.pid and one.is_running()]
    return {
        "exit_code": process.returncode,
        "seconds": round(seconds, 1),
        "peak_gb": round(peak[0], 2),
        "left_running": len(left),
        "output": output.splitlines(),
    }


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; none when it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory(process: psutil.Process) -> int:
    """Proportional set size in bytes; 0 when the process has just ended."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def stage_seconds(storage: Path) -> dict[str, float]:
    """Seconds by kind; stages made in one call took the time of the longest."""
    seconds: dict[str, float] = {}
    for path in storage.glob("*/*/record.json"):
        record = json.loads(path.read_bytes())
        if "stage" in record:
            seconds[record["kind"]] = max(seconds.get(record["kind"], 0.0), record["seconds"])
    return seconds


def arms(storage: Path) -> int:
    """Pre-training artifacts that exist."""
    return len(list(storage.glob("pretrain/*/record.json")))


def help_seconds() -> float:
    """Median seconds of `nml-ray --help`."""
    times = []
    for _ in range(HELPS):
        began = time.perf_counter()
        subprocess.run([*COMMAND, "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return round(statistics.median(times), 3)


def measure() -> dict[str, Any]:
    """All figures of one round."""
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        first = watched([*DEMO, "--storage", folder])
        stages, before = stage_seconds(storage), arms(storage)
        again = watched([*DEMO, "--storage", folder])
        more = watched([*DEMO, *MORE, "--storage", folder])
        return {
            "command": "nml-ray run jobs/demo.yaml",
            "demo": first,
            "stages": stages,
            "again": again,
            "another_ratio": {**more, "arms_trained": arms(storage) - before},
            "help_seconds": help_seconds(),
            "machine": machine(),
            "versions": versions(),
            "load_before": psutil.getloadavg()[0],
        }


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    demo, again, more = result["demo"], result["again"], result["another_ratio"]
    rows = [
        ("demo from nothing", f"{demo['seconds']} s", "360 s"),
        *((f"&nbsp; {kind}", f"{seconds:.0f} s", "") for kind, seconds in result["stages"].items()),
        ("demo, peak memory", f"{demo['peak_gb']} GB", "8 GB"),
        ("demo again", f"{again['seconds']} s", "15 s"),
        ("one ratio more", f"{more['seconds']} s, {more['arms_trained']} arm trained", "1 arm"),
        ("processes left running", f"{demo['left_running'] + again['left_running'] + more['left_running']}", "0"),
        ("`nml-ray --help`", f"{result['help_seconds']} s", "0.4 s"),
    ]
    lines = [f"| {what} | {value} | {limit} |" for what, value, limit in rows]
    where, packages = result["machine"], result["versions"]
    named = ", ".join(f"{name} {packages[name]}" for name in ("python", "torch", "ray", "pyarrow"))
    about = f"`python benchmarks/main_job.py` on {where['cpus']} cores of {where['processor']}; {named}."
    return "\n".join(["| what | measured | at most |", "|---|---|---|", *lines, "", about, ""])


def main() -> None:
    """Measure, write and print."""
    result = measure()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "main_job.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "main_job.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
