"""Which workers may write to the attempts of a group: those that were started last.

Ray takes a host that was cut off for lost after some 15 seconds, and starts the group anew on others. The workers
there live on for about a minute, and still reach the storage if that has a network of its own. Each start leaves
<attempt>/.claim-000002 (...), counted up, and looks before it writes whether there is a later one. An old listing, as
NFS may give, thus tells of a later claim too late, and never of one that is none.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from nml_ray.config.errors import UserError
from nml_ray.pretrain.world import World
from nml_ray.storage import remote, twin
from nml_ray.storage.mirror import mirror_of
from nml_ray.storage.patience import Patience

_PREFIX = ".claim-"


class TakenOver(Exception):
    """Other workers have been started in place of these."""


@dataclass(frozen=True)
class Claim:
    """That of one start of a group on the attempt of its first arm."""

    attempt: Path
    number: int

    @classmethod
    def stake(cls, attempt: Path, world: World) -> "Claim":
        """Of all workers together, before they look what there is to go on from.

        Raises:
            UserError: the object store cannot be reached.
        """
        number = _leave(attempt) if world.rank == 0 else 0
        return cls(attempt, int(world.sum_(torch.tensor([number])).item()))

    def check(self) -> None:
        """Raises TakenOver where there is a later claim. A storage that does not answer at once tells of none."""
        try:
            latest = _latest(self.attempt, Patience(total=0))
        except UserError:
            return
        if latest > self.number:
            raise TakenOver(f"other workers have taken {self.attempt} over")


def _leave(attempt: Path) -> int:
    attempt.mkdir(parents=True, exist_ok=True)  # on another machine than the driver's, with an object store
    number = _latest(attempt)
    while True:
        number += 1
        path = attempt / f"{_PREFIX}{number:06d}"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        twin.tell(path)
        return number


def _latest(attempt: Path, patience: Patience | None = None) -> int:
    names = [path.name for path in attempt.glob(f"{_PREFIX}*")]
    if mirror := mirror_of(attempt):
        names += remote.names(mirror.at(attempt), patience)
    return max((int(name.removeprefix(_PREFIX)) for name in names if name.startswith(_PREFIX)), default=0)
