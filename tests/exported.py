"""Small exported networks, as pretraining and distillation leave them."""

from __future__ import annotations

from pathlib import Path

import torch

from dinomill.handles import ModelHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import build, save_backbone, variant
from dinomill.storage.hashing import hash_file
from dinomill.tracking import ModelCard


def export(folder: Path, name: str, *, depth: int, seed: int) -> ModelHandle:
    """A network of 64 features for 16-pixel colour images, with random weights."""
    torch.manual_seed(seed)
    model = build(variant("nano", patch_size=4, image_size=16, depth=depth, layerscale=0.5))
    weights = save_backbone(folder, model, PreprocessingConfig.square(16, (0.3,) * 3, (0.35,) * 3).section())
    return ModelHandle(
        folder=folder,
        made_of="0" * 64,
        name=name,
        weights_sha256=hash_file(weights),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embed_dim=64,
        image_size=16,
        mean=(0.3,) * 3,
        std=(0.35,) * 3,
        images_seen=1000,
        steps=10,
        history=folder / "history.parquet",
        dataset_sha256="d" * 64,
    )


def card(weights_sha256: str) -> ModelCard:
    """What is registered beside the weights of such a network."""
    import io

    import pandas as pd
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "PNG")
    return ModelCard(
        loader="dinomill.serving.pyfunc",
        example=pd.DataFrame({"image": [picture.getvalue()]}),
        embed_dim=64,
        requirements=["dinomill"],
        metrics={"knn": 1.0},
        tags={"weights_sha256": weights_sha256},
        description="a network",
        summary="networks",
        settings={"max_megapixels": 40.0},
        parameters={"normalise": False},
    )


def registered(data: Path) -> str:
    """A version of a network in a database below a folder, ``models:/backbone@champion``; its store."""
    from dinomill.tracking import open_run, register, set_alias

    data.mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{data}/mlflow/mlflow.db"
    model = export(data / "teacher", "teacher", depth=1, seed=0)
    with open_run("registration", tracking_uri=store, experiment="own runs") as run:
        run.log_artifacts(data / "teacher/config.json")
        version = register(run, "backbone", model.folder, card(model.weights_sha256))
    set_alias(store, "backbone", "champion", version.version)
    return store
