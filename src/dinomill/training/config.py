"""What can be configured of the engine; apart from its code: Kedro reads it at every start, and torch loads slowly."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dinomill.config import Config
from dinomill.models.config import HeadConfig, VisionTransformerConfig
from dinomill.training.losses.config import LossConfig
from dinomill.training.schedules import Span


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


# Where weights lie: whatever `dinomill.load` takes, of which some are no paths.
Address = Annotated[str, BeforeValidator(_text), Field(min_length=1)]


class InitialisationConfig(Config):
    """How weights that are not given are drawn."""

    patch_init: Literal["random", "whitened"] = Field(
        default="random",
        description="patch embedding, or a ConvNeXt's stem, at the start: drawn as in the official code, or a random "
        "rotation of patches whitened by the dataset's statistics",
    )
    linear_init: Literal["trunc_normal", "lecun_normal"] = Field(
        default="trunc_normal",
        description="linear layers of the backbone at the start: a standard deviation of 0.02 as in the official code, "
        "or of 1/√fan_in",
    )

    @property
    def initialisation(self) -> InitialisationConfig | None:
        """How its weights are drawn; None: as in the official code, which needs no word."""
        values = {name: getattr(self, name) for name in InitialisationConfig.model_fields}
        return None if InitialisationConfig(**values) == InitialisationConfig() else InitialisationConfig(**values)


class StatedModel(VisionTransformerConfig, InitialisationConfig):
    """A backbone as a configuration states it: what follows from the dataset or from starting weights may stay open.

    ``training.starting.resolve_model`` makes the model of it.
    """

    in_channels: int | Literal["auto"] = Field(  # type: ignore[assignment]
        default=3, description="channels of an image; auto: the dataset's"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Keys that are not stated may come from weights: what fits together is known when the model is resolved.
        if self.in_channels != "auto" and self.in_channels < 1:
            raise ValueError(f"in_channels must be auto or at least 1, not {self.in_channels}")
        return self


class Precision(StrEnum):
    """Precision of matrix products; parameters, optimiser state, sums and softmax stay fp32."""

    AUTO = "auto"  # bf16 where the hardware multiplies it, else fp32
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"  # with loss scaling, for GPUs without bf16


class CenteringKind(StrEnum):
    """How the teacher's assignments are kept from collapsing."""

    SINKHORN_KNOPP = "sinkhorn_knopp"  # the long recipe
    SOFTMAX = "softmax"  # EMA centre: the short recipe


class CenteringConfig(Config):
    """How the teacher's logits become targets."""

    kind: CenteringKind = Field(CenteringKind.SINKHORN_KNOPP, description="sinkhorn_knopp, or softmax with EMA centre")
    iterations: int = Field(3, ge=1, description="Sinkhorn-Knopp iterations")
    center_momentum: float = Field(0.9, ge=0, lt=1, description="EMA momentum of the softmax centre")
    over: Literal["step", "micro_batch"] = Field(
        "step",
        description="With `accumulate`: the images whose targets are made together. step: as without, all targets are "
        "held at once; micro_batch: less memory, other targets",
    )


class StepConfig(Config):
    """What pretraining and distillation have in common."""

    head: HeadConfig = Field(default_factory=HeadConfig, description="Shape of the DINO and iBOT heads")
    separate_heads: bool = Field(False, description="A head of their own for patches (long recipe), or a shared one")
    losses: LossConfig = Field(default_factory=LossConfig, description="Weights and constants of the losses")
    centering: CenteringConfig = Field(default_factory=CenteringConfig, description="How teacher logits become targets")
    precision: Precision = Field(Precision.AUTO, description="auto: bf16 where the hardware is fast in it, else fp32")
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="Compile blocks and losses, a minute or more at the start: true, false, or auto: on a GPU where "
        "the run is long enough for it to pay",
    )
    recomputed_blocks: float = Field(
        0.0, ge=0, le=1, description="Share of blocks whose activations are computed again instead of kept"
    )


class PretrainingStepConfig(StepConfig):
    """Pretraining with a teacher that is the student's moving average."""

    drop_path: float = Field(0.3, ge=0, lt=1, description="Stochastic depth: share of images that skip a branch")


class DistillationStepConfig(StepConfig):
    """Distillation of a frozen teacher."""

    patch_share: float = Field(
        1.0, gt=0, le=1, description="Share of each global crop's patches in the iBOT loss, other ones in each"
    )


ObjectiveKind = Literal["pretraining", "assignments", "clusters", "regression"]


class TeachingConfig(Config):
    """How students learn from a teacher that has no heads, resolved: the teacher is known."""

    objective: Literal["clusters", "regression"] = Field(description="what is learnt")
    dim: int = Field(ge=1, description="width of the teacher's features")
    size: int = Field(ge=1, description="side in pixels at which the teacher sees the global crops")
    images: int = Field(ge=16, description="images from whose features means, spreads and centres are made")
    prototypes: int | None = Field(
        default=None, ge=2, description="clusters: centres, of class features and of patches"
    )
    whitened_dim: int | None = Field(
        default=None, ge=1, description="width of whitened features; null, of a regression: they are standardised"
    )
    hidden_dim: int | None = Field(default=None, ge=0, description="regression: hidden layer of a projector; 0: none")
    views: int | None = Field(
        default=None, ge=1, description="pairs of global crops an image that the cache holds; null: no cache"
    )
    places: int | None = Field(default=None, ge=1, description="of the teacher's map, with a cache")


class CacheConfig(Config):
    """The teacher's features of a few views of each image, kept on disk: it sees each once, however long the run."""

    folder: Path = Field(description="where they are kept, by image, view and teacher; several runs may share it")
    views: int = Field(default=4, ge=1, description="pairs of global crops an image; epoch n shows pair n modulo this")
    max_gb: float = Field(default=20.0, gt=0, description="gigabytes that they may take; more is refused before a run")


class LoraConfig(Config):
    """Low-rank adaptation of the blocks' projections; everything else of the backbone keeps the starting weights."""

    rank: int = Field(8, ge=1, description="Rank of what is added to each projection")
    alpha: float = Field(16.0, gt=0, description="The addition is multiplied by alpha / rank")


class AdaptationConfig(Config):
    """How starting weights are treated: fresh heads first, then the backbone, gently."""

    frozen: Span = Field(0.1, description="So long only the heads learn: no gradient passes through the backbone")
    ramp: Span = Field(0.1, description="Over so long after that the backbone's rate rises linearly from 0")
    backbone_rate: float = Field(
        1.0, gt=0, le=1, description="The backbone's learning rate after the ramp, as a factor on the schedule's"
    )
    lora: LoraConfig | None = Field(None, description="Train low-rank additions only; null: all weights")


class OptimizerConfig(Config):
    """AdamW as in the recipe; the rates come from the schedules."""

    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay of the first and second moment")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of the second moment")
    clip_gradient: float = Field(
        3.0, ge=0, description="Largest gradient norm of backbone, DINO head and iBOT head, each alone; 0 is off"
    )
    layerwise_decay: float = Field(0.9, gt=0, le=1, description="Learning-rate factor from a block to the one before")
    patch_embed_multiplier: float = Field(0.2, gt=0, description="Learning-rate factor of the patch embedding")


class ParallelConfig(Config):
    """How the processes share the work. It changes no result beyond rounding."""

    kind: Literal["auto", "none", "ddp", "fsdp2", "hsdp"] = Field(
        default="auto",
        description="ddp: a copy of everything in each process; fsdp2: parameters, gradients and optimiser state "
        "sharded block by block; hsdp: sharded within a machine, a replica on each; auto: ddp for several processes, "
        "none for one",
    )
    replicas: int | None = Field(
        default=None, ge=1, description="for hsdp: groups of processes with a whole copy; null: one a machine"
    )
    timeout_minutes: float = Field(
        default=30, gt=0, description="how long a process waits for the others in a collective"
    )


class NotFiniteConfig(Config):
    """What is done about steps whose loss or gradient is not finite; each is left out, counted and its images named."""

    in_a_row: int = Field(
        default=5, ge=1, description="so many steps left out in a row, and the run goes back to its last checkpoint"
    )
    returns: int = Field(
        default=2,
        ge=0,
        description="how often it goes back to the same checkpoint, each time with another order of the images, before "
        "it stops with a diagnosis",
    )
    rate_factor: float = Field(
        default=1.0, gt=0, le=1, description="what the learning rate is multiplied by at each return; 1: it stays"
    )


class MonitorConfig(Config):
    """When to look, at how much, and what to do about a collapse."""

    every: int = Field(
        default=1250, ge=0, description="steps between two looks; 0 never looks. What a look costs: docs/pretraining.md"
    )
    early: int = Field(
        default=3,
        ge=0,
        le=8,
        description="looks before the first of those, after every/2, every/4, … steps; without kNN",
    )
    images: int = Field(default=1024, ge=16, description="images of the dataset whose embeddings' spread is measured")
    copies: int = Field(
        default=128, ge=16, description="of so many of them an augmented copy is sought among all of them"
    )
    labelled_images: int = Field(
        default=2000, ge=20, description="labelled images at most, each classified by its neighbours among the others"
    )
    min_effective_rank: float = Field(
        default=2.0, ge=1, description="below this effective rank features have collapsed"
    )
    max_similarity: float = Field(
        default=0.995, gt=0, le=1, description="above this mean cosine similarity of two images features have collapsed"
    )
    patience: int = Field(default=2, ge=1, description="how many looks in a row must find a collapse before it is one")
    on_collapse: Literal["stop", "warn"] = Field(
        default="stop", description="end the run with a verdict, or only say so"
    )
