"""The registration stage: the export becomes a version of an MLflow model, and the champion if it passes the gate.

<output>/handle.json       RegistrationHandle
<output>/model_card.md     what the version's page shows
<output>/cards/<name>.md   the card of the teacher and of every student

Its effect lies in the registry, which can be emptied, restored or edited while nothing that DVC watches changes. So it
looks there every time; where the version is there and all was decided before, it does no more than say what is so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version

from dinomill import tracking
from dinomill.errors import InputError
from dinomill.handles import (
    DatasetHandle,
    EvaluationHandle,
    ModelHandle,
    RegistrationHandle,
    StudentsHandle,
)
from dinomill.images.limits import MAX_MEGAPIXELS
from dinomill.licences import of_handle, warn_if_unknown
from dinomill.registration.aliases import move, one_at_a_time
from dinomill.registration.card import model_summary
from dinomill.registration.cards import Texts, keep, page_of, texts_of
from dinomill.registration.config import CHAMPION, RegistrationConfig
from dinomill.registration.decision import chosen, decided, decision_tags, made_of
from dinomill.registration.example import example_table
from dinomill.registration.export import REPRO, check_export, served_parts
from dinomill.registration.facts import facts, figures, identity
from dinomill.registration.gate import Champion, Check, gated, judge
from dinomill.registration.origin import kept, learned, origin, outdated
from dinomill.registration.page_length import fitted
from dinomill.registration.side_by_side import asks_beside, compare_with, curated_images, judge_beside
from dinomill.scores import ModelScore
from dinomill.storage.atomic import atomic_folder, write_text

log = logging.getLogger(__name__)

# What a process needs that serves the model, as MLflow's requirements.txt.
_REQUIREMENTS = ("dinomill", "torch", "numpy", "pillow", "safetensors", "simplejpeg")


def register_model(
    teacher: ModelHandle | None,
    students: StudentsHandle,
    evaluation: EvaluationHandle,
    curated: DatasetHandle,
    config: RegistrationConfig,
) -> RegistrationHandle:
    """Register the chosen network, point ``candidate`` at it, and ``champion`` if it passes the gate.

    The same weights, data and scores do not become a second version, unless ``force`` is set: the first is found again.
    Where the registry has it, with the decision of the gate on just this, nothing is changed there: an alias that was
    moved by hand since stays where it is.

    Raises:
        InputError: When the export is not what its handle says.
        MachineError: When the MLflow store cannot be reached.
    """
    model = chosen(teacher, students, config)
    check_export(model)
    warn_if_unknown(of_handle(model).licence, model.name, "distillation.licence or pretraining.licence")
    score = _score_of(model, config, evaluation)
    asked = made_of(model, evaluation, config)
    store = _store(config)
    known = tracking.find_version(store, config.name, identity(model))
    checks = None if known is None else decided(known.tags, asked)
    if (
        known is not None
        and checks is not None
        and config.aliases.candidate in known.aliases
        and _is_intact(store, known)
    ):
        log.info("%s is in the registry, as it was decided.", known.uri)
        texts = texts_of(model, teacher, students, curated, evaluation, checks, config)
        now = origin(store, model, students, evaluation, curated, config, known.tags)
        new, gone = learned(known, now), outdated(known.tags, now)
        if new or gone:
            tags = {key: value for key, value in known.tags.items() if key not in gone} | new
            page = page_of(store, model, curated, evaluation, checks, tags, config)
            with _run(store, config) as run:
                keep(run, texts, page)
            tracking.annotate(store, known, description=fitted(page), tags=new, without=gone)
            log.info("%s has other tags, by what is known now: %s", known.uri, ", ".join([*new, *gone]))
        return _write(known, model, checks, texts, asked, config)
    with _run(store, config) as run, one_at_a_time(store, config.name):
        _log_lineage(run, curated, evaluation)
        present = tracking.version_by_alias(store, config.name, config.aliases.champion)
        other = present if present and present.tags.get(tracking.WEIGHTS_TAG) != model.weights_sha256 else None
        champion = Champion(other.version, other.tags) if other else None
        checks = judge(score, evaluation, champion, config.gate, model)
        if other is not None and asks_beside(config.gate):
            checks += _beside(store, model, other, curated, config)
        tags = facts(model, evaluation, checks, config) | decision_tags(asked, checks)
        before = None if config.force else known
        tags |= origin(store, model, students, evaluation, curated, config, before.tags if before else None)
        if before is not None:
            tags |= kept(before, tags)
        texts = texts_of(model, teacher, students, curated, evaluation, checks, config)
        keep(run, texts, page := page_of(store, model, curated, evaluation, checks, tags, config))
        version = _find_or_register(run, model, figures(model, config, evaluation), tags, fitted(page), config)
        _point(store, config.name, config.aliases.candidate, version.version, "registered")
        passed = all(check.passed for check in checks)
        for check in checks:
            log.info("%s: %s", version.uri, check)
        if passed:
            _point(store, config.name, config.aliases.champion, version.version, "passed its gate")
        elif present is not None and present.version == version.version:
            log.warning("%s fails the gate now, and stays champion until another version passes it.", version.uri)
        run.set_tags({"registered": version.uri, "gate": "passed" if passed else "failed"})
        run.rename(f"registration · version {version.version}, {'champion' if passed else 'candidate'}")
    return _write(tracking.read_version(store, version), model, checks, texts, asked, config)


def _point(store: str, name: str, alias: str, version: int, because: str) -> None:
    """Move an alias, unless the version has it."""
    present = tracking.version_by_alias(store, name, alias)
    before = None if present is None else present.version
    if before != version:
        move(store, name, alias, version, before=before, because=because)


def _beside(
    store: str,
    model: ModelHandle,
    other: tracking.RegisteredVersion,
    curated: DatasetHandle,
    config: RegistrationConfig,
) -> tuple[Check, ...]:
    """What the champion is asked for beside scores: size, speed, neighbours."""
    try:
        folder = tracking.download(other.uri, store)
    except InputError:
        said = f"the files of version {other.version}, the champion, are gone: size and speed are not known"
        return (Check(True, said, "not compared", CHAMPION),)
    images = curated_images(curated, config.gate.compared_images)
    return judge_beside(compare_with(model.folder, folder, images), other.version, config.gate)


def _store(config: RegistrationConfig) -> str:
    """The store that the stage writes to: what the environment variable says comes before the configuration."""
    return tracking.resolve_uri(os.environ.get("MLFLOW_TRACKING_URI") or config.tracking.tracking_uri)


@contextmanager
def _run(store: str, config: RegistrationConfig) -> Iterator[tracking.Run]:
    """A run of its own, unless one is open: a look that changes nothing leaves none."""
    attached = tracking.attach()
    if attached.writes:
        yield attached
        return
    params = {"registration": config.model_dump(mode="json")}
    experiment = config.tracking.experiment
    root = config.tracking.artifact_root
    with tracking.open_run(
        "registration", tracking_uri=store, experiment=experiment, params=params, artifact_root=root
    ) as run:
        yield run


def _score_of(model: ModelHandle, config: RegistrationConfig, evaluation: EvaluationHandle) -> ModelScore | None:
    found = gated(evaluation, config.gate)
    if found is None:
        return None
    table, _ = found
    for score in table.scores:
        if score.model == model.name and score.kind == config.network:
            return score
    raise InputError(
        f"The evaluation has no score of {model.name}.",
        found=", ".join(score.model for score in table.scores),
        action="run the evaluation again: " + REPRO.format("evaluation"),
    )


def _log_lineage(run: tracking.Run, curated: DatasetHandle, evaluation: EvaluationHandle) -> None:
    run.log_dataset("curated", curated.manifest_sha256, curated.folder.as_posix(), rows=curated.images)
    for name, table in evaluation.tables().items():
        images = table.bank_images + table.query_images
        run.log_dataset(
            name or "labelled", str(table.labelled_sha256), "labelled images", context="evaluation", rows=images
        )


def _find_or_register(
    run: tracking.Run,
    model: ModelHandle,
    measured: dict[str, float],
    tags: dict[str, str],
    card: str,
    config: RegistrationConfig,
) -> tracking.RegisteredVersion:
    known = None if config.force else tracking.find_version(run.tracking_uri, config.name, identity(model))
    if known is not None and _is_intact(run.tracking_uri, known):
        log.info("%s already holds these weights: its scores and gate are brought up to date.", known.uri)
        without = outdated(known.tags, tags)
        tracking.annotate(run.tracking_uri, known, description=card, tags=tags, without=without)
        return known
    metrics: dict[str, float] = {"parameters": model.parameters, "images_seen": model.images_seen, **measured}
    details = tracking.ModelCard(
        loader="dinomill.serving.pyfunc",
        example=example_table(len(model.mean), model.image_size),
        embed_dim=model.embed_dim,
        requirements=[f"{name}=={installed_version(name).split('+')[0]}" for name in _REQUIREMENTS],
        metrics=metrics,
        tags=tags,
        description=card,
        summary=model_summary(config.name, config.aliases),
        settings={"max_megapixels": MAX_MEGAPIXELS},
        parameters={"normalise": False},
    )
    made_by = tags.get("training_run")
    with served_parts(model.folder) as folder:
        return tracking.register(run, config.name, folder, details, made_by=made_by)


def _is_intact(store: str, version: tracking.RegisteredVersion) -> bool:
    """Whether the version's files are still there: artifacts can be deleted behind the registry's back."""
    try:
        tracking.download(version.uri, store)
    except InputError:
        log.warning("The files of %s are gone: the weights become a new version.", version.uri)
        return False
    return True


def _write(
    version: tracking.RegisteredVersion,
    model: ModelHandle,
    checks: tuple[Check, ...],
    texts: Texts,
    asked: str,
    config: RegistrationConfig,
) -> RegistrationHandle:
    named = (config.aliases.candidate, config.aliases.champion)
    aliases = tuple(alias for alias in named if alias in version.aliases)
    handle = RegistrationHandle(
        folder=config.output,
        made_of=asked,
        model=config.name,
        version=version.version,
        aliases=aliases,
        uri=f"models:/{config.name}@{aliases[-1]}" if aliases else version.uri,
        weights_sha256=model.weights_sha256,
        source=model.folder,
        passed_gate=all(check.passed for check in checks),
        gate=tuple(str(check) for check in checks),
        licence=of_handle(model).licence,
        origin=model.origin,
    )
    with atomic_folder(config.output) as folder:
        write_text(folder / "model_card.md", f"# {config.name} version {version.version}\n\n{texts.version}")
        (folder / "cards").mkdir()
        for name, text in texts.cards.items():
            write_text(folder / "cards" / f"{name}.md", text)
        handle.save(folder)
    return handle
