"""How long a pretraining step takes and how much memory it needs, beside what else one could use.

    python benchmarks/pretraining_step.py                  both rows on this CPU
    python benchmarks/pretraining_step.py --row small      one row
    python benchmarks/pretraining_step.py --device cuda    ViT-S, B and L at the paper's crops and prototypes

Contenders, each in a process of its own, take turns step by step: dinomill in the precision that the hardware is fast
in and in fp32, the official-style step (benchmarks/contenders/official_style_step.py), and LightlyTrain's
`method=dinov2`, where its environment exists (benchmarks/contenders/install_lightly_train.sh makes it; LightlyTrain is
under the AGPL and is never imported by dinomill). Same model, crops, prototypes, batch, stochastic depth, centering and
shared head for all; `shipped` is LightlyTrain with the stochastic depth that it sets for a ViT-S by itself.
Figures are medians. CPU-seconds are steadier than wall time where the machine is shared.

`peak share`: the operations of a step's matrix products, counted as they are done (torch.utils.flop_counter: what is
computed again in the backward pass counts, what stochastic depth leaves out does not), over the step's time, over the
rate of matrix products alone, which a process of its own measures in the same turns with the same threads. Both times
are the shortest; once in wall time, and on a CPU once in CPU-seconds, which other work on the machine hardly moves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measuring import Peer, PeerFailedError, Table, command_line, finish

from dinomill.models.hardware import has_fast_bf16

HERE = Path(__file__).resolve().parent
CONTENDERS = HERE / "contenders"
PEER_PYTHON = HERE / ".venv-peers" / "bin" / "python"
CROPS = {"global_size": 224, "local_size": 98, "locals": 8}
ROWS = {
    "small": {"model": "small", "batch": 16, "global_size": 112, "local_size": 42, "locals": 4, "prototypes": 4096},
    "paper": {"model": "small", "batch": 8, "prototypes": 65_536, **CROPS},
}
GPU_ROWS = {
    "vits14": {"model": "small", "batch": 128, "prototypes": 131_072, **CROPS},
    "vitb14": {"model": "base", "batch": 64, "prototypes": 131_072, **CROPS},
    "vitl14": {"model": "large", "batch": 48, "prototypes": 131_072, **CROPS},
}
TINY = {"model": "small", "batch": 2, "global_size": 28, "local_size": 14, "locals": 2, "prototypes": 64}
SHAPES = {"small": (384, 12), "base": (768, 12), "large": (1024, 24)}
H100_BF16_FLOPS = 989e12


@dataclass
class Contender:
    """A process that steps when it is told to."""

    name: str
    command: list[str]
    precision: str = "fp32"
    steps: list[dict[str, Any]] = field(default_factory=list)
    flops: float | None = None
    _peer: Peer | None = None

    def start(self, log: Path) -> None:
        self._peer = Peer(self.name, self.command, cwd=CONTENDERS, log=log)

    def step(self) -> dict[str, Any]:
        assert self._peer is not None
        return self._peer.ask()

    def count(self, log: Path) -> None:
        """Count the operations of a step's products, in a process of its own."""
        python, script, work, *rest = self.command
        if script == "lightly_train_step.py":
            return
        work = json.dumps({**json.loads(work), "compile": False, "count": True})
        twin = Contender(self.name, [python, script, work, *rest])
        twin.start(log)
        try:
            self.flops = twin.step()["flops"]
        finally:
            twin.stop()

    def stop(self) -> None:
        if self._peer is not None:
            self._peer.close()

    def share(self, peak: dict[str, float] | None, clock: str) -> float | None:
        """Of the machine's peak, by a clock; None where the operations are not counted."""
        if peak is None or self.flops is None:
            return None
        shortest: float = min(step[clock] for step in self.steps)
        return self.flops / shortest / peak[clock]

    def median(self, key: str) -> float:
        return float(statistics.median(step[key] for step in self.steps))

    @property
    def peak(self) -> float:
        return float(max(step["peak_bytes"] for step in self.steps)) / 1e9


def contenders(work: dict[str, Any], arguments: argparse.Namespace) -> list[Contender]:
    def one(name: str, script: str, python: str = sys.executable, **changes: Any) -> Contender:
        options = {
            "precision": "fp32",
            "compile": False,
            "device": arguments.device,
            "drop_path": 0.3,
            **work,
            **changes,
        }
        precision = options["precision"]
        if precision == "auto":
            precision = "bf16" if has_fast_bf16(torch.device(arguments.device)) else "fp32"
        command = [python, script, json.dumps(options), "--threads", str(arguments.threads)]
        return Contender(name, command, precision=precision)

    peers_precision = "bf16" if arguments.device == "cuda" else "fp32"
    chosen = [
        one("dinomill", "dinomill_step.py", precision="auto", compile=arguments.compile),
        one("dinomill fp32", "dinomill_step.py"),
        one("official-style", "official_style_step.py", precision=peers_precision),
    ]
    if arguments.peer_python.is_file() and arguments.device == "cpu":
        script, python = "lightly_train_step.py", str(arguments.peer_python)
        chosen += [
            one("LightlyTrain", script, python),
            one("LightlyTrain shipped", script, python, drop_path=0.1),
        ]
    else:
        print(f"LightlyTrain is left out: there is no {arguments.peer_python}", file=sys.stderr)
    if arguments.only is not None:
        chosen = [contender for contender in chosen if contender.name in ("dinomill", *arguments.only)]
    return chosen


def model_flops(work: dict[str, Any]) -> float:
    """Operations that the recipe asks for in a step: student forward and backward, teacher forward; no heads."""
    dim, depth = SHAPES[work["model"]]

    def forward(crops: int, size: int) -> float:
        tokens = 1 + (size // 14) ** 2
        return crops * depth * (24 * tokens * dim**2 + 4 * tokens**2 * dim)

    globals_ = forward(2 * work["batch"], work["global_size"])
    locals_ = forward(work["locals"] * work["batch"], work["local_size"])
    # Stochastic depth leaves out 30% of the student's branches: this is work that is not done, and not counted.
    return 0.7 * 3 * (globals_ + locals_) + globals_


def measure(name: str, work: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    teams = contenders(work, arguments)
    options = {**work, "precision": "fp32", "compile": False, "device": arguments.device}
    command = [sys.executable, "matmul.py", json.dumps(options), "--threads", str(arguments.threads)]
    products = Contender("matrix products", command)
    rates: list[dict[str, dict[str, float]]] = []
    try:
        for contender in teams:
            contender.count(Path(arguments.logs) / f"{name}-{contender.name.replace(' ', '-')}-count.log")
        products.start(Path(arguments.logs) / f"{name}-products.log")
        for contender in teams:
            contender.start(Path(arguments.logs) / f"{name}-{contender.name.replace(' ', '-')}.log")
        for turn in range(arguments.warmup + arguments.steps):
            rates.append(products.step()["rates"])
            for contender in teams:
                step = contender.step()
                contender.steps.append(step)
                if turn == arguments.warmup - 1:
                    # The losses of the same data and weights, before the precisions drift apart.
                    contender.steps = [{**step, "peak_bytes": max(s["peak_bytes"] for s in contender.steps)}]
                shown = f"{step['wall']:.2f} s wall, {step['cpu']:.2f} CPU-s, loss {step['loss']:.4f}"
                print(f"  {name} turn {turn + 1} {contender.name}: {shown}", file=sys.stderr, flush=True)
    finally:
        for contender in (products, *teams):
            contender.stop()
    first = {contender.name: contender.steps[0]["loss"] for contender in teams}
    for contender in teams:
        peak = contender.steps.pop(0)["peak_bytes"]
        contender.steps[0]["peak_bytes"] = max(peak, contender.steps[0]["peak_bytes"])
    clocks = ("wall", "cpu") if arguments.device == "cpu" else ("wall",)
    peaks = {kind: {clock: max(rate[kind][clock] for rate in rates) for clock in clocks} for kind in rates[0]}
    return report(name, work, teams, first, peaks, arguments)


def report(
    name: str,
    work: dict[str, Any],
    teams: list[Contender],
    first: dict[str, float],
    peaks: dict[str, dict[str, float]],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    print(
        f"\n{name}: ViT-{work['model']}/14, batch {work['batch']}, 2×{work['global_size']} + "
        f"{work['locals']}×{work['local_size']}, {work['prototypes']:,} prototypes, {arguments.device}, "
        f"{arguments.threads} threads, {arguments.steps} steps"
    )
    heads = ("precision", "wall s", "CPU s", "images/s", "peak GB", "faster by", "CPU by", "memory", "of peak")
    table = Table(*heads, "of peak, CPU", name=22)
    ours = teams[0]
    for team in teams:
        row = (team.median("wall"), team.median("cpu"), work["batch"] / team.median("wall"), team.peak)
        ratios = (row[0] / ours.median("wall"), row[1] / ours.median("cpu"), ours.peak / team.peak)
        table.row(
            team.name,
            team.precision,
            *(f"{row[0]:.3f}", f"{row[1]:.2f}", f"{row[2]:.1f}", f"{row[3]:.2f}"),
            *(f"{ratios[0]:.2f}×", f"{ratios[1]:.2f}×", f"{ratios[2]:.2f}"),
            *("" if share is None else f"{share:.1%}" for share in shares(team, peaks).values()),
        )
    for kind, peak in peaks.items():
        by_cpu = f", {peak['cpu'] / 1e9:.0f} a CPU-second" if "cpu" in peak else ""
        print(f"matrix products alone, {kind}: {peak['wall'] / 1e9:.0f} GFLOP/s{by_cpu}")
    result: dict[str, Any] = {
        team.name: {
            "wall_s": round(team.median("wall"), 4),
            "cpu_s": round(team.median("cpu"), 3),
            "peak_gb": round(team.peak, 3),
            "speed_ratio": round(team.median("wall") / ours.median("wall"), 2),
            "cpu_ratio": round(team.median("cpu") / ours.median("cpu"), 2),
            "memory_ratio": round(ours.peak / team.peak, 3),
            "precision": team.precision,
            "gflop": None if team.flops is None else round(team.flops / 1e9, 1),
            **{key: None if share is None else round(share, 4) for key, share in shares(team, peaks).items()},
        }
        for team in teams
    }
    if "dinomill fp32" in first:
        difference = abs(first["dinomill"] - first["dinomill fp32"]) / abs(first["dinomill fp32"])
        print(
            f"loss after {arguments.warmup} steps: {first['dinomill']:.5f}, in fp32 {first['dinomill fp32']:.5f} "
            f"({difference:.1e} apart)"
        )
        result["precision_loss_difference"] = difference
    if arguments.device == "cuda":
        result["utilisation"] = round(model_flops(work) / ours.median("wall") / H100_BF16_FLOPS, 4)
        print(f"model FLOP utilisation, of an H100's 989 TFLOP/s: {result['utilisation']:.1%}")
    return result


def shares(team: Contender, peaks: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """A contender's shares of the peak of its precision."""
    peak = peaks.get(team.precision)
    by_cpu = team.share(peak, "cpu") if peak is not None and "cpu" in peak else None
    return {"peak_share": team.share(peak, "wall"), "peak_share_cpu": by_cpu}


def main() -> None:
    parser = command_line(__doc__, "one step of a tiny row")
    parser.add_argument("--row", action="append", choices=[*ROWS, *GPU_ROWS], help="default: all rows of the device")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7, help="measured steps of each contender")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--compile", action="store_true", help="compile dinomill's blocks")
    parser.add_argument("--only", action="append", help="a contender besides dinomill, by name; default: all")
    parser.add_argument("--peer-python", type=Path, default=PEER_PYTHON, help="of the environment with LightlyTrain")
    parser.add_argument("--logs", default=tempfile.gettempdir(), help="folder for what the contenders print")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.steps = arguments.warmup = 1
    rows = ROWS if arguments.device == "cpu" else GPU_ROWS
    chosen = {"tiny": TINY} if arguments.smoke else {name: {**ROWS, **GPU_ROWS}[name] for name in arguments.row or rows}
    try:
        results = {name: measure(name, work, arguments) for name, work in chosen.items()}
    except PeerFailedError as error:
        raise SystemExit(str(error)) from None
    peer = "LightlyTrain" if all("LightlyTrain" in result for result in results.values()) else "official-style"
    summary = {
        name: {"speed_ratio": result[peer]["speed_ratio"], "memory_ratio": result[peer]["memory_ratio"], "peer": peer}
        for name, result in results.items()
        if peer in result
    }
    finish({**summary, "device": arguments.device, "details": results}, smoke=arguments.smoke)


if __name__ == "__main__":
    main()
