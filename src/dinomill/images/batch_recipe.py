"""What a training batch is made of: everything that decides its content, besides the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.kept_views import KeptViews
from dinomill.images.masking import MaskingConfig
from dinomill.images.mixture import MixedSampler
from dinomill.images.sampler import Sampler


class Coarse(NamedTuple):
    """The first batches have crops of fewer pixels, of the same boxes."""

    global_size: int
    local_size: int
    until: int  # this batch is the first that has all pixels


class Anchor(NamedTuple):
    """Global crops are wanted a second time, with more pixels: for the anchor of Gram anchoring."""

    size: int  # side of the crops, pixels
    start: int  # from this batch on


@dataclass(frozen=True)
class BatchRecipe:
    """Everything that decides the content of a batch, besides the step."""

    crops: MultiCropConfig
    masking: MaskingConfig
    sampler: Sampler | MixedSampler
    grid: int  # patches a side of a global crop
    channels: int  # that the networks take
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float] | None = None  # of files of more than 8 bits
    anchor: Anchor | None = None
    coarse: Coarse | None = None
    stored: int | None = None  # channels of the images; None: as the networks take them
    views: KeptViews | None = None  # global crops are of these, and come with a teacher's features where those are kept

    def groups(self, step: int) -> tuple[tuple[int, int, int], ...]:
        """First view, last view and side of the crops of each size; those of the anchor come last."""
        large, small = self._sides(step)
        usual = (0, 2, large), (2, self.crops.views, small)
        if self.anchor is None or step < self.anchor.start:
            return usual
        return *usual, (0, 2, self.anchor.size)

    def grid_at(self, step: int) -> int:
        """Patches a side of a global crop of a batch."""
        return self.grid * self._sides(step)[0] // self.crops.global_size

    def _sides(self, step: int) -> tuple[int, int]:
        if self.coarse is not None and step < self.coarse.until:
            return self.coarse.global_size, self.coarse.local_size
        return self.crops.global_size, self.crops.local_size

    @property
    def finest(self) -> MultiCropConfig:
        """The crops with the most pixels that are cut: images are decoded as large as these need them."""
        return self.crops if self.anchor is None else self.crops.model_copy(update={"global_size": self.anchor.size})
