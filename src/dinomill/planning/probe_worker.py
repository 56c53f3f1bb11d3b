"""The process in which a part of a plan is tried: ``python -m dinomill.planning.probe_worker request.json``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinomill.errors import DinomillError
from dinomill.handles import HANDLE_NAME

_FORWARD_SECONDS = 1.5

Request = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Answer one request."""
    request: Request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    parts: dict[str, Callable[[Request], dict[str, Any]]] = {
        "curation": curation,
        "pretraining_job": pretraining_job,
        "distillation_job": distillation_job,
        "networks": networks,
    }
    try:
        answer = parts[request["what"]](request)
    except DinomillError as error:
        kept = ("problem", "found", "expected", "action")
        answer = {name: getattr(error, name) for name in kept}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return 0


def curation(request: Request) -> dict[str, Any]:
    """Look at some images, embed them and make a dataset of them, by the stage's own code; seconds an image."""
    start = time.perf_counter()
    imported, own_share = import_seconds()
    from dinomill.curation.config import CurationConfig
    from dinomill.curation.embedding.embed import embed_files
    from dinomill.curation.scan.scan import POOL, scan
    from dinomill.images.tiles import TileConfig
    from dinomill.planning.pool_files import decoding_bytes, draw, list_all
    from dinomill.planning.pool_look import look

    config = CurationConfig.parse(request["stages"]["curation"], where="the plan")
    room = Path(request["room"])
    tiles = {place: TileConfig.parse(said, where="the plan") for place, said in request["tiles"].items()}
    chosen = draw(list_all(request["locations"], tiles), request["images"], seed=1)
    started = time.perf_counter()
    folder = _copied(chosen, room / "images")
    read = (time.perf_counter() - started) / len(chosen) if any("://" in place for place, _ in chosen) else 0.0
    looks = [seen for place in chosen if not isinstance(seen := look(*place), str)]
    looked = [seen.seconds for seen in looks]
    lenient = config.scan.model_copy(update={"max_bad_fraction": 1.0})
    started = time.process_time()
    work, execution = config.work, config.execution
    found = scan({POOL: [str(folder)]}, lenient, folder=config.folders.scan, work=work, execution=execution)
    scanned = time.process_time() - started
    _warm(config)
    started = time.process_time()
    features = embed_files(found, config.embedding, folder=config.folders.embeddings, work=work, execution=execution)
    embedded = time.process_time() - started
    _dataset(config, found, features)
    return {
        # Processor time: what else runs here now is no part of it. Reading from afar is waited for.
        "look_seconds": max(sum(looked) / max(len(looked), 1), 1e-6),
        "scan_seconds": scanned / max(len(chosen), 1) + read,
        "embed_seconds": embedded / max(features.rows, 1) + read,
        "import_seconds": imported,
        "own_share": own_share,
        "largest_bytes": max((decoding_bytes(seen.info) for seen in looks), default=0.0),
        "seconds": time.perf_counter() - start,
    }


def import_seconds() -> tuple[float, float]:
    """Processor seconds to import what every stage imports: Kedro, MLflow, torch; their share of the time it took."""
    import importlib

    start, began = time.process_time(), time.perf_counter()
    for name in ("kedro.framework.session", "mlflow", "torch", "pyarrow.parquet", "pandas"):
        importlib.import_module(name)
    spent = time.process_time() - start
    return spent, min(spent / (time.perf_counter() - began), 1.0)


def _copied(chosen: list[tuple[str, Any]], folder: Path) -> Path:
    """The bytes of the drawn files, under names of ours."""
    from dinomill.images.decode_error import DecodeError
    from dinomill.images.listing import read_item

    folder.mkdir(parents=True, exist_ok=True)
    for number, (source, item) in enumerate(chosen):
        try:
            data = b"" if item.fault else read_item(source, item)
        except (DecodeError, OSError):
            data = b""
        (folder / f"{number:05d}").write_bytes(data)
    return folder


def _warm(config: Any) -> None:
    """Load the embedder and let it see two pictures: its start is no part of an image's time."""
    import numpy as np

    from dinomill.curation.embedding.embedders import embed, find_network

    side = config.embedding.embedder.image_size
    pictures = [np.full((side, side, 3), 127, np.uint8)] * 2
    embed(pictures, find_network(config.embedding.embedder), config.embedding.embedder)


def _dataset(config: Any, found: Any, features: Any) -> None:
    """A dataset of everything that can be read: copies and relevance are not what is tried here."""
    from dinomill.curation.content.filters import FilterConfig
    from dinomill.curation.copies.deduplicate import deduplicate
    from dinomill.curation.selection.balance import BalanceConfig
    from dinomill.curation.selection.retrieve import RetrievalConfig
    from dinomill.curation.selection.select import select
    from dinomill.curation.write import write_dataset

    none = FilterConfig()
    folders, work, execution = config.folders, config.work, config.execution
    copies = deduplicate(
        found, features, config.deduplication, none, folder=folders.duplicates, work=work, execution=execution
    )
    chosen = select(
        found, features, copies, RetrievalConfig(), BalanceConfig(levels=()), none, folder=folders.selection
    )
    written = write_dataset(
        found, features, chosen, config.write, none, folder=folders.curated, work=work, execution=execution
    )
    written.save()


def pretraining_job(request: Request) -> dict[str, Any]:
    """The job file of the pretraining's trial."""
    from dinomill.handles import DatasetHandle
    from dinomill.pretraining.config import PretrainingConfig
    from dinomill.pretraining.pretrain import pretraining_job as resolved

    config = PretrainingConfig.parse(request["stages"]["pretraining"], where="the plan")
    dataset = DatasetHandle.load(Path(request["room"]) / "curated")
    return {"job": str(resolved(dataset, None, config).save())}


def distillation_job(request: Request) -> dict[str, Any]:
    """The job file of the distillation's trial, with the teacher that the other trial left."""
    from dinomill.distillation.config import DistillationConfig
    from dinomill.distillation.distil import distillation_job as resolved
    from dinomill.handles import DatasetHandle

    config = DistillationConfig.parse(request["stages"]["distillation"], where="the plan")
    dataset = DatasetHandle.load(Path(request["room"]) / "curated")
    own = _teacher(request, dataset) if config.own_teacher else None
    return {"job": str(resolved(dataset, own, None, config).save())}


def networks(request: Request) -> dict[str, Any]:
    """Images a second through the teacher and the student, as evaluation puts them through."""
    import torch

    from dinomill.features import open as open_features
    from dinomill.handles import DatasetHandle

    dataset = DatasetHandle.load(Path(request["room"]) / "curated")
    (student,) = sorted((Path(request["room"]) / "work" / "distillation").glob("*/exported-last/small"))
    settings = request["stages"]["distillation"]
    if request["given"]:
        size = settings.get("teacher_size", "auto")
        teacher = open_features(str(settings["teacher"]), image_size=None if size == "auto" else size)
    else:
        teacher = open_features(_teacher(request, dataset).folder)
    rates = {}
    for name, model in (("teacher", teacher), ("student", open_features(student))):
        seen = model.description.preprocessing
        batch = torch.randn(32, seen.channels, seen.image_size, seen.image_size)
        with torch.inference_mode():
            model(batch)
            start, spent, done = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - start < _FORWARD_SECONDS:
                model(batch)
                done += len(batch)
        took, used = time.perf_counter() - start, (time.process_time() - spent) / request["cores"]
        # What it cost the processors, where others took them: it is not there when the run is alone.
        rates[name] = done / min(took, max(used / 0.9, 1e-6)) if used < 0.6 * took else done / took
    return rates


def _teacher(request: Request, dataset: Any) -> Any:
    """The teacher of the pretraining's trial, taken over as the stage does it."""
    from dinomill.handles import ModelHandle
    from dinomill.pretraining.config import PretrainingConfig
    from dinomill.pretraining.pretrain import pretraining_job as resolved
    from dinomill.training.hand_on import adopt

    config = PretrainingConfig.parse(request["stages"]["pretraining"], where="the plan")
    if (config.output / HANDLE_NAME).is_file():
        return ModelHandle.load(config.output)
    handle = adopt(resolved(dataset, None, config), dataset, student="student", name="teacher", output=config.output)
    handle.save()
    return handle


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
