"""What the figures of a training mean, in a sentence each, for those who meet them first on the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MEANING: Final = {
    "loss": "What training makes small. It can fall while features collapse, and rise while they improve: what is "
    "measured on images says more.",
    "dino": "how far the student's answer to a crop is from the teacher's to another crop of the image (class token).",
    "ibot": "the same for patches that the student does not see.",
    "koleo": "how close images lie to their nearest neighbour; lower: more evenly spread.",
    "sigreg": "how far the features' spread is from an even one.",
    "gram": "how far the likeness of patches has moved from that of an earlier network.",
    "invariance": "how far the features of two crops of an image are from each other.",
    "knn": "Each labelled image of the split train is classified by its ten nearest among the others, at the start and "
    "at each regular look. The evaluation classifies the images of the split test, which training never sees, by "
    "those of train: other images and another rule, so that its figures are others. Compare like with like.",
    "effective_rank": "how many directions the embeddings of images fill. It should rise, then stay; near 1, all "
    "images look alike: a collapse.",
    "class_rank": "the same of class tokens.",
    "patch_rank": "the same of patches; it falls when the patches of an image grow alike.",
    "prototypes_used": "how many prototypes images are nearest to, evenly counted. It should rise, then stay; a sudden "
    "fall is a collapse on its way.",
    "copies_found": "how often the image nearest to an augmented copy is the one that it was made of; it should rise.",
    "patches_found": "the same of patches within an image, to within one and a half patches; it should not fall.",
    "agreement": "how often teacher and student give two copies of an image the same prototype; it rises slowly. Near "
    "100% with few prototypes in use is a collapse.",
    "similarity": "mean cosine of two images' embeddings; it should fall, and 1 is a collapse.",
    "patch_likeness": "mean cosine of two patches of an image; it should not rise.",
    "patch_class_likeness": "mean cosine of a patch and the class token of its image; it should not rise.",
    "neighbour_distance": "how far class tokens are from the nearest other one; it should rise.",
    "patch_drift": "how much the likeness of patches has changed since about half of the steps; it should fall.",
}


def notes(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """What columns of a curve mean: the name to show and a sentence. Of a term in parts (``dino_global``) its own."""
    found: dict[str, str] = {}
    for name in names:
        own = name if name in MEANING else name.split("_")[0]
        if own in MEANING:
            found[own.replace("_", " ")] = MEANING[own]
    return tuple(found.items())
