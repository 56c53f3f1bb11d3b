"""What MLflow is told of a package: its figures where the readers of its version see them."""

from __future__ import annotations

from dinomill.handles import PackageHandle, RegistrationHandle
from dinomill.packaging.package import README
from dinomill.serving.backends.measured import Measured
from dinomill.tracking import Run

_FOLDER = "package"


def record(run: Run, handle: PackageHandle, registered: RegistrationHandle) -> None:
    """Keep the package's README with the run, and tag the version with what serves it and how well.

    The version's card was written before there was a package, and is written anew whenever it is registered again: tags
    stay. The README is the package's own card; the tag ``package_card`` says where it lies.

    Args:
        run: The stage's.
        handle: What was packaged.
        registered: What was registered last; its registered model's name is that of all of its versions.
    """
    run.log_models_used([handle.weights_sha256])
    run.rename(f"packaging · {handle.model}, version {handle.version}")
    run.set_tags({"archive_sha256": handle.archive_sha256, "served_as": handle.model, "backend": handle.backend})
    readme = handle.folder / README
    run.log_artifacts(readme, _FOLDER)
    run.write(
        "version",
        name=registered.model,
        version=handle.version,
        weights_sha256=handle.weights_sha256,
        values=version_tags(handle) | {"package_card": f"runs:/{{run}}/{_FOLDER}/{README}"},
    )


def version_tags(handle: PackageHandle) -> dict[str, str]:
    """What a version's page says of its package."""
    tags = {
        "served_backend": handle.backend,
        "served_latency_ms": f"{handle.smoke['latency_ms']:.1f}",
        "served_cosine": f"{handle.smoke['cosine']:.5f}",
    }
    if handle.call_images is not None:
        tags["served_call_images"] = f"{handle.call_images}: {handle.call_reason}"
    rows = [Measured.parse(row, where="the package's handle") for row in handle.backends]
    own = next((row for row in rows if str(row.backend) == handle.backend), None)
    if own is None:
        return tags
    rates = [f"{load.images_per_cpu_second:.1f} at {load.clients}" for load in own.loads]
    tags["served_images_per_cpu_second"] = f"{', '.join(rates)} clients, without a server"
    if own.knn is not None and own.knn_loss is not None:
        change = f"{abs(own.knn_loss):.1%} {'gained' if own.knn_loss < 0 else 'lost'}"
        tags["served_knn"] = f"{own.knn:.1%} of {own.knn_images} labelled images, {change}"
    return tags
