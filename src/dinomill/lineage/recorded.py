"""What MLflow's runs and registry say, as a part of a thread."""

from __future__ import annotations

from collections.abc import Callable

from dinomill.addresses import redact
from dinomill.errors import DinomillError
from dinomill.lineage.places import Place
from dinomill.lineage.thread import Kind, Thread
from dinomill.tracking.connection import database_path
from dinomill.tracking.recorded import DATASET_TAG, WEIGHTS_TAG, Recorded, RecordedRun, read_recorded
from dinomill.tracking.registry import RegisteredVersion

# The runs that stand between a dataset and a network, and the one that makes a dataset.
_TRAINING = ("pretraining", "distillation")
_CURATION = "curation"


def add_recorded(thread: Thread, found: list[Place], brings: Callable[[Place], str]) -> bool:
    """Add what the stores of some environments recorded; whether each could be asked.

    Args:
        thread: What is added to.
        found: The environments.
        brings: The command that registers what one of them has, for a store that is not there at all.
    """
    asked = True
    stores: dict[str, Place] = {}
    for place in found:
        if place.store and place.used:
            stores.setdefault(place.store, place)
    for store, first in stores.items():
        try:
            recorded = read_recorded(store)
        except DinomillError as error:
            asked = False
            why = " ".join(filter(None, (error.problem, error.found)))
            database = database_path(store)
            thread.lack(
                f"runs and registered versions of {redact(store)} are not known: {why}",
                brings(first)
                if database is not None and not database.exists()
                else "start the server, or set MLFLOW_TRACKING_URI to the store that has the models",
            )
            continue
        _add(thread, recorded)
    return asked


def _add(thread: Thread, recorded: Recorded) -> None:
    for run in recorded.runs:
        if run.stage in (*_TRAINING, _CURATION):
            _add_run(thread, run)
    for version in recorded.versions:
        _add_version(thread, version)


def _add_run(thread: Thread, run: RecordedRun) -> None:
    thing = thread.add(
        Kind.RUN,
        run.id,
        f"{run.stage} {run.id[:8]}",
        status=run.status,
        day=run.day,
        commit=run.commit,
        name=run.name if run.name != run.stage else None,
    )
    for digest in run.datasets:
        data = thread.add(Kind.DATASET, digest, digest[:12])
        if run.stage == _CURATION:
            data.facts.setdefault("curated by run", f"{run.id[:8]} of {run.day}")
        else:
            thread.link(data, thing, "trained on it")
    for name, weights in run.made.items():
        thread.link(thing, thread.add(Kind.NETWORK, weights, f"{name} {weights[:12]}"), "made")
    if run.stage == _CURATION:
        del thread.things[thing.key]  # said with its dataset


def _add_version(thread: Thread, version: RegisteredVersion) -> None:
    tags = version.tags
    thing = thread.add(
        Kind.VERSION,
        f"{version.name}/{version.version}",
        f"models:/{version.name}/{version.version}",
        aliases=", ".join(version.aliases),
        gate=tags.get("gate"),
        commit=tags.get("training_commit"),
        registered_at=tags.get("git_commit"),
        licence=tags.get("licence"),
    )
    thing.facts["registered"] = "yes"
    weights = tags.get(WEIGHTS_TAG)
    if not weights:
        return
    network = thread.add(Kind.NETWORK, weights, f"{tags.get('model', '')} {weights[:12]}".strip())
    thread.link(network, thing, "registered as")
    if data := tags.get(DATASET_TAG):
        dataset = thread.add(Kind.DATASET, data, data[:12], dvc=tags.get("dvc_curated"))
        thread.link(dataset, network, "trained on it")
    if teacher := tags.get("teacher_sha256"):
        thread.link(thread.add(Kind.NETWORK, teacher, f"teacher {teacher[:12]}"), network, "taught it")
