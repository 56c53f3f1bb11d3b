"""What the packaging stage can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dinomill.config import Config
from dinomill.serving.backends.config import BackendConfig
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.torchserve.archive import BatchingConfig
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.together import contradiction


class SmokeConfig(Config):
    """The trial of the finished archive on a real TorchServe."""

    images: int = Field(default=8, ge=2, le=64, description="curated images that are embedded")
    requests: int = Field(default=20, ge=1, description="single requests whose latency is measured")
    ready_seconds: float = Field(default=120.0, gt=0, description="how long the server may take to load the model")
    min_cosine: float = Field(
        default=0.999, gt=0, le=1, description="served to directly computed embedding, for the worst image"
    )


class PackagingConfig(Config):
    """How a registered backbone becomes a TorchServe archive."""

    work: Path = Field(description="where logs of the trial are kept, outside DVC")
    output: Path = Field(description="the package's folder; DVC's out")
    registered: str | int | None = Field(
        default=None,
        description="version or alias of the registered model that is packaged; null: what registration registered",
    )
    name: str | None = Field(default=None, description="name under which it is served; null: the registered name")
    store: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+",
        description="where `dinomill publish` puts packages: s3://bucket/prefix; null: nowhere unless it is told",
    )
    backend: BackendConfig = Field(default_factory=BackendConfig, description="what computes the embeddings")
    probe: Literal["auto"] | Path | None = Field(
        default="auto",
        description="a linear probe (safetensors: weight, bias, classes) that goes along for class scores; auto: the "
        "one that evaluation fitted for this network, where there are labelled images; null: none",
    )
    index: int = Field(
        default=2000,
        ge=0,
        le=200_000,
        description="curated images, evenly of all clusters, that go along for nearest neighbours, by embedding, path, "
        "sha256 and cluster; who may ask can read these; 0: none",
    )
    thumbnails: Literal["auto"] | Annotated[int, Field(ge=0, le=256)] = Field(
        default="auto",
        description="side in pixels of the small pictures of indexed images that go along, for the page; 0: none; who "
        "may ask can see these; auto: none, but of images that all lie in `public`",
    )
    public: Path | None = Field(default=None, description="a folder whose images anybody may see: the sample")
    environment: str | None = Field(
        default=None, description="environment that the commands in the README are for; null: the base"
    )
    batching: BatchingConfig = Field(default_factory=BatchingConfig, description="baked into the archive")
    server: ServerConfig = Field(default_factory=ServerConfig, description="how TorchServe runs")
    gateway: GatewayConfig = Field(default_factory=GatewayConfig, description="how `dinomill serve` treats clients")
    smoke: SmokeConfig = Field(default_factory=SmokeConfig, description="the trial of the archive")

    @model_validator(mode="after")
    def _limits_hold_together(self) -> Self:
        if (problem := contradiction(self.server, self.gateway)) is not None:
            raise ValueError(problem)
        return self
