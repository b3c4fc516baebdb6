"""SIGTERM ends a run after a checkpoint: arms in training make one, then the run stops as Ctrl-C stops it at once."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nml_ray.storage.artifact import read_progress
from nml_ray.study.runner import Display

STOP_SECONDS = 60.0  # that SIGTERM leaves for checkpoints
ONE_WISH = 5.0  # seconds in which a second SIGTERM says no more: Ray's job server and our supervisor both send one
_TRAINS = "pretrain"


class Stopper:
    """A display that knows what is at work, because each batch is shown; and what SIGTERM means meanwhile.

    Args:
        display: shows everything.
        seconds: most that SIGTERM waits for checkpoints; a second SIGTERM, some seconds later, does not.
    """

    def __init__(self, display: Display, seconds: float = STOP_SECONDS) -> None:
        self._display, self._seconds = display, seconds
        self._training: list[Path] = []
        self._asked: float | None = None

    def say(self, line: str) -> None:
        """One line for the user."""
        self._display.say(line)

    @contextmanager
    def stage(self, title: str, attempts: Sequence[Path]) -> Iterator[None]:
        """Shown while one batch is at work."""
        training = [attempt for attempt in attempts if attempt.parent.parent.name == _TRAINS]
        self._training += training
        try:
            with self._display.stage(title, attempts):
                yield
        finally:
            self._training = [attempt for attempt in self._training if attempt not in training]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, SIGTERM ends the run after a checkpoint; raises KeyboardInterrupt in the main thread then."""
        before = signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so a shell starts what runs in its background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked is not None:
            if now - self._asked > ONE_WISH:
                raise KeyboardInterrupt
            return
        self._asked = now
        # The main thread may be the one that trains, and has to go on for that.
        threading.Thread(target=self._stop, name="stop", daemon=True).start()

    def _stop(self) -> None:
        begun = [attempt for attempt in self._training if read_progress(attempt)]
        if begun:
            self.say(f"stopping, after a checkpoint ({self._seconds:.0f} s at most)")
            if not ask_all(begun, self._seconds):
                self.say("no checkpoint came in time: what was trained since the last one will be trained again")
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)  # as Ctrl-C: it wakes the thread where it waits


def ask_all(attempts: Sequence[Path], seconds: float) -> bool:
    """Have all arms that are in training make a checkpoint, side by side; False where one came too late."""
    from nml_ray.pretrain.notice import ask

    until, answers = time.monotonic() + seconds, list[bool]()
    threads = [threading.Thread(target=lambda one=one: answers.append(ask([one], seconds))) for one in attempts]
    for thread in threads:
        thread.daemon = True
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until + 1 - time.monotonic()))
    return len(answers) == len(threads) and all(answers)
