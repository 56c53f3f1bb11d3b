"""Withdrawn images through the real curation: in no dataset, shown nowhere, counted; without any, nothing changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dinomill.curation.config import CurationConfig
from dinomill.curation.handles import ScanHandle
from dinomill.curation.stage import curate
from dinomill.errors import InputError
from dinomill.handles import DatasetHandle
from dinomill.images.withdrawn import Withdrawal, WithdrawnList
from dinomill.reporting.config import ReportingConfig
from dinomill.reporting.curation import count_fates, view_curation
from dinomill.storage.hashing import hash_bytes, hash_file

Rows = list[dict[str, Any]]
Configure = Callable[..., CurationConfig]


def again(root: Path, planted: Any, configure: Configure, gone: list[Withdrawal]) -> tuple[DatasetHandle, Rows]:
    WithdrawnList(gone).write(root / "withdrawn.csv")
    config = configure(root, withdrawn=root / "withdrawn.csv")
    dataset = curate([str(planted.pool)], {"digits": str(planted.seeds)}, str(planted.labelled), config)
    return dataset, pq.read_table(dataset.manifest).to_pylist()


def test_a_withdrawn_image_is_in_no_new_dataset(
    tmp_path: Path, planted: Any, configure: Configure, curated: tuple[DatasetHandle, Rows]
) -> None:
    before, rows = curated
    gone = [row for row in rows if row["fate"] == "kept"][:2]
    hashes = {row["sha256"] for row in gone}
    seed = hash_file(planted.seeds / "300.png")
    dataset, after = again(tmp_path, planted, configure, [Withdrawal(one) for one in sorted({*hashes, seed})])
    kept = {row["sha256"] for row in after if row["fate"] == "kept"}
    assert not kept & hashes
    assert {row["fate"] for row in after if row["sha256"] in hashes} == {"withdrawn"}
    assert dataset.fates["withdrawn"] == sum(row["sha256"] in hashes for row in rows)
    assert all(row["shard"] is None and row["embedding_row"] is None for row in after if row["sha256"] in hashes)
    # The others are judged as before: the rest of the pool lost nothing.
    assert {row["sha256"] for row in rows if row["fate"] == "kept"} - kept <= hashes
    shards = b"".join(path.read_bytes() for path in dataset.shards)
    assert not any((planted.pool / row["path"]).read_bytes() in shards for row in gone)
    assert (planted.pool / next(row["path"] for row in after if row["fate"] == "kept")).read_bytes() in shards
    scan = ScanHandle.load(tmp_path / "scan")
    assert scan.withdrawn == {"pool": dataset.fates["withdrawn"], "seeds:digits": 1}
    assert "withdrawn" not in scan.quarantined
    assert dataset.manifest_sha256 != before.manifest_sha256


def test_pages_count_withdrawn_images_and_show_none(
    tmp_path: Path, planted: Any, configure: Configure, curated: tuple[DatasetHandle, Rows]
) -> None:
    row = next(row for row in curated[1] if row["fate"] == "kept")
    dataset, _ = again(tmp_path, planted, configure, [Withdrawal(row["sha256"])])
    view = view_curation(dataset, ReportingConfig(output=tmp_path / "report"))
    assert next(one for one in view.fates if one.fate == "withdrawn").count == dataset.fates["withdrawn"]
    assert "withdrawn" not in {sheet.fate for sheet in view.sheets}
    assert count_fates(pq.read_table(dataset.manifest))[0].name == "withdrawn"
    page = (dataset.folder / "curation.html").read_text(encoding="utf-8")
    assert "not withdrawn" in page


def test_an_empty_list_gives_the_same_bytes(
    tmp_path: Path, planted: Any, configure: Configure, curated: tuple[DatasetHandle, Rows]
) -> None:
    dataset, _ = again(tmp_path, planted, configure, [])
    assert dataset.manifest_sha256 == curated[0].manifest_sha256
    assert dataset.made_of == curated[0].made_of


def test_a_labelled_image_stays_what_the_pool_is_held_against(
    tmp_path: Path, planted: Any, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    labelled = [Withdrawal(hash_file(path)) for path in planted.labelled.rglob("400.png")]
    with caplog.at_level(logging.WARNING):
        _, rows = again(tmp_path, planted, configure, labelled)
    assert "1 labelled images are withdrawn" in caplog.text
    assert next(row for row in rows if row["path"] == "leak/400.jpg")["fate"] == "evaluation_overlap"


def test_all_withdrawn_is_said_so(tmp_path: Path, planted: Any, configure: Configure) -> None:
    (tmp_path / "pool").mkdir()
    data = (planted.pool / next(path for path, kind in planted.kind.items() if kind == "relevant")).read_bytes()
    (tmp_path / "pool" / "one.png").write_bytes(data)
    WithdrawnList([Withdrawal(hash_bytes(data))]).write(tmp_path / "withdrawn.csv")
    with pytest.raises(InputError, match="Every file of the pool is withdrawn"):
        curate([str(tmp_path / "pool")], None, None, configure(tmp_path, withdrawn=tmp_path / "withdrawn.csv"))


def test_a_lost_list_stops_curation(tmp_path: Path, planted: Any, configure: Configure) -> None:
    with pytest.raises(InputError, match="list of withdrawn images"):
        curate([str(planted.pool)], None, None, configure(tmp_path, withdrawn=tmp_path / "withdrawn.csv"))
