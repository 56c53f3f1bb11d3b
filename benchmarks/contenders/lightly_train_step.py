"""LightlyTrain's `method=dinov2` in its own training loop, on the same crops; run by the interpreter of .venv-peers.

LightlyTrain is under the AGPL: it lives in an environment of its own and nothing of dinomill imports it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from protocol import Pace, Work, read_work

# torchvision's compiled part is not loadable beside a CPU build of torch, and nothing here calls it; its Python part
# only wants these two operators to be declared.
_operators = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
for _name in ("nms", "qnms"):
    _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]

import pytorch_lightning as lightning  # noqa: E402
from lightly_train._methods.dinov2.dinov2 import DINOv2, DINOv2AdamWViTArgs, DINOv2Args  # noqa: E402
from lightly_train._models.dinov2_vit.dinov2_vit_package import DINOV2_VIT_PACKAGE  # noqa: E402
from lightly_train._models.embedding_model import EmbeddingModel  # noqa: E402
from torch.utils.data import DataLoader, IterableDataset  # noqa: E402

MODELS = {"small": "vits14-noreg", "base": "vitb14-noreg", "large": "vitl14-noreg"}


class Crops(IterableDataset[dict[str, Any]]):
    """The same two batches again and again."""

    def __init__(self, work: Work) -> None:
        self._batches = [{"views": work.crops(seed)} for seed in range(2)]

    def __iter__(self) -> Any:
        while True:
            yield from self._batches


class Steps(lightning.Callback):
    """Lets the loop go one step at a time. A step ends where the next begins: averages move after the last hook."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._loss: torch.Tensor | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        if self._loss is None:
            self._pace.ready()
        else:
            self._pace.done(float(self._loss))
        self._pace.wait()

    def on_train_batch_end(self, _trainer: Any, _module: Any, outputs: Any, *_: Any) -> None:
        self._loss = outputs["loss"].detach()


class Method(DINOv2):
    """Without the picture of example views that the first step draws."""

    def _log_example_views(self, train_batch: Any) -> None:  # noqa: ARG002
        return


def main() -> None:
    work = read_work()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    pace = Pace(work.device)
    arguments = {"drop_path_rate": work.drop_path, "img_size": work.global_size}
    model = DINOV2_VIT_PACKAGE.get_model(MODELS[work.model], model_args=arguments, load_weights=False)
    method_args, optimizer_args = DINOv2Args(output_dim=work.prototypes), DINOv2AdamWViTArgs()
    wrapped = DINOV2_VIT_PACKAGE.get_model_wrapper(model)
    method_args.resolve_auto(scaling_info=None, optimizer_args=optimizer_args, wrapped_model=wrapped)
    method = Method(
        method_args=method_args,
        optimizer_args=optimizer_args,
        embedding_model=EmbeddingModel(wrapped),
        global_batch_size=work.batch,
        num_input_channels=3,
    )
    trainer = lightning.Trainer(
        accelerator="gpu" if work.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if work.precision == "bf16" else "32-true",
        max_steps=125_000,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Steps(pace)],
    )
    trainer.fit(method, DataLoader(Crops(work), batch_size=None))


if __name__ == "__main__":
    main()
