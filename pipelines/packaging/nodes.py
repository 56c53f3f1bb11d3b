"""The packaging stage's node."""

from __future__ import annotations

from dinomill.handles import DatasetHandle, PackageHandle, ProbesHandle, RegistrationHandle
from dinomill.packaging.config import PackagingConfig


def package(
    registration: RegistrationHandle,
    curated: DatasetHandle,
    labelled: str | None,
    probes: ProbesHandle | None,
    config: PackagingConfig,
) -> PackageHandle:
    """Build the TorchServe archive, try it, and record the trial's figures."""
    from dinomill import tracking
    from dinomill.packaging import package_model
    from dinomill.packaging.record import record

    handle = package_model(registration, curated, config, labelled, probes)
    record(tracking.attach(), handle, registration)
    return handle
