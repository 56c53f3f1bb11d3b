"""`dinomill doctor`: what this machine and this project have, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dinomill.commands.project import enter_project
from dinomill.commands.ui import port_is_free
from dinomill.errors import DinomillError, InputError
from dinomill.layers import Layers
from dinomill.printing import open_console

# What the demo needs: results, MLflow's copies and DVC's cache; and the largest stage's memory.
DISK_GB = 2.0
MEMORY_GB = 4.0

EXTRAS = {
    "s3": ("dvc_s3", "DVC remotes on S3 (reading images from S3 needs nothing more)"),
    "onnx": ("onnxruntime", "export to ONNX; an ONNX file as curation's embedder"),
    "openvino": ("openvino", "export to OpenVINO, the fastest serving on a CPU"),
    "ray": ("ray", "curation on a Ray cluster"),
}


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    NOTE = "note"  # works, but the user may want to know
    MISSING = "missing"  # needed


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    state: State
    found: str
    action: str = ""


def examine(env: str | None = None) -> list[Check]:
    """Look at everything, with the sources of an environment; no check raises."""
    groups: tuple[Callable[[], Iterator[Check]], ...] = (_python, _torch, _machine, _java, _extras, _ports)
    return [*_project(env), *(check for group in groups for check in group())]


def show(checks: list[Check]) -> int:
    """Print the table; the exit code is 1 when something needed is missing."""
    from rich.table import Table

    colours = {State.OK: "green", State.NOTE: "yellow", State.MISSING: "bold red"}
    table = Table("", "what", "found", "what to do", box=None, pad_edge=False)
    for check in checks:
        table.add_row(f"[{colours[check.state]}]{check.state}[/]", check.name, check.found, check.action)
    console = open_console()
    console.print(table)
    missing = sum(check.state is State.MISSING for check in checks)
    console.print()
    console.print(f"{missing} needed thing(s) missing." if missing else "Everything needed is there.")
    return 1 if missing else 0


def _project(env: str | None) -> Iterator[Check]:
    try:
        root = enter_project()
    except InputError as error:
        yield Check("project", State.NOTE, str(error.found), error.action or "")
        return
    installed = importlib.util.find_spec("dinomill.pipelines") is not None
    yield Check(
        "project",
        State.OK if installed else State.MISSING,
        str(root) if installed else f"{root}, whose stages are not installed",
        "" if installed else "run `make setup`",
    )
    try:
        layers = Layers(env)
        values = layers.globals
    except DinomillError as error:
        found = ": ".join(filter(None, (error.problem.rstrip("."), error.found)))
        yield Check("configuration", State.MISSING, found, error.action or "")
        return
    for name in ("pool", "seeds", "labelled"):
        yield _source(name, values.get(name), layers.origin(name))


def _source(name: str, locations: object, file: str) -> Check:
    from dinomill.datasets import SourceDataset

    if not locations:
        needed = name == "pool"
        action = "run `dinomill init NAME --pool PATH`" if needed else f"set `{name}` in {file}, if there are any"
        return Check(name, State.MISSING if needed else State.NOTE, "none", action)
    source = SourceDataset(name, locations)  # type: ignore[arg-type]
    source.said_in = file
    try:
        source.check()
    except InputError as error:
        return Check(name, State.NOTE, error.problem, error.action or "")
    shown = ", ".join(map(str, source.local_paths)) or str(locations)
    return Check(name, State.OK, shown)


def _python() -> Iterator[Check]:
    recent = sys.version_info >= (3, 11)
    yield Check(
        "Python",
        State.OK if recent else State.MISSING,
        f"{sys.version.split()[0]} in {sys.prefix}",
        "" if recent else "dinomill needs 3.11 or newer: make setup PYTHON=python3.11",
    )
    for program in ("kedro", "dvc", "mlflow", "torch-model-archiver", "torchserve"):
        beside = Path(sys.executable).with_name(program)
        found = shutil.which(program) or (str(beside) if beside.exists() else None)
        if found is None:
            yield Check(program, State.MISSING, "not on the path", "run `make setup`, or activate .venv")
        elif shutil.which(program) is None:
            yield Check(program, State.NOTE, found, "activate the environment: `. .venv/bin/activate`")


def _torch() -> Iterator[Check]:
    if importlib.util.find_spec("torch") is None:
        yield Check(
            "torch", State.MISSING, "not installed", "run `make setup` (TORCH_INDEX=… picks a build: make help)"
        )
        return
    import torch

    build = torch.version.cuda or torch.version.hip
    yield Check("torch", State.OK, f"{torch.__version__} ({f'CUDA or ROCm {build}' if build else 'CPU build'})")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: fp32 is used"
            yield Check(f"GPU {index}", State.OK, f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {bf16}")
        return
    if Path("/dev/nvidia0").exists():
        yield Check(
            "GPU",
            State.NOTE,
            "an NVIDIA device that torch cannot use",
            "install a CUDA build: TORCH_INDEX=… (make help)",
        )
    yield Check("processor", State.OK, _processor())


def _processor() -> str:
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    if "amx_bf16" in flags:
        return "bf16 in hardware (AMX): training in bf16 is several times faster than in fp32"
    if "avx512_bf16" in flags:
        return "bf16 in hardware (AVX-512)"
    return "no bf16 in hardware: training on this processor is in fp32"


def _machine() -> Iterator[Check]:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check("cores", State.OK, str(cores))
    memory = psutil.virtual_memory()
    enough = memory.available / 1e9 >= MEMORY_GB
    yield Check(
        "memory",
        State.OK if enough else State.NOTE,
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available",
        "" if enough else f"the demo needs about {MEMORY_GB:.0f} GB: lower `batch_size`, or end other programs",
    )
    disk = shutil.disk_usage(Path.cwd())
    enough = disk.free / 1e9 >= DISK_GB
    yield Check(
        "disk",
        State.OK if enough else State.MISSING,
        f"{disk.free / 1e9:.1f} GB free in {Path.cwd()}",
        "" if enough else f"free some space: the demo needs {DISK_GB:.0f} GB",
    )


def _java() -> Iterator[Check]:
    from dinomill.serving.torchserve.java import find_java, java_version

    try:
        java = find_java()
    except DinomillError as error:
        yield Check("Java", State.MISSING, error.found or error.problem, error.action or "")
    else:
        yield Check("Java", State.OK, f"{java_version(java)} at {java}")


def _extras() -> Iterator[Check]:
    for extra, (module, purpose) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Check(
                f"extra {extra}", State.NOTE, "not installed", f"for {purpose}: pip install 'dinomill[{extra}]'"
            )
        else:
            version = importlib.metadata.version(module.replace("_", "-"))
            yield Check(f"extra {extra}", State.OK, f"{module} {version}")


def _ports() -> Iterator[Check]:
    for port, use, other in (
        (5000, "the MLflow page", "dinomill ui --port"),
        (4141, "the pipelines' picture", "kedro viz run --port"),
    ):
        if port_is_free(port):
            yield Check(f"port {port}", State.OK, f"free, for {use}")
        else:
            yield Check(f"port {port}", State.NOTE, f"in use; {use} wants it", f"choose another: `{other} {port + 1}`")
