"""A step as the public DINOv2 code runs it without its GPU-only libraries, written anew from the recipe.

Crops of each size go through the network on their own, attention and losses are plain PyTorch, logits of all rows
against all prototypes exist at once, and the cross-entropy is taken for every pair of a teacher's and a student's crop.
"""

from __future__ import annotations

import copy

import torch
from protocol import PATCH, Work, read_work, run
from torch import Tensor, nn

SHAPES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, MOMENTUM, CENTER_MOMENTUM = 0.1, 0.04, 0.992, 0.9


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gamma1, self.gamma2 = (nn.Parameter(torch.full((dim,), 1e-5)) for _ in range(2))

    def attention(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        share = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        out: Tensor = self.gamma1 * self.proj((share @ v).transpose(1, 2).flatten(2))
        return out

    def feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gamma2 * self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        for branch in (self.attention, self.feed_forward):
            if self.training and self.drop:
                kept = max(int(len(x) * (1 - self.drop)), 1)
                chosen = torch.randperm(len(x), device=x.device)[:kept]
                change = branch(x[chosen]).flatten(1)
                x = torch.index_add(x.flatten(1), 0, chosen, change.to(x.dtype), alpha=len(x) / kept).view_as(x)
            else:
                x = x + branch(x)
        return x


class Backbone(nn.Module):
    def __init__(self, work: Work) -> None:
        super().__init__()
        dim, depth, heads = SHAPES[work.model]
        self.side = work.global_size // PATCH
        self.patches = nn.Conv2d(3, dim, PATCH, PATCH)
        self.cls, self.mask = nn.Parameter(torch.zeros(1, 1, dim)), nn.Parameter(torch.zeros(dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + self.side**2, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, work.drop_path) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        side = x.shape[-1] // PATCH
        x = self.patches(x).flatten(2).transpose(1, 2)
        if masks is not None:
            x = torch.where(masks[..., None], self.mask.to(x.dtype), x)
        table = self.position[:, 1:]
        if side != self.side:
            table = table.transpose(1, 2).unflatten(2, (self.side, self.side))  # type: ignore[no-untyped-call]
            table = nn.functional.interpolate(table, size=(side, side), mode="bicubic").flatten(2).transpose(1, 2)
        cls = (self.cls + self.position[:, :1]).expand(len(x), -1, -1)
        tokens: Tensor = self.norm(self.blocks(torch.cat([cls, x + table], dim=1)))
        return tokens


class Head(nn.Module):
    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        widths = [dim, 2048, 2048, 256]
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.direction = nn.Parameter(torch.empty(prototypes, 256).uniform_(-1 / 16, 1 / 16))
        self.gain = nn.Parameter(torch.ones(prototypes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.mlp(x), dim=-1) @ torch._weight_norm(self.direction, self.gain, 0).T


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher * nn.functional.log_softmax(student.float() / STUDENT_TEMPERATURE, dim=-1)).sum(-1)


def koleo(x: Tensor) -> Tensor:
    x = nn.functional.normalize(x.float(), dim=-1)
    with torch.no_grad():
        neighbours = (x @ x.T).fill_diagonal_(-1).argmax(1)
    return -torch.log(nn.functional.pairwise_distance(x, x[neighbours], eps=1e-8) + 1e-8).mean()


class Step(nn.Module):
    """Student, teacher, centres, and a whole optimisation step."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work
        self.student = nn.ModuleDict({"backbone": Backbone(work), "head": Head(SHAPES[work.model][0], work.prototypes)})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.to(work.device).train()
        self.teacher.eval()
        self.centers = torch.zeros(2, work.prototypes, device=work.device)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-4, weight_decay=0.04)

    def targets(self, logits: Tensor, center: Tensor) -> Tensor:
        targets = nn.functional.softmax((logits.float() - center) / TEACHER_TEMPERATURE, dim=-1)
        center.mul_(CENTER_MOMENTUM).add_(logits.float().mean(0), alpha=1 - CENTER_MOMENTUM)
        return targets

    def losses(self, crops: list[Tensor], masks: Tensor) -> Tensor:
        globals_, locals_ = torch.cat(crops[:2]), torch.cat(crops[2:])
        indices = masks.flatten().nonzero()[:, 0]
        weights = (1 / masks.sum(1, keepdim=True).clamp(min=1)).expand_as(masks)[masks]
        with torch.no_grad():
            tokens = self.teacher["backbone"](globals_)
            cls = tokens[:, 0].roll(self.work.batch, 0)  # each student crop learns from the other one
            dino_targets = self.targets(self.teacher["head"](cls), self.centers[0])
            patches = tokens[:, 1:].flatten(0, 1)[indices]
            ibot_targets = self.targets(self.teacher["head"](patches), self.centers[1])
        tokens = self.student["backbone"](globals_, masks)
        cls = tokens[:, 0]
        patches = tokens[:, 1:].flatten(0, 1)[indices]
        local_logits = self.student["head"](self.student["backbone"](locals_)[:, 0])
        pairs = 2 + 2 * self.work.locals
        local = sum(
            cross_entropy(s, t).mean() for s in local_logits.chunk(self.work.locals) for t in dino_targets.chunk(2)
        )
        global_ = 2 * cross_entropy(self.student["head"](cls), dino_targets).mean()
        ibot = (cross_entropy(self.student["head"](patches), ibot_targets) * weights).sum() / len(masks)
        return (local + global_) / pairs + ibot + 0.1 * sum(koleo(half) for half in cls.chunk(2))

    def step(self, crops: list[Tensor], masks: Tensor) -> Tensor:
        bf16 = self.work.precision == "bf16"
        with torch.autocast(self.work.device, torch.bfloat16, enabled=bf16):
            loss = self.losses(crops, masks)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for part in self.student.values():
            nn.utils.clip_grad_norm_(part.parameters(), 3.0)
        self.optimizer.step()
        with torch.no_grad():
            own: list[Tensor] = list(self.teacher.parameters())
            source: list[Tensor] = list(self.student.parameters())
            torch._foreach_mul_(own, MOMENTUM)
            torch._foreach_add_(own, source, alpha=1 - MOMENTUM)
        return loss.detach()


def main() -> None:
    work = read_work()
    torch.manual_seed(0)
    step = Step(work)
    batches = [
        ([crop.to(work.device) for crop in work.crops(seed)], work.masks(seed).to(work.device)) for seed in range(2)
    ]
    run(work, lambda index: step.step(*batches[index % 2]))


if __name__ == "__main__":
    main()
