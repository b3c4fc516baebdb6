"""Whether a worker's threads decode as many images as its GPU takes: estimates, as a warning with what helps. Pure.

Estimates, each stated: decoding and the training transform take 0.25 ms of a core for an image and 18 ns for each of
its bytes (measured: 1.75 ms for photographs of 84 kB, 0.8 ms for the same re-encoded to 35 kB); a GPU trains at 30 % of
its peak, and a microbatch takes it 5 ms at least. `nml-ray doctor JOB` measures both on the machine itself.
"""

from dataclasses import dataclass
from math import ceil

IMAGE = 0.25e-3
BYTE = 18e-9
MICROBATCH = 5e-3
SMALL = 40_000
"""Bytes of an image above which smaller shards are worth a word."""


@dataclass(frozen=True)
class Feeding:
    """A worker of pre-training on a GPU.

    Attributes:
        bytes_each: of an image as it is stored, mean.
        threads, decode_threads: that compute, and that decode.
        arms: that share the worker's images.
        microbatch: images that an arm takes at once.
        seconds_each: of the GPU for an image in one arm, by its FLOPs.
        cpus: the most that a GPU's worker can have on a node of the cluster; None where it is not known.
    """

    bytes_each: float
    threads: int
    decode_threads: int
    arms: int
    microbatch: int
    seconds_each: float
    cpus: float | None = None

    @property
    def decoded(self) -> float:
        """Images a second that the threads decode."""
        return self.decode_threads / (IMAGE + BYTE * self.bytes_each)

    @property
    def taken(self) -> float:
        """Images a second that the GPU takes."""
        return 1 / (self.arms * max(self.seconds_each, MICROBATCH / self.microbatch))


def hunger(feeding: Feeding) -> str:
    """A line where the GPU would wait for images, with what helps; otherwise ""."""
    one = feeding
    if one.decoded >= one.taken:
        return ""
    wanted = ceil(one.taken / (one.decoded / one.decode_threads))
    helps = [f"run.decode_threads={wanted}"]
    most = None if one.cpus is None else int(one.cpus) - one.threads
    if most is not None and wanted > most:
        more = f"machines with {wanted + one.threads} CPUs for each GPU (now {one.cpus:g})"
        helps = [*([f"run.decode_threads={most}"] if most > one.decode_threads else []), more]
    if one.bytes_each > SMALL:
        helps.append("smaller shards by `nml-ray data shard DIR OUT --short-side 256 --quality 90` (other pixels)")
    return (
        f"decoding: {one.decode_threads} thread(s) give about {one.decoded:,.0f} images/s, and the GPU takes up to"
        f" {one.taken:,.0f} ({one.arms} arm(s); estimates, `nml-ray doctor` measures): {', '.join(helps)}"
    )
