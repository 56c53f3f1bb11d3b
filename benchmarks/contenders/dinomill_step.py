"""dinomill's step, as the trainer runs it."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from protocol import PATCH, Work, read_work, run

from dinomill.models import HeadConfig, VisionTransformer, variant
from dinomill.training.config import CenteringConfig, CenteringKind, OptimizerConfig, PretrainingStepConfig
from dinomill.training.network import Network
from dinomill.training.objectives.pretraining import Pretraining
from dinomill.training.optimizer import build_optimizer
from dinomill.training.schedules import ScheduleConfig, Schedules
from dinomill.training.step import train_step


def main() -> None:
    work = read_work()
    torch.manual_seed(0)
    head = HeadConfig(prototypes=work.prototypes)
    config = PretrainingStepConfig(
        head=head,
        separate_heads=False,
        centering=CenteringConfig(kind=CenteringKind.SOFTMAX),
        drop_path=work.drop_path,
        precision=work.precision,
        compile=work.compile,
        recomputed_blocks=work.recomputed,
    )
    backbone = VisionTransformer(variant(work.model, image_size=work.global_size, patch_size=PATCH))
    module = Pretraining({"student": Network(backbone, head, separate_heads=False)}, config)
    module = module.to(work.device).train()
    optimizer = build_optimizer(module, OptimizerConfig())
    schedules = Schedules(ScheduleConfig(), steps=125_000, batch=work.batch)
    batches = [make_batch(work, seed) for seed in range(2)]

    def step(index: int) -> torch.Tensor:
        return train_step(
            module,
            module,
            optimizer,
            batches[index % len(batches)],
            schedules.at(index),
            clip_gradient=3.0,
            generator=torch.Generator().manual_seed(index),
        )["total"]

    run(work, step)


def make_batch(work: Work, seed: int) -> SimpleNamespace:
    crops, masks = work.crops(seed), work.masks(seed)
    weights = (1 / masks.sum(1, keepdim=True).clamp(min=1)).expand_as(masks)[masks]
    batch = {
        "global_crops": torch.cat(crops[:2]),
        "local_crops": torch.cat(crops[2:]),
        "masks": masks,
        "mask_indices": masks.flatten().nonzero()[:, 0],
        "mask_weights": weights,
    }
    return SimpleNamespace(**{name: tensor.to(work.device) for name, tensor in batch.items()})


if __name__ == "__main__":
    main()
