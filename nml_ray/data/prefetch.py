"""Tars of an object store on their way to the shard cache before they are read."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError

from nml_ray.data.dataset import Dataset
from nml_ray.data.remote_files import RemoteFiles

THREADS = 4  # tars on their way at once
SHARE = 0.25  # of the cache, for tars that have not been read yet: the rest is for those that are being read


class Prefetcher:
    """Brings tars in the order asked for. What goes wrong is told by whoever reads them, who tries again.

    Args:
        dataset: on an object store.
        is_open: whether a tar is being read.
    """

    def __init__(self, dataset: Dataset, is_open: Callable[[int], bool]) -> None:
        assert isinstance(dataset.files, RemoteFiles)
        self._files = dataset.files
        self._dataset, self._is_open = dataset, is_open
        self._room = 0.0
        self._asked: OrderedDict[int, None] = OrderedDict()
        self._unread: set[int] = set()  # brought, or on their way
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []

    def ask(self, shards: Sequence[int], share: int = 1) -> None:
        """Bring some tars after those asked for before; `share` processes have the cache in common."""
        with self._changed:
            self._room = self._files.cache.limit * SHARE / share
            self._asked |= {shard: None for shard in shards if shard not in self._unread and not self._is_open(shard)}
            while len(self._threads) < min(THREADS, len(self._asked)):
                thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def used(self, shard: int) -> None:
        """A tar is read, and so has made way for another."""
        with self._changed:
            self._asked.pop(shard, None)
            self._unread.discard(shard)
            self._changed.notify_all()

    def close(self) -> None:
        """Bring nothing more; what is on its way is given up at its next block."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (shard := self._next()) is not None:
            try:
                self._files.bring_ahead(self._dataset.info.shards[shard], self._dataset.tables[shard], self._check)
            except Exception:  # whatever it is, it is told by whoever reads the tar, and the next tar is brought
                self.used(shard)

    def _check(self) -> None:
        if self._closed:
            raise CancelledError

    def _next(self) -> int | None:
        """The next tar, once there is room for it; None at the end."""
        sizes = self._dataset.info.shards
        with self._changed:
            while not self._closed:
                self._unread = {shard for shard in self._unread if not self._is_open(shard)}
                if self._asked:
                    first = next(iter(self._asked))
                    unread = sum(sizes[shard].bytes for shard in self._unread)
                    if not self._unread or unread + sizes[first].bytes <= self._room:
                        del self._asked[first]
                        self._unread.add(first)
                        return first
                self._changed.wait()
        return None
