import io
import threading
import time
from pathlib import Path

import pytest

from nml_ray.storage.artifact import Attempt, Store
from nml_ray.study.progress import PlainDisplay, Rate, Sum, TerminalDisplay, duration, total_of


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (65, "1 min 05 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_rate_and_time_left_count_from_the_first_sight() -> None:
    rate = Rate()
    assert rate.words(100.0, Sum(500, 2000, "samples")) == "500/2,000 samples"
    assert rate.words(110.0, Sum(1000, 2000, "samples")) == "1,000/2,000 samples, 50/s, 20 s left"


def test_the_attempts_of_a_batch_are_summed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempts = [store.attempt("k", digest) for digest in "abc"]
    paths = [attempt.path for attempt in attempts]
    assert total_of(paths) is None
    attempts[0].progress(1, 10, "trials")
    attempts[2].progress(2, 20, "trials")
    assert total_of(paths) == Sum(3, 30, "trials")


def work(attempt: Attempt, seen: threading.Event) -> None:
    attempt.progress(1, 4, "trials")
    assert seen.wait(10)


class Stream(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def write(self, text: str) -> int:
        if "1/4 trials" in text:
            self.seen.set()
        return super().write(text)


@pytest.mark.parametrize("kind", [PlainDisplay, TerminalDisplay])
def test_progress_of_a_running_batch_is_shown(tmp_path: Path, kind: type[PlainDisplay]) -> None:
    attempt, stream = Store(tmp_path).attempt("k", "d"), Stream()
    if kind is TerminalDisplay:
        stream.isatty = lambda: True  # type: ignore[method-assign]
    display = kind(stream, look=0.01, quiet=0)
    with display.stage("heads", [attempt.path]):
        work(attempt, stream.seen)
        display.say("a word")
    lines = stream.getvalue()
    assert "heads: 0 s" in lines
    assert "a word" in lines


@pytest.mark.parametrize("kind", [PlainDisplay, TerminalDisplay])
def test_batches_side_by_side_are_shown_together(tmp_path: Path, kind: type[PlainDisplay]) -> None:
    stream = io.StringIO()
    display, together = kind(stream, look=0.001, quiet=0), threading.Barrier(4)

    def run(name: str) -> None:
        for _ in range(5):
            together.wait(20)
            with display.stage(name, []):
                display.say(f"{name} speaks")

    threads = [threading.Thread(target=run, args=(f"batch-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    for n in range(4):
        assert sum(line.endswith(f"batch-{n} speaks") for line in lines) == 5
        assert sum(line.endswith(f"batch-{n}: 0 s") for line in lines) == 5


def test_a_short_batch_says_one_line(tmp_path: Path) -> None:
    attempt, stream = Store(tmp_path).attempt("k", "d"), io.StringIO()
    with PlainDisplay(stream, look=0.001).stage("ledger", [attempt.path]):
        attempt.progress(1, 1, "rows")
        time.sleep(0.02)
    assert stream.getvalue() == "ledger: 0 s\n"


def test_an_interrupted_batch_says_so(tmp_path: Path) -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), PlainDisplay(stream).stage("pretrain", []):
        raise KeyboardInterrupt
    assert stream.getvalue() == "pretrain: stopped after 0 s\n"
