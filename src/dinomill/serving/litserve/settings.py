"""What a LitServe folder says of itself: ``settings.json``, written when it is packaged and read when it is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from dinomill.config import Config
from dinomill.errors import ConfigError
from dinomill.serving.backends.choice import Backend
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.processes import STARTUP_SECONDS, worker_count

SETTINGS = "settings.json"
MODEL, WEIGHTS = "model", "model.safetensors"
RUN = "run"  # where it runs, unless it is told otherwise


class Settings(Config):
    """What is served, and how."""

    model: str = Field(description="the name under which it is served")
    version: str = Field(description="of the model")
    weights_sha256: str = Field(description="of the version in the registry")
    archive_sha256: str = Field(description="of the TorchServe archive that the folder was made from")
    limits: dict[str, int | float] = Field(description="what a request may ask, as the gateway says it")
    offers: tuple[str, ...] = Field(description="what may be asked of an image")
    about: dict[str, dict[str, Any]] = Field(
        default={}, description="what the package says of itself: lineage, and of what it answers with probe and index"
    )
    worker: dict[str, Any] = Field(description="what a worker is told, as it was baked into the archive")
    workers: int = Field(
        ge=0,
        description="worker processes on a CPU; 0: its cores over `threads`, at most 4; on a machine with GPUs there "
        "is one a GPU",
    )
    batch_size: int = Field(ge=1, description="requests that are computed together at most")
    max_delay_ms: int = Field(ge=0, description="how long a request waits for company, in milliseconds")
    response_seconds: float = Field(gt=0, description="a worker that needs longer for a batch is restarted")
    startup_seconds: float = Field(
        default=STARTUP_SECONDS,
        gt=0,
        description="in which a worker is to be ready; a tenth of it may go into first passes",
    )
    queue: int = Field(ge=1, description="requests that wait before more are refused with 503")
    gateway: GatewayConfig = Field(default_factory=GatewayConfig, description="how clients are treated")

    @property
    def backend(self) -> str:
        """What computes the embeddings, where it runs."""
        return str(Backend.parse(self.worker.get("backend") or {}, where=SETTINGS))

    def worker_count(self) -> int:
        """Worker processes on the CPU of the machine where this runs."""
        return worker_count(self.workers, int(self.worker.get("threads", 1)))

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """The settings of a folder.

        Raises:
            ConfigError: When there are none, or one of them is wrong.
        """
        path = folder / SETTINGS
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path} cannot be read.", found=str(error), action="run `dinomill package --target litserve` again"
            ) from None
        if isinstance(said, dict):
            said.pop("backend", None)  # folders of before said it twice
        return cls.parse(said, where=str(path))
