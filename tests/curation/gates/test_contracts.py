"""The contracts as the catalog holds them: a table that breaks its own stops the pipeline and names the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from dinomill.curation.gates.checks import check_files
from dinomill.curation.gates.contracts import EmbeddingsContract, ManifestContract
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.scan import FILES_SCHEMA, ScanConfig
from dinomill.evaluation.contract import EvaluationContract
from dinomill.handles import DatasetHandle, EvaluationHandle, ModelScore
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.quality.counting import count_repeated
from dinomill.quality.gate import GateConfig, QualityError
from dinomill.storage.atomic import write_parquet

CONF = Path(__file__).parents[3] / "conf" / "base"


def _entry(stage: str, name: str, folders: dict[str, Path]) -> dict[str, Any]:
    """An entry of the shipped catalog with its folders elsewhere."""
    text = (CONF / stage / "catalog.yml").read_text()
    for folder, place in folders.items():
        text = text.replace(f"${{globals:folders.{folder}}}", str(place))
    entry: dict[str, Any] = yaml.safe_load(text)[name]
    return entry


def _evaluation(folder: Path, *scores: ModelScore, images: int = 10) -> EvaluationHandle:
    folder.mkdir(parents=True, exist_ok=True)
    return EvaluationHandle(
        folder=folder,
        config_hash="0" * 64,
        scores=scores,
        bank_images=images,
        query_images=images,
        classes=("a", "b"),
        metrics=folder / "metrics.json",
    )


def _score(model: str, kind: str, knn: float, linear: float = 0.5) -> ModelScore:
    return ModelScore(model=model, kind=kind, parameters=1, knn=knn, linear=linear)


def _run_pipeline(handle: EvaluationHandle, tmp_path: Path) -> list[str]:
    """Run a stage that hands on an evaluation, and one after it; returns what ran."""
    ran: list[str] = []

    def measure() -> EvaluationHandle:
        ran.append("measure")
        return handle

    def register(evaluation: EvaluationHandle) -> str:
        ran.append("register")
        return evaluation.scores[0].model if evaluation.scores else ""

    entry = _entry("evaluation", "evaluation", {"evaluation": handle.folder, "work": tmp_path / "work"})
    catalog = DataCatalog.from_config({"evaluation": entry})
    nodes = [Node(measure, None, "evaluation", name="measure"), Node(register, "evaluation", "model", name="register")]
    try:
        SequentialRunner().run(Pipeline(nodes), catalog)
    finally:
        assert (tmp_path / "evaluation" / "handle.json").exists() == (len(ran) > 1)
    return ran


def test_a_broken_evaluation_table_stops_the_pipeline_and_names_the_rows(tmp_path: Path) -> None:
    scores = (_score("pixels", "pixels", 0.8), _score("vit", "teacher", 1.7), _score("nano", "pupil", 0.6))
    with pytest.raises(Exception, match="'evaluation'") as caught:
        _run_pipeline(_evaluation(tmp_path / "evaluation", *scores), tmp_path)
    text = str(caught.value)
    assert "2 of its 5 expectations" in text
    assert "vit: knn=1.7" in text and "nano: kind=pupil" in text and "pixels:" not in text
    docs = tmp_path / "work" / "quality" / "evaluation" / "docs" / "index.html"
    assert docs.is_file() and str(docs) in text


def test_a_good_evaluation_table_goes_on(tmp_path: Path) -> None:
    scores = (_score("pixels", "pixels", 0.8), _score("vit", "teacher", 0.9))
    assert _run_pipeline(_evaluation(tmp_path / "evaluation", *scores), tmp_path) == ["measure", "register"]
    found = json.loads((tmp_path / "work" / "quality" / "evaluation" / "evaluation.json").read_text())
    assert found["rows"] == 2 and all(line.startswith("passed") for line in found["checks"])


def test_two_rows_of_one_model_and_an_empty_table_are_refused(tmp_path: Path) -> None:
    contract = EvaluationContract(str(tmp_path / "quality"), str(tmp_path / "work"), docs=False)
    twice = (_score("vit", "teacher", 0.9), _score("vit", "student", 0.8))
    with pytest.raises(QualityError, match="1 of its 5") as caught:
        contract.validate(_evaluation(tmp_path, *twice))
    assert "model" in str(caught.value)
    with pytest.raises(QualityError):
        contract.validate(_evaluation(tmp_path))


def test_without_labelled_images_there_is_no_table_to_check(tmp_path: Path) -> None:
    contract = EvaluationContract(str(tmp_path / "quality"), str(tmp_path / "work"))
    handle = _evaluation(tmp_path, images=0)
    assert contract.validate(handle) is handle


def _embeddings(folder: Path, rows: np.ndarray[Any, Any]) -> EmbeddingsHandle:
    np.save(folder / "00000.npy", rows.astype(np.float16))
    return EmbeddingsHandle(
        folder=folder,
        config_hash="0" * 64,
        shards=(folder / "00000.npy",),
        rows=len(rows),
        dimension=rows.shape[1],
        network="n",
    )


def _unit(count: int) -> np.ndarray[Any, Any]:
    rows = np.random.default_rng(0).standard_normal((count, 16))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_an_embedding_that_is_none_is_named_by_its_row(tmp_path: Path) -> None:
    rows = _unit(50)
    rows[7] = np.nan
    rows[9] *= 2
    contract = EmbeddingsContract(str(tmp_path / "q"), str(tmp_path / "w"), docs=False)
    with pytest.raises(QualityError) as caught:
        contract.validate(_embeddings(tmp_path, rows))
    assert "7: finite=False" in str(caught.value) and "9: norm=2" in str(caught.value)


def _dataset(folder: Path, rows: list[dict[str, Any]]) -> DatasetHandle:
    write_parquet(folder / "manifest.parquet", pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    return DatasetHandle(
        folder=folder,
        config_hash="0" * 64,
        manifest=folder / "manifest.parquet",
        manifest_sha256="0" * 64,
        shards=(),
        images=len(rows),
        pool_images=len(rows),
        fates={},
        channels=3,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        embedder="n",
        sources=("pool",),
    )


def _kept(number: int, **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(MANIFEST_SCHEMA.names) | {
        "path": f"{number}.png",
        "source": "pool",
        "sha256": f"{number:064x}",
        "fate": "kept",
        "shard": 0,
        "offset": 512 + 1024 * number,
        "length": 100,
    }
    return row | more


def test_a_manifest_that_lost_an_image_is_refused(tmp_path: Path) -> None:
    contract = ManifestContract(str(tmp_path / "q"), str(tmp_path / "w"), docs=False)
    contract.validate(_dataset(tmp_path, [_kept(number) for number in range(5)]))
    rows = [_kept(number) for number in range(5)]
    rows[3] |= {"shard": None}
    with pytest.raises(QualityError) as caught:
        contract.validate(_dataset(tmp_path, rows))
    assert "pool/3.png" in str(caught.value) and "pool/2.png" not in str(caught.value)


def test_a_long_table_is_sampled_with_a_fixed_seed(tmp_path: Path) -> None:
    contract = ManifestContract(str(tmp_path / "q"), str(tmp_path / "w"), sample_above=40, docs=False)
    contract.validate(_dataset(tmp_path, [_kept(number) for number in range(1000)]))
    found = json.loads((tmp_path / "q" / "manifest.json").read_text())
    assert (found["rows"], found["total_rows"]) == (40, 1000)
    sample = contract.sample(1000)
    assert len(set(sample.tolist())) == 40 and (np.diff(sample) > 0).all()
    assert (sample == contract.sample(1000)).all()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"fate": "lost", "reason": "x", "shard": None}, "a fate that there is not"),
        ({"shard": None}, "kept, and in no shard"),
        ({"length": 0}, "kept, and of no length"),
        ({"fate": "irrelevant", "shard": None}, "left out, and no reason"),
        ({"fate": "irrelevant", "reason": "x"}, "left out, and in a shard"),
        ({"sha256": f"{3:064x}"}, "kept twice, with the same bytes"),
        ({"sha256": None}, "kept, and without a hash"),
    ],
)
def test_a_row_outside_the_sample_is_found_by_the_counts(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    contract = ManifestContract(str(tmp_path / "q"), str(tmp_path / "w"), sample_above=40, docs=False)
    unseen = int(np.setdiff1d(np.arange(1000), contract.sample(1000))[9])
    rows = [_kept(number) for number in range(1000)]
    rows[unseen] |= change
    dataset = _dataset(tmp_path, rows)
    if change.get("fate"):
        dataset = dataset.model_copy(update={"images": 999})
    with pytest.raises(QualityError, match="manifest_summary") as caught:
        contract.validate(dataset)
    assert f"{rule}/pool/{unseen}.png: broken=1" in str(caught.value)


def test_a_handle_that_counts_otherwise_than_its_table_is_refused(tmp_path: Path) -> None:
    contract = ManifestContract(str(tmp_path / "q"), str(tmp_path / "w"), sample_above=40, docs=False)
    dataset = _dataset(tmp_path, [_kept(number) for number in range(100)]).model_copy(update={"images": 90})
    with pytest.raises(QualityError, match="kept images that the handle and the table disagree on"):
        contract.validate(dataset)


def test_hashes_that_only_begin_alike_are_no_copies(tmp_path: Path) -> None:
    rows = [_kept(0, sha256="ab" * 8 + "0" * 48), _kept(1, sha256="ab" * 8 + "1" * 48), _kept(2)]
    dataset = _dataset(tmp_path, rows)
    assert count_repeated(dataset.manifest, pc.field("fate") == "kept")[1] == 0


def test_the_scan_of_many_files_is_sampled_and_counted(tmp_path: Path) -> None:
    names = ("group", "source", "path", "place")
    files = [dict.fromkeys(names, "pool") | {"path": f"{number}.png", "start": -1} for number in range(500)]
    for number, row in enumerate(files):
        row |= {"sha256": f"{number:064x}", "pixels": "p", "width": 20, "height": 20, "channels": 3}
        row |= {"brightness": 0.5, "entropy": 3.0, "candidate": number % 10 > 0}
    scan = _scan(tmp_path, files)
    config, limits = GateConfig(sample_above=50, docs=False), ScanConfig()
    handle = check_files(scan, config, limits, folder=tmp_path / "q", work=tmp_path / "w")
    assert (handle.rows, handle.total_rows) == (50, 450)
    files[490]["width"] = 3  # no candidate: it is no matter
    check_files(_scan(tmp_path, files), config, limits, folder=tmp_path / "q", work=tmp_path / "w")
    files[487]["width"] = 3
    with pytest.raises(QualityError, match=r"usable, and too small/pool/487\.png: broken=1"):
        check_files(_scan(tmp_path, files), config, limits, folder=tmp_path / "q", work=tmp_path / "w")


def _scan(root: Path, rows: list[dict[str, Any]]) -> ScanHandle:
    write_parquet(root / "files.parquet", pa.Table.from_pylist(rows, schema=FILES_SCHEMA))
    return ScanHandle(
        folder=root,
        config_hash="0" * 64,
        files=root / "files.parquet",
        files_sha256="0" * 64,
        signatures=root / "none",
        quarantine=root / "none",
        groups={"pool": len(rows)},
        quarantined={},
        sources=("pool",),
    )
