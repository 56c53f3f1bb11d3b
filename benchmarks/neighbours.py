"""Which labelled queries a network answers rightly, by their nearest neighbours in a labelled bank."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dinomill.arrays import Mask
from dinomill.features import Features
from dinomill.images.labelled import LabelledImages, read_labelled
from dinomill.images.preprocess import PreprocessingConfig, preprocess
from dinomill.vectors.knn import knn_predict

_NEIGHBOURS, _TEMPERATURE, _BATCH = 10, 0.07, 128


class Neighbours:
    """A bank and queries, read once.

    Args:
        labelled: ``<split>/<class>/<image>``.
        split: Whose images are queries: ``test``, with ``train`` as the bank; or ``train``, each among the others.
        channels: Of the images as the networks take them.
    """

    def __init__(self, labelled: Path, split: str, channels: int) -> None:
        self.bank = read_labelled(labelled, "train", channels=channels, min_side=32)
        self.queries = None
        if split == "test":
            self.queries = read_labelled(labelled, "test", channels=channels, min_side=32)

    def right(self, network: Features, shown: PreprocessingConfig) -> Mask:
        """Which queries have the class that their neighbours say.

        Args:
            network: What embeds them.
            shown: How they are put to it.
        """
        labels = torch.from_numpy(self.bank.labels)
        bank = embedded(network, self.bank, shown)
        alone = self.queries is None
        queries = bank if self.queries is None else embedded(network, self.queries, shown)
        truth = labels if self.queries is None else torch.from_numpy(self.queries.labels)
        votes = knn_predict(queries, bank, labels, ks=(_NEIGHBOURS,), temperature=_TEMPERATURE, exclude_self=alone)
        (found,) = votes.values()
        right: Mask = (found == truth).numpy()
        return right


@torch.inference_mode()
def embedded(network: Features, images: LabelledImages, shown: PreprocessingConfig) -> Tensor:
    """Embeddings ``[N, D]`` of labelled images."""
    made = [torch.from_numpy(preprocess(one, shown)) for one in images.images]
    parts = [network(batch).pooled(network.pooling) for batch in torch.split(torch.stack(made), _BATCH)]
    return torch.cat(parts)
