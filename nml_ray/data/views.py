"""Augmented views of downstream images, keyed by (seed, key, view): which crop, shift or mirroring a view is."""

from dataclasses import dataclass, field
from functools import partial

from nml_ray.data.augment import Augmentation, CropDraws, ResizedCropAugmentation, ShiftAugmentation, flips, shift
from nml_ray.data.decode import PixelArray
from nml_ray.data.draw import Draws
from nml_ray.data.resample import write_mirrored
from nml_ray.data.transform import write_crop


@dataclass(frozen=True)
class Views:
    """View 0 of an image is the encoder's own evaluation transform; views 1 to `count` - 1 are drawn.

    A view stands where an epoch does in the draws of pre-training, so it depends on (seed, key, view) alone: on no
    other sample, on no other view, and on nothing of how the extraction runs.
    """

    count: int = 1
    augmentation: Augmentation = field(default_factory=ResizedCropAugmentation)
    seed: int = 0


class DrawnViews:
    """The views of some samples, whose keys have the given hashes: uint64[N]."""

    def __init__(self, views: Views, hashes: Draws) -> None:
        self._views, self._hashes = views, hashes
        drawn = range(1, views.count)
        self._mirrored = {view: flips(views.seed, hashes, view) & views.augmentation.flip for view in drawn}
        self._crops: dict[int, CropDraws] = {}
        if isinstance(views.augmentation, ResizedCropAugmentation):
            self._crops = {view: CropDraws(views.augmentation, views.seed, hashes, view) for view in drawn}

    def write(self, row: int, out: PixelArray, pixels: PixelArray) -> None:
        """Fill views 1 and later of one sample.

        Args:
            row: its place among the samples.
            out: uint8 [V, size, size, C]; view 0 is there already.
            pixels: the decoded image, uint8 [H, W, C].
        """
        for view, mirrored in self._mirrored.items():
            if view in self._crops:
                write_crop(out[view], pixels, partial(self._crops[view].box, row), bool(mirrored[row]))
            else:
                self._shift(row, out, view, bool(mirrored[row]))

    def _shift(self, row: int, out: PixelArray, view: int, mirrored: bool) -> None:
        augmentation = self._views.augmentation
        assert isinstance(augmentation, ShiftAugmentation)
        (moved,) = shift(out[:1], augmentation, self._views.seed, self._hashes[row : row + 1], view)
        if mirrored:
            write_mirrored(out[view], moved)
        else:
            out[view] = moved
