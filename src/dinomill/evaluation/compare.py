"""Several networks on one labelled set by the same protocols, side by side."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dinomill.errors import ConfigError, InputError
from dinomill.evaluation.features import Extraction, Images, extract
from dinomill.evaluation.networks import Network
from dinomill.evaluation.protocols.base import Protocol, Settings
from dinomill.evaluation.protocols.config import KnnConfig
from dinomill.evaluation.protocols.knn import choose_k
from dinomill.evaluation.results import Results, Row
from dinomill.evaluation.sets.base import EvaluationSet
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.split_features import NetworkFeatures, SplitFeatures
from dinomill.evaluation.statistics import Bootstrap, Exact, difference, interval
from dinomill.evaluation.wanted import NOTHING, Needs, Wanted, all_of
from dinomill.features.base import largest_difference_if_same
from dinomill.images.channels import conversion, kind_of_files
from dinomill.models.config import Pooling
from dinomill.scores import Difference, Measure

log = logging.getLogger(__name__)

# A comparison's name: one row, and what it is held against.
Pairs = dict[str, tuple[Row, Row]]

# Rows whose patches and attention are shown.
SEEN = ("start", "teacher", "student")


@dataclass(frozen=True)
class Comparison:
    """How networks are compared.

    Args:
        extraction: How features are computed and where they are kept.
        bootstrap: How intervals are made.
        settings: What protocols share.
        poolings: Embeddings that are tried of each random network.
        knn: By which the strongest of them is found, on the bank.
        shown: Queries whose patch grids are kept to be shown.
        collapsed: Whether a network that gives every image the same features is measured, too.
    """

    extraction: Extraction
    bootstrap: Bootstrap
    settings: Settings
    poolings: Sequence[Pooling]
    knn: KnnConfig
    shown: tuple[int, ...] = ()
    collapsed: bool = False


def compare(
    networks: Sequence[Network],
    data: EvaluationSet[Any],
    protocols: Sequence[Protocol[Any, Any]],
    how: Comparison,
    pairs: Callable[[Sequence[Row]], Pairs] | None = None,
) -> Results:
    """Measure every network on a set; of the random ones, the strongest.

    Args:
        networks: The rows, in their order.
        data: The labelled set.
        protocols: What is measured, in the order of the columns.
        how: Extraction, intervals, seeds.
        pairs: Which rows are held against each other; None: those of a pipeline's run.

    Raises:
        ConfigError: When a protocol is not made for such a set.
        InputError: When a protocol refuses the set, or an image or a network cannot be used.
    """
    for protocol in protocols:
        _require_kind(protocol, data)
        protocol.check(data)
    _require_apart(data)
    _say_conversion(networks, data)
    measures = tuple(measure for protocol in protocols for measure in protocol.measures(data))
    rows = tuple(_row(features, data, protocols, how) for features in _features(networks, data, protocols, how))
    for row in rows:
        shown = (f"{measure.title} {row.figures[measure.name].show(measure)}" for measure in measures)
        log.info("%s: %s: %s", data.name, row.network.name, ", ".join(shown))
    return Results(data, tuple(protocols), measures, rows, _gains((pairs or _pairs)(rows), measures, how.bootstrap))


def _row(
    features: NetworkFeatures, data: EvaluationSet[Any], protocols: Sequence[Protocol[Any, Any]], how: Comparison
) -> Row:
    if not how.collapsed and features.network.kind != "champion":  # one in use must not keep others from being measured
        _require_differences(features, data)
    measured = {
        name: one for protocol in protocols for name, one in protocol.measure(features, data, how.settings).items()
    }
    figures = {name: interval(one.outcomes, how.bootstrap) for name, one in measured.items()}
    for name, figure in figures.items():
        if not math.isfinite(figure.value):
            raise InputError(
                f"{name} of {features.network.name} on {data.name} is no number.",
                found=str(figure.value),
                action="look at the features of that network: are they the same for every image?",
            )
    return Row(features, measured, figures)


def _require_differences(features: NetworkFeatures, data: EvaluationSet[Any]) -> None:
    """Refuse features that are the same for every image: neighbours would be decided by the order of the files.

    Raises:
        InputError: Names the network.
    """
    parts = [part.embedding for part in (features.bank, features.queries) if part.cls.shape[1]]
    if (most := largest_difference_if_same(*parts)) is not None:
        raise InputError(
            f"{features.network.name} gives the same features for every image of {data.name}.",
            found=f"{sum(map(len, parts)):,} images, the largest difference {most:.1g}",
            expected="features that tell images apart",
            action="leave it out; a training that collapsed says so at its looks, in the run's log and on the report",
        )


def _features(
    networks: Sequence[Network], data: EvaluationSet[Any], protocols: Sequence[Protocol[Any, Any]], how: Comparison
) -> list[NetworkFeatures]:
    """Everything that the protocols need, of the networks that are shown."""
    needs = all_of(protocol.needs for protocol in protocols)
    if isinstance(data, ClassifiedSet):  # embeddings of these are shown and searched in, whatever is measured
        needs |= Needs()
    bank = Images(data.bank.paths, data.bank_files, f"{data.name}, bank")
    networks = _with_the_strongest_random(networks, data, bank, needs, how)
    queries = Images(data.queries.paths, data.query_files, f"{data.name}, queries")
    of_bank = extract(bank, networks, [needs.bank for _ in networks], how.extraction)
    shown = [Wanted(0, shown=how.shown) if network.kind in SEEN else NOTHING for network in networks]
    of_queries = extract(queries, networks, [needs.queries | one for one in shown], how.extraction)
    views: dict[str, list[SplitFeatures]] = {}
    for view in needs.views:
        images = replace(queries, name=f"{queries.name}, {view.name}", view=view)
        views[view.name] = extract(images, networks, [Wanted() for _ in networks], how.extraction)
    return [
        NetworkFeatures(
            network, of_bank[index], of_queries[index], {name: features[index] for name, features in views.items()}
        )
        for index, network in enumerate(networks)
    ]


def _with_the_strongest_random(
    networks: Sequence[Network], data: EvaluationSet[Any], bank: Images, needs: Needs, how: Comparison
) -> list[Network]:
    """The rows with one random network: a gain over a weak draw would be no gain.

    It is the network and pooling with the best kNN on the bank; without classes, the first with the pooling of its
    shape. Patch grids, which are large, are computed of the one that is shown alone.
    """
    drawn = [network for network in networks if network.kind == "random"]
    if not drawn:
        return list(networks)
    best = drawn[0]
    if isinstance(data, ClassifiedSet):
        labels = torch.from_numpy(data.bank.labels)
        wanted = Wanted(needs.bank.blocks) if needs.bank.grids == 0 else Wanted()
        of_bank = extract(bank, drawn, [wanted for _ in drawn], how.extraction)
        candidates = [
            (
                max(choose_k(features.pooled(pooling), labels, how.knn, seed=how.settings.seed).values()),
                network,
                pooling,
            )
            for network, features in zip(drawn, of_bank, strict=True)
            for pooling in how.poolings
        ]
        _, network, pooling = max(candidates, key=lambda one: one[0])
        best = replace(network, pooling=pooling)
    others = [network for network in networks if network.kind != "random"]
    place = next(index for index, network in enumerate(networks) if network.kind == "random")
    return [*others[:place], best, *others[place:]]


def _require_kind(protocol: Protocol[Any, Any], data: EvaluationSet[Any]) -> None:
    """Refuse a protocol on labels that it does not read.

    Raises:
        ConfigError: With the kinds that it is made for.
    """
    if data.kind not in protocol.kinds:
        raise ConfigError(
            f"{protocol.name} cannot be measured on {data.name}.",
            found=f"a set of the kind {data.kind}",
            expected=" or ".join(protocol.kinds),
            action="correct the `kind` of the set, or its protocols",
        )


def _require_apart(data: EvaluationSet[Any]) -> None:
    """Refuse to score the images that were learnt from, and say so of single ones. A list says itself who is who.

    Raises:
        InputError: When every image that is scored is in the bank, too.
    """
    if data.kind == "list":
        return
    bank = set(data.bank_files)
    same = [path for path, file in zip(data.queries.paths, data.query_files, strict=True) if file in bank]
    if len(same) == len(data.queries):
        raise InputError(
            f"All images of {data.name} that are to be scored are among those to learn from.",
            found=f"{data.shown(same[0])} and {len(same) - 1:,} more, by their content",
            expected="two splits of different images",
            action="give `bank_split` and `query_split` two splits of different images",
        )
    if same:
        log.warning(
            "%s: %d of %s scored images are among those to learn from, too (%s, …): the scores are too good by them.",
            data.name,
            len(same),
            f"{len(data.queries):,}",
            data.shown(same[0]),
        )


def _say_conversion(networks: Sequence[Network], data: EvaluationSet[Any]) -> None:
    """Say once of which networks the images are made grey or colour; luminance alone loses something."""
    own = kind_of_files(data.queries.paths)
    names: dict[int, list[str]] = {}
    for network in networks:
        if network.kind == "pixels":  # takes what it is given beside the others
            continue
        names.setdefault(network.preprocessing.channels, []).append(network.name)
    for channels, named in names.items():
        if own is None or channels not in (1, 3):
            continue
        different = list(dict.fromkeys(named))
        whom = different[0] if len(different) == 1 else f"each of {', '.join(different)}"
        which = "the labelled set" if data.name == "labelled" else f"the set {data.name}"
        if said := conversion(own, channels, which, whom):
            log.log(logging.INFO if own == 1 else logging.WARNING, said)


def _pairs(rows: Sequence[Row]) -> Pairs:
    """Pairs that decide something: does training help, and what does distillation cost?"""
    by_kind = {row.network.kind: row for row in rows if row.network.kind != "student"}
    pairs: Pairs = {}
    for row in rows:
        of_student = row.network.kind == "student"
        if of_student or row.network.kind == "teacher":
            name = row.network.name if of_student else "teacher"
            others: tuple[str, ...] = ("start", "champion", "random", "teacher") if of_student else _OF_TEACHER
            if of_student and not _taught_by(row, by_kind.get("teacher")):
                others = ("champion", "random")
            pairs |= {f"{name}_over_{kind}": (row, by_kind[kind]) for kind in others if kind in by_kind}
    return pairs


def _taught_by(student: Row, teacher: Row | None) -> bool:
    """Whether this teacher is the student's: another one says nothing of what distillation cost, nor does its start."""
    return teacher is None or student.network.taught_by in (None, teacher.network.identity)


def _gains(pairs: Pairs, measures: Sequence[Measure], bootstrap: Bootstrap) -> dict[str, dict[str, Difference]]:
    """Paired differences of every measure that the images decide; of a speed that was timed there is none to judge."""
    found: dict[str, dict[str, Difference]] = {}
    for name, (one, other) in pairs.items():
        outcomes = {
            measure.name: (one.measured[measure.name].outcomes, other.measured[measure.name].outcomes)
            for measure in measures
        }
        found[name] = {
            measure: difference(*both, bootstrap)
            for measure, both in outcomes.items()
            if not any(isinstance(each, Exact) for each in both)
        }
    return {name: gains for name, gains in found.items() if gains}


_OF_TEACHER = ("start", "champion", "pixels", "random")
