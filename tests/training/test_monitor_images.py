from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dinomill.handles import DatasetHandle
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.preprocess import PreprocessingConfig, preprocess
from dinomill.training.monitor_images import (
    Samples,
    Share,
    dataset_copies,
    dataset_samples,
    labelled_samples,
    patch_places,
)

CROPS = MultiCropConfig(global_size=8, local_size=4, global_scale=(0.5, 1.0), blur=(0, 0, 0))
CPU = torch.device("cpu")


@pytest.fixture
def shown(digits_dataset: DatasetHandle) -> PreprocessingConfig:
    return PreprocessingConfig.square(8, digits_dataset.mean, digits_dataset.std)


def whole(parts: list[Samples]) -> torch.Tensor:
    """What all processes hold, in the set's order."""
    return parts[0].share.whole(torch.cat([part.images for part in parts]))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_set_is_dealt_out_in_batches_of_one_shape(world: int) -> None:
    shares = [Share(100, 16, rank, world) for rank in range(world)]
    assert len({share.batches for share in shares}) == 1
    assert {row for share in shares for row in share.mine().tolist()} == set(range(100))
    assert sum(len(share.mine()) for share in shares) - 100 < 16 * world
    gathered = torch.cat([torch.from_numpy(share.mine()) for share in shares])
    assert shares[0].whole(gathered).tolist() == list(range(100))
    assert Share.of(5, 0, 2).batch == 3


def test_processes_hold_bytes_of_their_own_share_alone(
    digits_dataset: DatasetHandle, digits_labelled: Path, shown: PreprocessingConfig
) -> None:
    """The fault: fp32 of all images in every process."""
    for make in (
        lambda dealt: dataset_samples(digits_dataset, shown, 60, loader=LoaderConfig(), seed=0, dealt=dealt),
        lambda dealt: labelled_samples(digits_labelled, shown, 60, seed=0, dealt=dealt),
    ):
        (alone,) = (make(Share.of(20, 0, 1)),)
        shared = [make(Share.of(20, rank, 2)) for rank in range(2)]
        assert alone.images.dtype == torch.uint8
        assert all(len(part.images) == 30 for part in shared)
        assert torch.equal(whole(shared), whole([alone]))


def test_the_network_gets_what_preprocessing_gives(
    digits_labelled: Path, shown: PreprocessingConfig, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    samples = labelled_samples(digits_labelled, shown, 40, seed=0, dealt=Share.of(16, 0, 1))
    batches = list(samples.batches(CPU))
    assert {tuple(batch.shape) for batch in batches} == {(16, 1, 8, 8)}
    pixels = samples.images[0].numpy().transpose(1, 2, 0)
    assert torch.allclose(batches[0][0], torch.from_numpy(preprocess(pixels, shown)), atol=1e-6)


def test_copies_are_of_the_same_images_whatever_the_number_of_processes(
    digits_dataset: DatasetHandle, shown: PreprocessingConfig
) -> None:
    def copies(rank: int, world: int, crops: MultiCropConfig = CROPS) -> Samples:
        more = {"loader": LoaderConfig(workers=1), "seed": 0, "dense": 8, "patch_size": 4}
        made = dataset_copies(digits_dataset, shown, 24, crops, dealt=Share.of(24, rank, world), **more)
        assert made.places.shape == (min(8, made.first.share.batch), 4, 2)
        return made.first

    assert torch.equal(whole([copies(0, 2), copies(1, 2)]), whole([copies(0, 1)]))
    # Crops that change nothing give the images themselves.
    plain = dataset_samples(digits_dataset, shown, 24, loader=LoaderConfig(), seed=0, dealt=Share.of(24, 0, 1))
    nothing = CROPS.model_copy(
        update={"global_scale": (1.0, 1.0), "aspect": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "grey": 0.0}
    )
    difference = whole([copies(0, 1, nothing)]).int() - whole([plain]).int()
    assert difference.abs().max() <= 1


def test_places_of_patches_follow_the_box_the_mirror_and_the_centre_crop() -> None:
    shown = PreprocessingConfig(image_size=8, resize=8, mean=(0.5,), std=(0.5,))
    boxes, sizes = np.array([[0, 0, 8, 8], [0, 4, 8, 8], [0, 0, 4, 4]]), np.array([[8, 8], [8, 16], [8, 8]])
    places = patch_places(boxes, np.array([False, False, True]), sizes, shown, 2, 4)
    whole_image = [[0.5, 0.5], [0.5, 1.5], [1.5, 0.5], [1.5, 1.5]]
    assert places[0].tolist() == whole_image
    assert places[1].tolist() == whole_image  # the middle of an image twice as wide is what the centre crop shows
    assert places[2].tolist() == [[0.25, 0.75], [0.25, 0.25], [0.75, 0.75], [0.75, 0.25]]
