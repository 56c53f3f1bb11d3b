"""What packaging can be told of the backends."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dinomill.config import Config
from dinomill.serving.backends.choice import Backend


class BackendConfig(Config):
    """What computes the embeddings in the archive."""

    choice: Literal["measured"] | Backend = Field(
        default="measured", description="measured: the fastest that agrees; or a runtime and a precision"
    )
    candidates: tuple[Literal["eager", "compiled", "onnxruntime", "openvino"], ...] = Field(
        default=("eager", "onnxruntime", "openvino"),
        description="runtimes that are measured where they are installed; compiled needs a C++ compiler wherever it is "
        "served, and half a minute at every start",
    )
    precisions: tuple[Literal["float32", "bfloat16", "int8"], ...] = Field(
        default=("float32", "bfloat16", "int8"), description="in which they are measured"
    )
    images: int = Field(default=128, ge=12, le=4096, description="curated images that embeddings are compared on")
    clients: tuple[int, ...] = Field(default=(1, 8, 32), min_length=1, description="who ask at once")
    seconds: float = Field(default=1.0, gt=0, le=60, description="CPU-seconds for each backend and number of clients")
    min_cosine: float = Field(default=0.99, gt=0, le=1, description="of the worst image with the model's own embedding")
    min_neighbours: float = Field(
        default=0.9, ge=0, le=1, description="share of each image's ten nearest neighbours that are the model's"
    )
    labelled: int = Field(
        default=256,
        ge=0,
        le=4096,
        description="images on which nearest neighbours are right or wrong, where there are labels; 0: none",
    )
    labelled_split: str = Field(
        default="train", description="split that they are taken from: the test images choose nothing"
    )
    max_knn_loss: float | None = Field(
        default=0.01,
        ge=0,
        le=1,
        description="how much less often than the model's own a backend's nearest neighbour may have the right label; "
        "null: no bound",
    )
    max_cold_start: float = Field(default=20.0, gt=0, description="CPU-seconds from the start to the first embedding")
