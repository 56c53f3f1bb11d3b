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

from pathlib import Path

import numpy as np

from dinomill.errors import InputError
from dinomill.handles import DatasetHandle, PackageHandle, RegistrationHandle
from dinomill.packaging.config import PackagingConfig
from dinomill.packaging.smoke import try_package
from dinomill.serving.torchserve.archive import build_archive
from dinomill.serving.torchserve.logs import LOG_CONFIG, render_log_config
from dinomill.serving.torchserve.metrics_config import METRICS_CONFIG, render_metrics_config
from dinomill.serving.torchserve.properties import Ports, render_properties
from dinomill.serving.torchserve.readme import render_readme
from dinomill.serving.torchserve.requirements import archive_requirements
from dinomill.storage.atomic import atomic_folder, write_text
from dinomill.storage.hashing import hash_file, hash_json

STORE = "model_store"


def package_model(registered: RegistrationHandle, curated: DatasetHandle, config: PackagingConfig) -> PackageHandle:
    """Build the archive and its configuration, serve it for real, and keep it only when it answers rightly.

    Args:
        registered: The registered model.
        curated: The dataset that the trial's images are taken from.
        config: The stage's configuration.

    Raises:
        MachineError: No Java, TorchServe does not start, or it answers wrongly.
    """
    from dinomill.serving.predictor import Predictor

    model = config.name or registered.model
    images = sample_images(curated, config.smoke.images)
    with atomic_folder(config.output) as folder:
        archive = build_archive(
            registered.source,
            folder / STORE,
            model=model,
            version=str(registered.version),
            batching=config.batching,
            server=config.server,
        )
        requirements = archive_requirements(archive)
        write_text(folder / "requirements.txt", "\n".join(requirements) + "\n")
        properties = render_properties(model, Path(STORE), config.server, Ports())
        write_text(folder / "config.properties", properties)
        write_text(folder / LOG_CONFIG, render_log_config())
        write_text(folder / METRICS_CONFIG, render_metrics_config())
        write_text(folder / "README.md", render_readme(model, registered, requirements, config.server))
        expected = Predictor(registered.source, normalise=config.server.normalise)(images)
        figures = try_package(model, folder / STORE, expected, images, config)
        handle = PackageHandle(
            folder=config.output,
            made_of=hash_json(
                [
                    config.model_dump(mode="json", exclude={"work", "output", "store", "gateway"}),
                    registered.weights_sha256,
                    registered.version,
                ]
            ),
            archive=config.output / STORE / archive.name,
            archive_sha256=hash_file(archive),
            model=model,
            version=registered.version,
            embed_dim=int(expected.shape[1]),
            smoke=figures,
        )
        handle.save(folder)
    return handle


def sample_images(curated: DatasetHandle, count: int) -> list[bytes]:
    """Encoded images, evenly spread over the kept rows of a dataset's manifest.

    Raises:
        InputError: When the dataset keeps no image.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from dinomill.images.manifest import Fate
    from dinomill.images.shards import Location, ShardReader

    columns = ["shard", "offset", "length"]
    table = pq.read_table(curated.manifest, columns=columns, filters=pc.field("fate") == Fate.KEPT.value)
    if table.num_rows == 0:
        raise InputError(f"{curated.manifest} keeps no image.", action="run the curation stage again")
    picked = np.unique(np.linspace(0, table.num_rows - 1, count).round().astype(int))
    reader = ShardReader(curated.shards)
    return [bytes(reader.read(Location(**row))) for row in table.take(picked).to_pylist()]
