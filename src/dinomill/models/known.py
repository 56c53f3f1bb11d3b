"""Released weights that can be loaded: their names, licences and where to get them. Nothing is downloaded here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dinomill.models.config import VisionTransformerConfig
from dinomill.models.kinds import CONVNEXT, VIT, ModelConfig

APACHE, DINOV3_LICENCE = "Apache-2.0", "DINOv3 License"
# Instead of a licence's name: nothing foreign went into the weights; nothing says what did.
OWN_LICENCE, UNKNOWN_LICENCE = "own", "unknown"


@dataclass(frozen=True)
class Known:
    """Released weights.

    Args:
        name: As the official code calls them.
        family: DINOv2 or DINOv3.
        embed_dim: Width of a token.
        depth: Blocks, of all stages.
        registers: Register tokens.
        parameters: In millions.
        licence: Its short name.
        where: The page or repository to get them from.
        huggingface: The repository of the same weights in the form of transformers.
        timm: The name of the same weights in timm.
        sha256_prefix: First digits of the official file's sha256, which its name bears; empty where it bears none.
        kind: vit or convnext.
    """

    name: str
    family: str
    embed_dim: int
    depth: int
    registers: int
    parameters: float
    licence: str
    where: str
    huggingface: str
    timm: str
    sha256_prefix: str = ""
    kind: str = VIT

    def fits(self, config: ModelConfig) -> bool:
        """Whether a shape is this model's, as far as its name says it."""
        vit = isinstance(config, VisionTransformerConfig)
        registers = config.registers if isinstance(config, VisionTransformerConfig) else 0
        shape = (VIT if vit else CONVNEXT, config.embed_dim, config.depth, registers)
        return shape == (self.kind, self.embed_dim, self.depth, self.registers)


_SHAPES = {"s": (384, 12), "b": (768, 12), "l": (1024, 24), "g": (1536, 40)}
_V2_SIZES = {"s": ("small", 22.1), "b": ("base", 86.6), "l": ("large", 304.4), "g": ("giant", 1136.5)}
_V2_PAGE, _V3_PAGE = "github.com/facebookresearch/dinov2", "ai.meta.com/resources/models-and-libraries/dinov3-downloads"

# name, width, depth, millions of parameters, data, timm's name, digits in the official file's name
_V3 = (
    ("vits16", 384, 12, 21.6, "lvd1689m", "small", "08c60483"),
    ("vits16plus", 384, 12, 28.7, "lvd1689m", "small_plus", "4057cbaa"),
    ("vitb16", 768, 12, 85.7, "lvd1689m", "base", "73cec8be"),
    ("vitl16", 1024, 24, 303.2, "lvd1689m", "large", "8aa4cbdd"),
    ("vitl16", 1024, 24, 303.2, "sat493m", "large", "eadcf0ff"),
    ("vith16plus", 1280, 32, 840.6, "lvd1689m", "huge_plus", "7c1da9a5"),
    ("vit7b16", 4096, 40, 6716.0, "lvd1689m", "7b", "a955f4ea"),
    ("vit7b16", 4096, 40, 6716.0, "sat493m", "7b", "a6675841"),
)

# name, width, blocks, millions of parameters, digits
_V3_CONVNEXTS = (
    ("tiny", 768, 18, 27.8, "21b726bb"),
    ("small", 768, 36, 49.5, "296db49d"),
    ("base", 1024, 36, 87.6, "801f2ba9"),
    ("large", 1536, 36, 196.2, "61fa432d"),
)


def known_weights() -> Iterator[Known]:
    """All that are known, DINOv2 first, the small ones first."""
    for registers in (0, 4):
        for size, (word, millions) in _V2_SIZES.items():
            width, depth = _SHAPES[size]
            yield Known(
                name=f"dinov2_vit{size}14" + ("_reg4" if registers else "") + "_pretrain",
                family="DINOv2",
                embed_dim=width,
                depth=depth,
                registers=registers,
                parameters=millions,
                licence=APACHE,
                where=_V2_PAGE,
                huggingface=f"facebook/dinov2-{'with-registers-' if registers else ''}{word}",
                timm=f"vit_{word}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m",
            )
    for name, width, depth, millions, data, word, digits in _V3:
        yield Known(
            name=f"dinov3_{name}_pretrain_{data}",
            family="DINOv3",
            embed_dim=width,
            depth=depth,
            registers=4,
            parameters=millions,
            licence=DINOV3_LICENCE,
            where=_V3_PAGE,
            huggingface=f"facebook/dinov3-{name}-pretrain-{data}",
            timm=f"vit_{word}_patch16_dinov3.{data}",
            sha256_prefix=digits,
        )
    for name, width, depth, millions, digits in _V3_CONVNEXTS:
        yield Known(
            name=f"dinov3_convnext_{name}_pretrain_lvd1689m",
            family="DINOv3",
            embed_dim=width,
            depth=depth,
            registers=0,
            parameters=millions,
            licence=DINOV3_LICENCE,
            where=_V3_PAGE,
            huggingface=f"facebook/dinov3-convnext-{name}-pretrain-lvd1689m",
            timm=f"convnext_{name}.dinov3_lvd1689m",
            sha256_prefix=digits,
            kind=CONVNEXT,
        )


def released_shape(embed_dim: int, depth: int) -> bool:
    """Whether this width and depth are a released model's, whose number of heads is therefore known."""
    return any((known.embed_dim, known.depth) == (embed_dim, depth) for known in known_weights() if known.kind == VIT)


def named(path: Path) -> Known | None:
    """The released weights that a file's or folder's name says it holds, the longest match; None without one."""
    name = path.name.lower().replace("--", "/")
    # A hub's cache lies in models--owner--name/snapshots/revision.
    names = [name, *(parent.name.lower().replace("--", "/") for parent in list(path.absolute().parents)[:3])]
    best: tuple[int, Known] | None = None
    for known in known_weights():
        for alias in (known.name, known.huggingface.split("/")[1], known.timm):
            if any(alias in candidate for candidate in names) and (best is None or len(alias) > best[0]):
                best = (len(alias), known)
    return None if best is None else best[1]
