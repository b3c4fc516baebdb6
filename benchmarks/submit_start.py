"""From `nml-ray submit` to the first line that runs on the cluster, against `ray job submit` of a trivial script.

    .venv/bin/python benchmarks/submit_start.py    about ten minutes; writes results/submit_start.json and .md

One head with its job server and a token, on this machine, to which the arms take turns. All are measured from the start
of the command's process to the first line of what it has run there: for Ray's a script of one line, in a directory with
nothing else; for ours `nml-ray run`, below its supervisor, with our whole package as code. The interpreter that they
name notes the time, in all alike, just before Python starts. In one more arm our code is new to the cluster each time,
as it is after a change. Each waits for the other's job to end.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from benchmarks.measure import Goal, interleaved, median, parsed, parser, save, spread, table
from nml_ray.cluster.job_log import ENDED
from nml_ray.cluster.job_server import JobServer
from tests.cluster.ray_head import Head
from tests.small_icons import small_icons

NAME = "submit_start"
LOOK = 0.1  # seconds between two looks for a job's end
REST = 2.0  # seconds for the last job's processes to end
JOB = "name: tiny\nnoise: {ratios: [0.1]}\npretrain: {epochs: 1, batch: 128}\n"
ENCODER = 'pretrain.encoder={"name": "small_resnet", "width": 8, "channels": 1, "size": 32}'
INTERPRETER = '#!/bin/sh\ndate +%s.%N >> "$(dirname "$0")/starts"\nexec {python} "$@"\n'
Figures = dict[str, float]


class Bench:
    """A head, an interpreter that notes its starts, and what is submitted."""

    def __init__(self, directory: Path, head: Head) -> None:
        self.directory, self.head = directory, head
        self.server = JobServer(head.address, str(head.token_file))
        self.python = directory / "python"
        self.python.write_text(INTERPRETER.format(python=shlex.quote(sys.executable)))
        self.python.chmod(0o755)
        self.script, self.project = directory / "script", directory / "project"
        for path in (self.script, self.project):
            path.mkdir()
        (self.script / "main.py").write_text("print('here')\n")
        (self.project / "job.yaml").write_text(JOB)
        self.lab = directory / "lab.yaml"
        self.lab.write_text(
            f"kind: address\naddress: {head.address}\ntoken_file: {head.token_file}\npython: {self.python}\n"
            f"storage: {directory / 'runs'}\n"
        )
        self.data = small_icons(directory / "icons")

    def ray(self) -> Figures:
        """Ray's own command."""
        id = f"script-{time.time_ns()}"
        options = ["--no-wait", "--address", self.head.address, "--submission-id", id]
        command = ["ray", "job", "submit", *options, "--working-dir", str(self.script)]
        return self._figures([*command, "--", str(self.python), "main.py"], self.script, 1, id)

    def ours(self, new: bool) -> Figures:
        """Our command; with `new`, of code that the cluster has not seen."""
        if new:
            (self.project / "number.txt").write_text(f"{time.time_ns()}\n")
        options = ["--cluster", str(self.lab), "--until", "ledger", "--inline", "--set", self.data, "--set", ENCODER]
        return self._figures(["nml-ray", "submit", "job.yaml", *options], self.project, 2)

    def _figures(self, command: Sequence[str], directory: Path, starts: int, id: str = "") -> Figures:
        """Seconds until the interpreter last started, and until the command was done; the job has ended."""
        time.sleep(REST)
        noted = self.directory / "starts"
        noted.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.head.token_file),
            "XDG_STATE_HOME": str(self.directory / "state"),
        }
        tool = str(Path(sys.executable).with_name(command[0]))
        begun = time.time()
        done = subprocess.run(
            [tool, *command[1:]], cwd=directory, env=environment, check=True, capture_output=True, text=True
        )
        command_done = time.time() - begun
        id = id or done.stdout.split()[0]
        while (job := self.server.job(id)) is None or job["status"] not in ENDED:
            time.sleep(LOOK)
        if job["status"] != "SUCCEEDED":
            raise RuntimeError(f"{id}: {job['message']}")
        times = [float(word) for word in noted.read_text().split()]
        assert len(times) == starts
        return {"first line": times[-1] - begun, "command": command_done}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    options = parsed(parser(__doc__, rounds=(9, 1)), arguments)
    directory = Path(mkdtemp(prefix="nml-submit-"))
    head = Head()
    try:
        bench = Bench(directory, head)
        arms: dict[str, Callable[[], Figures]] = {
            "ray": bench.ray,
            "ours": partial(bench.ours, False),
            "new code": partial(bench.ours, True),
        }
        for arm in arms.values():  # the head has started its first job, and has our code
            arm()
        rounds = interleaved(arms, options.rounds)
    finally:
        head.stop()
        shutil.rmtree(directory, ignore_errors=True)
    names = {
        "ray": "`ray job submit`, a script",
        "ours": "`nml-ray submit`",
        "new code": "`nml-ray submit`, code that is new to the cluster",
    }
    rows = [[names[arm], *(spread([one[what] for one in found]) for what in found[0])] for arm, found in rounds.items()]
    more = {
        arm: median(
            [one["first line"] - ray["first line"] for one, ray in zip(rounds[arm], rounds["ray"], strict=True)]
        )
        for arm in ("ours", "new code")
    }
    goals = [
        Goal(
            "seconds to the first line beyond `ray job submit`, median of the rounds", more["ours"], 1, at_least=False
        ),
        Goal("the same, code new to the cluster", more["new code"], 1, at_least=False),
    ]
    head_line = ["", "seconds to the first line there (lowest..highest)", "until the command is done"]
    save(NAME, options.out, {"rounds": rounds, "more": more}, [table(head_line, rows)], goals)


if __name__ == "__main__":
    main()
