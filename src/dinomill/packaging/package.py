"""Package a registered backbone for TorchServe, and try the package.

<output>/handle.json
<output>/model_store/<model>.mar    the archive; carries the weights and the prediction code
<output>/config.properties          a safe TorchServe configuration, for the package's folder as working directory
<output>/log4j2.xml                 what TorchServe logs: rotating, without the content of requests
<output>/metrics.yaml               what it measures, for Prometheus
<output>/requirements.txt           what a server needs to have installed
<output>/README.md                  how to serve it and how to ask it
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dinomill import tracking
from dinomill.errors import DinomillError
from dinomill.handles import DatasetHandle, PackageHandle, ProbesHandle, RegistrationHandle
from dinomill.images.sampled import sample_images
from dinomill.packaging.calls import CallLimit, images_of_a_call
from dinomill.packaging.config import PackagingConfig
from dinomill.packaging.smoke import try_package
from dinomill.serving.backends.table import render_backends
from dinomill.serving.torchserve.archive import build_archive
from dinomill.serving.torchserve.logs import LOG_CONFIG, render_log_config
from dinomill.serving.torchserve.metrics_config import METRICS_CONFIG, render_metrics_config
from dinomill.serving.torchserve.properties import Ports, render_properties
from dinomill.serving.torchserve.readme import Told, render_readme
from dinomill.serving.torchserve.requirements import archive_requirements
from dinomill.storage.atomic import atomic_folder, write_text
from dinomill.storage.hashing import hash_file, hash_json
from dinomill.tracking import DATASET_TAG, WEIGHTS_TAG, download, resolve

if TYPE_CHECKING:
    from dinomill.packaging.along import Along
    from dinomill.serving.backends.select import Selected
    from dinomill.serving.predictor import Predictor

log = logging.getLogger(__name__)

STORE, README = "model_store", "README.md"


def package_model(
    registered: RegistrationHandle,
    curated: DatasetHandle,
    config: PackagingConfig,
    labelled: str | None = None,
    probes: ProbesHandle | None = None,
) -> PackageHandle:
    """Build the archive and its configuration, serve it for real, and keep it only when it answers rightly.

    Args:
        registered: The registered model.
        curated: The dataset that the images of the trial and of the index are taken from.
        config: The stage's configuration.
        labelled: Labelled images, on which backends are compared by their nearest neighbours; None: there are none.
        probes: The linear probes that evaluation fitted; None: there are none.

    Raises:
        InputError: When labelled images, or the probe that is named, cannot be used.
        MachineError: No Java, TorchServe does not start, or it answers wrongly.
    """
    from dinomill.packaging.along import require_probe

    registered = chosen(registered, config.registered)
    require_probe(registered, config)
    images = sample_images(curated, config.smoke.images)
    with atomic_folder(config.output) as folder, tempfile.TemporaryDirectory(prefix="dinomill-programs-") as programs:
        built = _build(registered, curated, probes, labelled, config, folder, Path(programs))
        expected = built.predictor(images)
        figures = try_package(built.archive.stem, folder / STORE, expected, images, config)
        calls = images_of_a_call(figures["call_images_per_second"], images, int(expected.shape[1]), config)
        write_text(folder / README, _readme(built, registered, calls, config))
        tracking.attach().log_metrics({f"served_{name}": value for name, value in figures.items()})
        log.info(
            "TorchServe answers: %(latency_ms).0f ms an image, %(seconds_to_ready).0f s until it was ready.", figures
        )
        handle = PackageHandle(
            folder=config.output,
            made_of=_made_of(registered, curated, probes, built.along, config),
            archive=config.output / STORE / built.archive.name,
            archive_sha256=hash_file(built.archive),
            model=built.archive.stem,
            version=registered.version,
            weights_sha256=registered.weights_sha256,
            embed_dim=int(expected.shape[1]),
            smoke=figures,
            call_images=calls.images,
            call_reason=calls.reason,
            backend=str(built.selected.backend),
            backends=tuple(row.model_dump(mode="json") for row in built.selected.table),
            backends_left_out=built.selected.left_out,
            probe=built.along.probe,
            index=built.along.index,
            lineage=lineage_of(registered) | _index_lineage(built.along, curated),
        )
        handle.save(folder)
    return handle


class _Built(NamedTuple):
    """An archive, before its trial."""

    archive: Path
    requirements: list[str]
    selected: Selected
    predictor: Predictor  # the network as the archive has to answer
    along: Along


def _build(
    registered: RegistrationHandle,
    curated: DatasetHandle,
    probes: ProbesHandle | None,
    labelled: str | None,
    config: PackagingConfig,
    folder: Path,
    programs: Path,
) -> _Built:
    """Choose the backend, write the archive and what lies beside it.

    Args:
        registered: The registered model.
        curated: Of which backends are measured and an index is made.
        probes: The linear probes that evaluation fitted.
        labelled: Labelled images, on which backends are compared.
        config: The stage's configuration.
        folder: The package's.
        programs: Takes what goes into the archive beside weights and code.
    """
    from dinomill.packaging.along import add_views, largest_answer
    from dinomill.packaging.views import choose_backend, expected_of

    selected = choose_backend(registered, curated, config, programs, labelled)
    predictor = expected_of(registered.source, selected.backend, programs, config)
    along = add_views(registered, curated, probes, predictor, programs, config)
    model = config.name or registered.model
    largest = largest_answer(predictor, programs)
    archive = build_archive(
        registered.source,
        folder / STORE,
        model=model,
        version=str(registered.version),
        batching=config.batching,
        server=config.server,
        backend=selected.backend,
        beside=programs,
        answer_bytes=largest,
    )
    requirements = archive_requirements(archive)
    write_text(folder / "requirements.txt", "\n".join(requirements) + "\n")
    properties = render_properties(model, Path(STORE), config.server, Ports(), answer_bytes=largest)
    write_text(folder / "config.properties", properties)
    write_text(folder / LOG_CONFIG, render_log_config())
    write_text(folder / METRICS_CONFIG, render_metrics_config())
    return _Built(archive, requirements, selected, predictor, along)


def _readme(built: _Built, registered: RegistrationHandle, calls: CallLimit, config: PackagingConfig) -> str:
    selected = built.selected
    told = Told(
        backend=selected.backend,
        table=render_backends(selected.table, selected.left_out, str(selected.backend)),
        call=f"{calls.images} images: {calls.reason}",
        knn_images=max((row.knn_images for row in selected.table), default=0),
        environment=config.environment,
    )
    return render_readme(built.archive.stem, registered, built.requirements, config.server, told)


def _made_of(
    registered: RegistrationHandle,
    curated: DatasetHandle,
    probes: ProbesHandle | None,
    along: Along,
    config: PackagingConfig,
) -> str:
    """Hash of all that makes the package what it is."""
    apart = {"work", "output", "store", "gateway", "public", "environment"}
    return hash_json(
        [
            config.model_dump(mode="json", exclude=apart),
            registered.weights_sha256,
            registered.version,
            along.probe,
            along.index,
            *([] if probes is None else [probes.made_of]),
            *([curated.manifest_sha256] if along.index else []),
        ]
    )


def _index_lineage(along: Along, curated: DatasetHandle) -> dict[str, str]:
    return {"index_dataset_sha256": curated.manifest_sha256} if along.index else {}


def lineage_of(registered: RegistrationHandle) -> dict[str, str]:
    """Where a version came from, as the registry has it: for those who only have the package.

    A version is registered once, so that its time and its run are the same whenever it is packaged.
    """
    found = {"weights_sha256": registered.weights_sha256, "licence": registered.licence, "origin": registered.origin}
    try:
        version = resolve(f"models:/{registered.model}/{registered.version}")
    except DinomillError:  # a version that was registered elsewhere: its package is as good
        version = None
    if version is not None and version.tags.get(WEIGHTS_TAG) == registered.weights_sha256:
        found |= {
            "uri": version.uri,
            "dataset_sha256": version.tags.get(DATASET_TAG),
            "run": version.made_by,
            "registered": version.registered,
        }
    return {name: value for name, value in found.items() if value}


def chosen(registered: RegistrationHandle, named: str | int | None) -> RegistrationHandle:
    """The version that is packaged: what registration left, or another one of its model.

    Args:
        registered: What registration left.
        named: A version or an alias; None: that one.

    Raises:
        InputError: When the registry has no such version.
        MachineError: When it cannot be reached.
    """
    if named is None:
        return registered
    text = str(named).strip()
    found = resolve(f"models:/{registered.model}{'/' if text.isdigit() else '@'}{text}")
    if found.version == registered.version and found.tags.get(WEIGHTS_TAG) == registered.weights_sha256:
        return registered
    return registered.model_copy(
        update={
            "version": found.version,
            "aliases": found.aliases,
            "uri": found.uri,
            "weights_sha256": found.tags.get(WEIGHTS_TAG, ""),
            "source": download(found.uri),
            "passed_gate": found.tags.get("gate") == "passed",
            "gate": (),
            "licence": found.tags.get("licence"),
            "origin": found.tags.get("origin"),
        }
    )
