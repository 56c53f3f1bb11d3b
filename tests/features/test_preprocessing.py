"""The image sizes that a network can be asked for."""

from __future__ import annotations

import pytest

from dinomill.errors import InputError
from dinomill.features.preprocessing import at_size
from dinomill.images.preprocess import PreprocessingConfig


@pytest.mark.parametrize(
    ("patch", "side", "largest"), [(4, 4000, 1024), (14, 3598, 3584), (7, 1799, 1792), (1, 300, 256), (4, 1025, None)]
)
def test_more_tokens_than_attention_can_compare_are_refused(patch: int, side: int, largest: int | None) -> None:
    """A million tokens were put to a network of small patches."""
    settings = PreprocessingConfig(image_size=224, resize=224)
    if largest is None:
        with pytest.raises(InputError, match="no multiple") as failed:
            at_size(settings, side, patch=patch, where="net")
        return
    with pytest.raises(InputError, match=f"more patches of {patch} than") as failed:
        at_size(settings, side, patch=patch, where="net")
    assert failed.value.expected == f"65,536 at most: {largest:,} pixels is the largest size"
    assert at_size(settings, largest, patch=patch, where="net").image_size == largest
