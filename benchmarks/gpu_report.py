"""What gpu_check.py has to show, and how it is told: the aims, the verdicts, the section of docs/performance.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretraining_step import GPU_ROWS

BEGIN, END = "<!-- gpu-check: begin -->", "<!-- gpu-check: end -->"

# What is to be shown: row, figure, how it is to stand to the number, the number, in words.
AIMS = [
    ("tests", "failures", "<=", 0, "tests on the GPU that failed"),
    ("parity", "fp32_loss", "<=", 1e-4, "losses against the CPU, fp32"),
    ("parity", "bf16_loss", "<=", 1e-2, "losses against the CPU, bf16"),
    ("reads", "waits", "<=", 0, "waits of the host in a step"),
    ("reads", "reads", "<=", 0, "values that the host reads in a step"),
    ("compiled", "loss_difference", "<=", 1e-2, "losses compiled against eager"),
    ("compiled", "faster_by", ">=", 1.0, "compiled, faster by"),
    ("parallel", "ddp", "<=", 1e-4, "losses under DDP against none"),
    ("parallel", "fsdp2", "<=", 1e-4, "losses under FSDP2 against none"),
    ("parallel", "hsdp", "<=", 1e-4, "losses under HSDP against none"),
    ("data", "waiting", "<=", 0.03, "share of a step that waits for data"),
    *((row, "speed_ratio", ">=", 2.0, f"{row}: faster than the reference by") for row in GPU_ROWS),
    *((row, "lean_memory_ratio", "<=", 1 / 3, f"{row}: lean, memory over the reference's") for row in GPU_ROWS),
    ("vitl14", "utilisation", ">=", 0.45, "vitl14: share of the GPU's stated peak"),
]


def verdicts(rows: dict[str, dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """For each aim its words, the figure, the aim, and whether it is met."""
    found = []
    for row, figure, sense, number, words in AIMS:
        value = rows.get(row, {}).get(figure)
        aim = f"{'at most' if sense == '<=' else 'at least'} {number:.3g}"
        if not isinstance(value, (int, float)):
            said = rows.get(row, {}).get("failed", "not measured yet")
            found.append((words, str(said)[:60], aim, "?"))
        else:
            met = value <= number if sense == "<=" else value >= number
            found.append((words, f"{value:.3g}", aim, "yes" if met else "NO"))
    return found


def section(machine: dict[str, str], rows: dict[str, dict[str, Any]]) -> str:
    """The section for docs/performance.md."""
    lines = [f"{machine['device']}, PyTorch {machine['torch']}, code {machine['code']} (`make gpu-check`):", ""]
    lines += ["| | found | aim | met |", "|---|--:|--:|:-:|"]
    lines += [f"| {words} | {value} | {aim} | {met} |" for words, value, aim, met in verdicts(rows)]
    lines += [
        "",
        "| row | batch | step, s: eager / compiled / lean / reference | peak, GB | images/s | of peak | lean, faster |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in GPU_ROWS:
        figures = rows.get(row, {})
        if "images_per_s" not in figures:
            continue
        cells = [
            " / ".join(
                f"{figures[key]:.3g}" if (key := f"{name}_{kind}") in figures else "–"
                for name in ("eager", "compiled", "lean", "reference")
            )
            for kind in ("step_s", "peak_gb")
        ]
        rest = [f"{figures['images_per_s']:.0f}", f"{figures['utilisation']:.1%}" if "utilisation" in figures else "–"]
        rest.append(f"{figures['lean_speed_ratio']:.2f}" if "lean_speed_ratio" in figures else "–")
        lines.append("| " + " | ".join([row, str(GPU_ROWS[row]["batch"]), *cells, *rest]) + " |")
    return "\n".join(lines)


def write_section(document: Path, text: str) -> None:
    """Put the text between the marks."""
    before, found, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise SystemExit(f"{document} has no section for this: it needs the lines {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
