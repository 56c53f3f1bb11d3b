"""What a training starts from: one model, resolved from the configuration, the starting weights and the dataset.

What the weights say is true of them: a key of the configuration that contradicts them is refused, never obeyed, because
tensors of equal shape hide most contradictions (a ViT-S of 6 heads trains without an error as one of 2). Nothing here
loads torch before weights are read: the checks before a run call it for every configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from dinomill.errors import ConfigError, InputError
from dinomill.images.channels import may_become
from dinomill.licences import Provenance
from dinomill.models.config import VisionTransformerConfig
from dinomill.training.config import InitialisationConfig, StatedModel

# Choices that say nothing of the weights: the side of the position table, which is resized for the paper's
# high-resolution phase; what an embedding is; an augmentation.
_CHOICES = ("image_size", "pooling", "rope_rescale")
# Keys that mean something for one kind of positions only.
_FOR_LEARNED = ("interpolate_offset", "interpolate_antialias")
_FOR_ROPE = ("rope_base", "rope_periods")


@dataclass(frozen=True)
class StartingWeights:
    """Weights to continue from, as they describe themselves.

    Args:
        address: As it was given.
        local: The same on this machine: a name in the registry may mean other weights tomorrow.
        model: Their shape, pooling included.
        mean: Per channel in [0, 1]: what their images were normalised with; None where nothing says it.
        std: Per channel.
        sha256: Of their content.
        provenance: Their licence, and what they were made from.
    """

    address: str
    local: str
    model: VisionTransformerConfig
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    sha256: str
    provenance: Provenance = field(default_factory=lambda: Provenance(None, ""))


def starting_weights(address: str) -> StartingWeights:
    """Describe the weights at an address: whatever ``dinomill.load`` takes. Headers are read, and the file is hashed.

    Raises:
        InputError: When nothing is there, or it is no vision transformer.
    """
    from dinomill.features import describe

    try:
        found = describe(address)
    except InputError as error:
        where = f"pretraining.initial: {error.problem}"
        raise InputError(where, found=error.found, expected=error.expected, action=error.action) from None
    if not isinstance(found.model, VisionTransformerConfig):
        raise InputError(
            f"Training cannot start from {address}: only vision transformers are pretrained.",
            found=found.family,
            action="give the weights of a ViT in pretraining.initial; other networks can be embedders and teachers",
        )
    # Official weights for colour were all trained with the same figures; for other images nobody published any.
    known = found.trained_so or found.model.in_channels == 3
    shown = found.preprocessing
    mean, std = (shown.mean, shown.std) if known else (None, None)
    provenance = Provenance(found.licence, found.origin or "")
    return StartingWeights(address, str(found.place), found.model, mean, std, found.weights_sha256, provenance)


def resolve_model(
    stated: StatedModel | Literal["from_weights"],
    weights: StartingWeights | None,
    channels: int | None,
    *,
    key: str = "pretraining.model",
    dataset: str = "the dataset",
) -> VisionTransformerConfig:
    """The model that is trained, from what is known.

    Args:
        stated: What the configuration says of it.
        weights: What it starts from; None for random weights.
        channels: Of the dataset's images; None while there is no dataset: its channels are then not checked, and
            ``auto`` counts as 3, on which nothing else depends.
        key: Where ``stated`` stands, for messages.
        dataset: What the dataset is called in messages.

    Raises:
        ConfigError: When the three do not fit together; the key is named.
    """
    if weights is None:
        if stated == "from_weights":
            raise ConfigError(
                f"{key} is `from_weights`, and no weights to start from are given.",
                found="pretraining.initial: null",
                action="name them: --params pretraining.initial=ADDRESS, or `initial:` beside `model:` in the file; an "
                "exported folder, a .pth or .safetensors of an official backbone, or models:/name@alias",
            )
        return _fresh(stated, channels, key=key, dataset=dataset)
    model = weights.model
    if stated != "from_weights":
        refuse_contradictions(stated, stated.model_fields_set, weights.model, key=key, address=weights.address)
        if stated.initialisation is not None:
            drawn = [f"{key}.{name}: {value}" for name, value in stated.initialisation.model_dump().items()]
            raise ConfigError(
                f"{key} says how weights are drawn, and they are given.",
                found=f"{', '.join(drawn)}; pretraining.initial: {weights.address}",
                action=f"take {' and '.join(InitialisationConfig.model_fields)} out of {key}, or start from no weights",
            )
        chosen = {name: getattr(stated, name) for name in _CHOICES if name in stated.model_fields_set}
        model = VisionTransformerConfig.parse(model.model_dump() | chosen, where=key)
    if channels is not None and not may_become(channels, model.in_channels):
        wanted = model.in_channels
        raise ConfigError(
            f"The weights to start from see {wanted} channel{'s' if wanted > 1 else ''}, and {dataset} has {channels}.",
            found=f"{weights.address} for {wanted}, images of {channels}",
            action=f"start from weights for {channels} channels, or from none: only grey becomes colour, and colour "
            "grey, by itself",
        )
    return model


def refuse_contradictions(
    stated: VisionTransformerConfig,
    keys: Iterable[str],
    actual: VisionTransformerConfig,
    *,
    key: str = "pretraining.model",
    address: str,
) -> None:
    """Refuse keys that say something else than the weights.

    Args:
        stated: The configuration.
        keys: Which of its keys count: those that somebody set.
        actual: The shape of the weights.
        key: Where the configuration stands, for the message.
        address: Of the weights, for the message.

    Raises:
        ConfigError: Naming every such key, with both values.
    """
    wrong = [name for name in VisionTransformerConfig.model_fields if name in keys and _differs(name, stated, actual)]
    if wrong:
        lines = [f"{key}.{name} is {getattr(stated, name)}, theirs is {getattr(actual, name)}" for name in wrong]
        raise ConfigError(
            f"{key} contradicts the weights to start from, {address}:\n    " + "\n    ".join(lines),
            action=f"set `{key}: from_weights`: their shape, position table and pooling are then taken from them; or "
            "take these keys out",
        )


def _differs(name: str, stated: VisionTransformerConfig, actual: VisionTransformerConfig) -> bool:
    ours, theirs = getattr(stated, name), getattr(actual, name)
    if name in _CHOICES or ours == "auto":
        return False
    if name in _FOR_LEARNED and actual.position != "learned":
        return False
    if name in _FOR_ROPE and actual.position != "rope":
        return False
    if name == "layerscale":  # the initial gain; what was learnt since is in the weights
        return (ours is None) != (theirs is None)
    if name == "mlp_ratio":
        return actual.model_copy(update={"mlp_ratio": ours}).hidden_dim != actual.hidden_dim
    return bool(ours != theirs)


def _fresh(stated: StatedModel, channels: int | None, *, key: str, dataset: str) -> VisionTransformerConfig:
    """A model that starts from random weights."""
    if stated.in_channels == "auto":
        wanted = channels or 3
    else:
        wanted = stated.in_channels
        if channels is not None and channels != wanted:
            raise ConfigError(
                f"{key}.in_channels is not the number of channels of {dataset}.",
                found=f"{wanted}; {dataset} has {channels}",
                action=f"set {key}.in_channels to auto or to {channels}, or curation.write.channels to {wanted}",
            )
    shape = stated.model_dump(exclude=set(InitialisationConfig.model_fields))
    return VisionTransformerConfig.parse(shape | {"in_channels": wanted}, where=key)
