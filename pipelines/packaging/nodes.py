"""The packaging stage's node."""

from __future__ import annotations

from dinomill.handles import DatasetHandle, PackageHandle, ProbesHandle, RegistrationHandle
from dinomill.packaging.config import PackagingConfig


def package(
    registration: RegistrationHandle, curated: DatasetHandle, probes: ProbesHandle | None, config: PackagingConfig
) -> PackageHandle:
    """Build the TorchServe archive, try it, and record the trial's figures."""
    from dinomill import tracking
    from dinomill.packaging import package_model

    handle = package_model(registration, curated, config, probes)
    run = tracking.attach()
    run.log_models_used([registration.weights_sha256])
    run.rename(f"packaging · {handle.model}, version {handle.version}")
    run.set_tags({"archive_sha256": handle.archive_sha256, "served_as": handle.model})
    return handle
