"""The packaging stage: a registered backbone becomes a TorchServe archive that has answered a real request."""

from dinomill.packaging.config import PackagingConfig
from dinomill.packaging.package import package_model

__all__ = ["PackagingConfig", "package_model"]
