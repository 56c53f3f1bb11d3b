"""All that needs a GPU, in one go of at most 25 minutes: speed and memory, utilisation, waiting, exactness.

    make gpu-check                                  on the GPU of this machine
    python benchmarks/gpu_check.py --row vitl14     one row, again
    python benchmarks/gpu_check.py --smoke          every row in small, on this machine's CPU

Rows: the tests marked `gpu`; matrix products alone; parity of losses with the CPU; waits of the host in a step;
compiled against eager; DDP, FSDP2 and HSDP with one process; steps fed by the loader; and for ViT-S, B and L/14 with
2×224 + 8×98 and 131,072 prototypes our step and the unpacked reference's (contenders/official_style_step.py),
one after the other. Each row is kept in data/work/gpu-check.json as soon as it is there: called again,
the script goes on with what is missing, unless GPU, torch or code have changed. At the end it prints a table and a line
of JSON and writes the section between the marks in docs/performance.md. Without a GPU it says so and returns 1.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from gpu_report import section, verdicts, write_section
from gpu_rows import run as run_row
from measuring import Peer, PeerFailedError, Table, command_line, finish
from pretraining_step import CONTENDERS, GPU_ROWS, PEER_PYTHON, TINY, contenders, model_flops

ROOT = Path(__file__).resolve().parents[1]
# Run in a process of its own, whose memory it gives back.
ONE_ROW = "import gpu_rows, json, sys; print(json.dumps(gpu_rows.run(sys.argv[1], 'cuda', small=False)))"
# Seconds that a row may take.
LIMITS = {"tests": 200, "products": 40, "parity": 90, "reads": 60, "compiled": 200, "parallel": 100, "data": 120}
LIMITS |= dict.fromkeys(GPU_ROWS, 220)
# The share of blocks that a lean step computes again.
RECOMPUTED = 0.7
# Dense bf16 operations a second that the makers state.
STATED = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


class Results:
    """What is known so far, on disk after every row.

    Args:
        path: The file.
        machine: What the figures hold for; another machine's are dropped.
    """

    def __init__(self, path: Path, machine: dict[str, str]) -> None:
        self._path, self.machine = path, machine
        self.rows: dict[str, dict[str, Any]] = {}
        if path.is_file():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known.get("machine") == machine:
                self.rows = known["rows"]

    def keep(self, row: str, figures: dict[str, Any]) -> None:
        """Add a row."""
        self.rows[row] = figures
        self._path.parent.mkdir(parents=True, exist_ok=True)
        written = self._path.with_suffix(".tmp")
        written.write_text(json.dumps({"machine": self.machine, "rows": self.rows}, indent=1), encoding="utf-8")
        written.replace(self._path)


def measure(row: str, seconds: float, *, smoke: bool) -> dict[str, Any]:
    """A row's figures; ``failed`` says why there are none."""
    device = "cpu" if smoke else "cuda"
    try:
        if row == "tests":
            return run_tests(seconds, smoke=smoke)
        if row == "products":
            return products(device)
        if row in GPU_ROWS:
            return speed(row, seconds, smoke=smoke)
        if smoke:
            return run_row(row, device, small=True)
        command = [sys.executable, "-c", ONE_ROW, row]
        done = subprocess.run(
            command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=seconds, check=False
        )
        if done.returncode:
            print(done.stderr[-4000:], file=sys.stderr)
            return {"failed": done.stderr.strip().splitlines()[-1]}
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {seconds:.0f} s"}
    except PeerFailedError as error:
        return {"failed": str(error).splitlines()[-1]}


def run_tests(seconds: float, *, smoke: bool) -> dict[str, Any]:
    """The tests marked ``gpu``; in small they are only collected."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "tests/training/test_on_gpu.py",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        command + ["--collect-only"] * smoke, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
    failed = re.search(r"(\d+) failed", last)
    if done.returncode:
        print(done.stdout[-8000:], file=sys.stderr)
    return {"failures": int(failed.group(1)) if failed else int(done.returncode != 0), "said": last}


def products(device: str) -> dict[str, Any]:
    """Operations a second of matrix products alone."""
    work = json.dumps({**TINY, "precision": "fp32", "compile": False, "device": device})
    peer = Peer("matrix products", [sys.executable, "matmul.py", work], cwd=CONTENDERS)
    try:
        rates = peer.ask()["rates"]
    finally:
        peer.close()
    return {name: rate["wall"] for name, rate in rates.items()}


def speed(row: str, seconds: float, *, smoke: bool) -> dict[str, Any]:
    """Our step, eager, compiled and lean, and the reference's, one after the other.

    Lean: compiled, and the activations of most blocks are computed again in the backward pass.
    """
    device = "cpu" if smoke else "cuda"
    work, steps, warmup = (TINY, 1, 1) if smoke else (GPU_ROWS[row], 8, 3)
    end = time.monotonic() + seconds
    figures: dict[str, Any] = {}
    for name, compiled in (("eager", False), ("compiled", True), ("lean", True), ("reference", False)):
        if smoke and compiled:
            continue  # a minute of generating code; the row `compiled` traces
        options = argparse.Namespace(
            device=device, threads=2, compile=compiled, only=["official-style"], peer_python=PEER_PYTHON
        )
        lean = {"recomputed": RECOMPUTED} if name == "lean" else {}
        ours, reference = contenders({**work, **lean}, options)
        team = reference if name == "reference" else ours
        with tempfile.TemporaryDirectory() as logs:
            try:
                team.start(Path(logs) / "log")
                for turn in range(warmup + steps):
                    step = team.step()
                    if turn >= warmup:
                        team.steps.append(step)
                    if time.monotonic() > end:
                        break
                if not team.steps:
                    raise PeerFailedError(f"took more than {seconds:.0f} s")
                wall = statistics.median(step["wall"] for step in team.steps)
                figures |= {f"{name}_step_s": wall, f"{name}_peak_gb": team.peak}
            except PeerFailedError as error:
                figures[f"{name}_failed"] = str(error).splitlines()[-1]
            finally:
                team.stop()
    return figures | ratios(work, figures, device)


def ratios(work: dict[str, Any], figures: dict[str, Any], device: str) -> dict[str, Any]:
    """What the figures of a row of speed come to, by the faster of our two."""
    ours = min(
        (name for name in ("eager", "compiled") if f"{name}_step_s" in figures),
        key=lambda n: figures[f"{n}_step_s"],
        default=None,
    )
    if ours is None:
        return {"failed": figures.get("eager_failed", "no step was made")}
    step = figures[f"{ours}_step_s"]
    found: dict[str, Any] = {"ours": ours, "images_per_s": work["batch"] / step}
    stated = stated_peak() if device == "cuda" else None
    if stated is not None:
        found["utilisation"] = model_flops(work) / step / stated
    if "reference_step_s" in figures:
        found["speed_ratio"] = figures["reference_step_s"] / step
        found["memory_ratio"] = figures[f"{ours}_peak_gb"] / figures["reference_peak_gb"]
        if "lean_step_s" in figures:
            found["lean_speed_ratio"] = figures["reference_step_s"] / figures["lean_step_s"]
            found["lean_memory_ratio"] = figures["lean_peak_gb"] / figures["reference_peak_gb"]
    return found


def stated_peak() -> float | None:
    """Of this GPU, where it is known."""
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in STATED.items() if part in name), None)


def this_machine(*, smoke: bool) -> dict[str, str]:
    """What figures hold for."""
    code = ""
    with suppress(FileNotFoundError):  # a copy of the code, on a machine without git
        command = ["git", "rev-parse", "--short", "HEAD"]
        code = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    device = "this CPU, in small" if smoke else torch.cuda.get_device_name()
    return {"device": device, "torch": torch.__version__, "code": code or "unknown"}


def main() -> None:
    parser = command_line(__doc__, "every row in small, on the CPU")
    parser.add_argument(
        "--row", action="append", choices=[*LIMITS], help="measure it anew; default: all that are missing"
    )
    parser.add_argument("--minutes", type=float, default=25, help="no row is begun that could not end by then")
    parser.add_argument("--results", type=Path, default=ROOT / "data" / "work" / "gpu-check.json", help="what is kept")
    parser.add_argument(
        "--document", type=Path, default=ROOT / "docs" / "performance.md", help="whose section is written"
    )
    arguments = parser.parse_args()
    if not arguments.smoke and not torch.cuda.is_available():
        print(
            "There is no GPU that PyTorch can use here: nothing was measured. On a machine with one: `make gpu-check`; "
            "here `python benchmarks/gpu_check.py --smoke` runs every row in small on the CPU.",
            file=sys.stderr,
        )
        raise SystemExit(1)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.smoke:
            # The document and the results of a real run stay as they are.
            arguments.results = Path(folder) / "results.json"
            text = arguments.document.read_text(encoding="utf-8")
            arguments.document = Path(folder) / "performance.md"
            arguments.document.write_text(text, encoding="utf-8")
        check(arguments)


def check(arguments: argparse.Namespace) -> None:
    """Measure what is missing, and say what is known."""
    results = Results(arguments.results, this_machine(smoke=arguments.smoke))
    end = time.monotonic() + 60 * arguments.minutes
    # In small the three rows of speed would be the same one.
    rows = [row for row in LIMITS if not arguments.smoke or row not in list(GPU_ROWS)[1:]]
    for row in arguments.row or rows:
        left = end - time.monotonic()
        known = results.rows.get(row, {"failed": ""})
        if row not in (arguments.row or []) and "failed" not in known:
            print(f"{row}: kept from before", file=sys.stderr)
            continue
        if left < min(LIMITS[row], 60):
            print(f"{row}: no time left; call again", file=sys.stderr)
            continue
        start = time.monotonic()
        figures = measure(row, min(LIMITS[row], left), smoke=arguments.smoke)
        results.keep(row, {**figures, "seconds": round(time.monotonic() - start, 1)})
        print(f"{row}: {json.dumps(results.rows[row])}", file=sys.stderr, flush=True)
    table = Table("found", "aim", "met", name=46)
    for words, value, aim, met in verdicts(results.rows):
        table.row(words, value, aim, met)
    write_section(arguments.document, section(results.machine, results.rows))
    finish({**results.machine, "rows": results.rows}, smoke=arguments.smoke)


if __name__ == "__main__":
    main()
