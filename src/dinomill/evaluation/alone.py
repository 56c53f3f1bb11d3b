"""Networks of any address on one labelled set, without a pipeline or a project: what ``dinomill evaluate`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dinomill.errors import ConfigError, DinomillError
from dinomill.evaluation.compare import Comparison, Pairs, compare
from dinomill.evaluation.config import RandomConfig
from dinomill.evaluation.features import Extraction, Precision, compute_dtype, device
from dinomill.evaluation.networks import Network, of_address, pixels, random_network, random_shape
from dinomill.evaluation.protocols import PROTOCOLS, build
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.protocols.config import ProtocolsConfig
from dinomill.evaluation.results import Results, Row
from dinomill.evaluation.sets.base import read_set
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.spoken import require_there, spoken
from dinomill.evaluation.statistics import Bootstrap
from dinomill.features.door import describe


@dataclass(frozen=True)
class Asked:
    """What is measured, and how.

    Args:
        models: Addresses of networks; the first is what the others are compared with.
        labelled: The set, and its protocols.
        limits: Its splits, and how many images of each at most.
        image_size: Pixels, instead of the networks' own.
        baselines: Whether raw pixels and random weights of the first network's shape are rows, too.
        protocols: Settings of the protocols.
        random: How many random networks are drawn.
        precision: Of the networks' products: float32, bfloat16 or auto.
        batch_size: Images in one forward pass.
        bootstrap: How intervals are made.
        collapsed: Whether a network that gives every image the same features is measured, too, for a gate to judge.
    """

    models: Sequence[str]
    labelled: SetConfig
    limits: Limits
    image_size: int | None = None
    baselines: bool = True
    protocols: ProtocolsConfig = field(default_factory=ProtocolsConfig)
    random: RandomConfig = field(default_factory=lambda: RandomConfig(seeds=1))
    precision: Precision = "float32"
    batch_size: int = 64
    bootstrap: Bootstrap = field(default_factory=lambda: Bootstrap(2000, 0.95, 0))
    collapsed: bool = False


def evaluate_alone(asked: Asked, cache: Path) -> Results:
    """Measure every network, and the baselines.

    Args:
        asked: Networks, set and protocols.
        cache: Where features are kept, by content and weights.

    Raises:
        ConfigError: When a protocol is unknown, or not made for such a set.
        InputError: When an address holds no network, or the set or an image cannot be used.
    """
    names = asked.labelled.measured
    if unknown := [name for name in names if name not in PROTOCOLS]:
        raise ConfigError(
            f"There is no protocol {unknown[0]!r}.", expected=", ".join(PROTOCOLS), action="name one of these"
        )
    require_there(asked.labelled.labelled)
    protocols = [build(name, asked.protocols) for name in names]
    networks = _networks(asked)
    how = Comparison(
        Extraction(cache, asked.batch_size, compute_dtype(asked.precision)),
        asked.bootstrap,
        Settings(asked.bootstrap.seed, asked.batch_size, cache, device(), asked.precision),
        asked.random.poolings,
        asked.protocols.knn,
        collapsed=asked.collapsed,
    )
    try:
        data = read_set(asked.labelled, Path(asked.labelled.labelled).name or "set", asked.limits)
        return compare(networks, data, protocols, how, pairs=_with_the_first)
    except DinomillError as error:
        raise spoken(error, asked.labelled) from None


def _networks(asked: Asked) -> list[Network]:
    """Baselines first, as in every table; the models in their order, by names that differ."""
    models = [of_address(address, "model", image_size=asked.image_size) for address in asked.models]
    models = [replace(model, name=name) for model, name in zip(models, _names(asked.models), strict=True)]
    if not asked.baselines:
        return models
    first, seen = describe(asked.models[0]), models[0].preprocessing
    rows = [pixels(seen, None if first.model is None else first.model.patch_size)]
    if first.model is not None:
        shape = random_shape(first.model, asked.random)
        rows += [random_network(shape, seen, seed, models[0].parameters) for seed in range(asked.random.seeds)]
    return [*rows, *models]


def _names(addresses: Sequence[str]) -> list[str]:
    """The shortest ends of the addresses that differ."""
    parts = [[part for part in address.split("/") if part] for address in addresses]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{address} ({number})" for number, address in enumerate(addresses, 1)]


def _with_the_first(rows: Sequence[Row]) -> Pairs:
    """Each other model over the first, the first over the baselines."""
    models = [row for row in rows if row.network.kind == "model"]
    first = models[0]
    baselines = [row for row in rows if row.network.kind != "model"]
    pairs = {f"{other.network.name} over {first.network.name}": (other, first) for other in models[1:]}
    return pairs | {f"{first.network.name} over {row.network.name}": (first, row) for row in baselines}
