"""What a job and its machine use: CPU, memory, GPUs."""

import os
import shutil
import subprocess
import time
from typing import Any

_GPU = ("index", "utilization.gpu", "memory.used", "memory.total")
_GPU_NAMES = ("index", "percent", "memory", "memory_total")


class Meter:
    """Measures the tree of processes below one, and the machine; shares of CPU are since the last reading."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._spent: dict[int, float] = {}
        self._when = time.monotonic()
        self._nvidia = shutil.which("nvidia-smi")

    def read(self) -> dict[str, Any]:
        """One reading, as plain data: percents of one CPU for the job, of all CPUs for the machine; bytes."""
        import psutil

        spent, memory = self._tree()
        now = time.monotonic()
        used = sum(max(0.0, seconds - self._spent.get(pid, 0.0)) for pid, seconds in spent.items())
        memory_now = psutil.virtual_memory()
        reading: dict[str, Any] = {
            "time": round(time.time(), 3),
            "job": {
                "processes": len(spent),
                "cpu_percent": round(100 * used / max(now - self._when, 1e-3), 1),
                "memory": memory,
            },
            "machine": {
                "cpus": os.cpu_count(),
                "cpu_percent": psutil.cpu_percent(),
                "load": [round(value, 2) for value in os.getloadavg()],
                "memory": memory_now.total - memory_now.available,
                "memory_total": memory_now.total,
            },
        }
        self._spent, self._when = spent, now
        if gpus := self._gpus():
            reading["gpus"] = gpus
        return reading

    def _tree(self) -> tuple[dict[int, float], int]:
        """CPU seconds of each process by pid, and the memory of all together."""
        import psutil

        spent, memory = {}, 0
        try:
            top = psutil.Process(self.pid)
            processes = [top, *top.children(recursive=True)]
        except psutil.Error:
            return {}, 0
        for process in processes:
            try:
                times = process.cpu_times()
                spent[process.pid] = times.user + times.system
                memory += process.memory_info().rss
            except psutil.Error:
                continue
        return spent, memory

    def _gpus(self) -> list[dict[str, float]]:
        """Of each GPU its share of busy time (percent) and memory (MiB), by nvidia-smi where that is there."""
        if self._nvidia is None:
            return []
        command = [self._nvidia, f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
            rows = [[float(field) for field in line.split(",")] for line in done.stdout.splitlines()]
            return [dict(zip(_GPU_NAMES, row, strict=True)) for row in rows]
        except (OSError, subprocess.SubprocessError, ValueError):
            return []
