"""DVC on real results, with the real programs: a pool of S3 that grows."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinomill.curation.handles import ScanHandle
from dinomill.storage.hashing import hash_file
from tests.commands.programs import run
from tests.commands.test_dvc_remote import BUCKET, client, server, shared
from tests.commands.test_experiments import cloned, commit, read

__all__ = ["cloned", "server", "shared"]  # fixtures that are shared

pytestmark = pytest.mark.slow


def parsed(text: str) -> Any:
    """JSON among what else a program says."""
    found = re.search(r"^[\[{]", text, re.MULTILINE)
    assert found is not None, text
    return json.JSONDecoder().raw_decode(text, found.start())[0]


def test_a_pool_of_s3_grows_by_two_and_costs_two(shared: Path, server: str) -> None:
    run(shared, "dvc", "repro", "sample")
    files = [path for path in (shared / "data/01_raw/sample/pool").rglob("*") if path.is_file()]
    times = Counter(hash_file(path) for path in files)
    alone = [path for path in files if path.suffix == ".jpg" and times[hash_file(path)] == 1]
    added, first = alone[:2], [path for path in files if path not in alone[:2]]
    put(server, first)
    run(shared, "dvc", "remote", "add", "pools", f"s3://{BUCKET}/images")
    run(shared, "dvc", "remote", "modify", "pools", "endpointurl", server)
    (shared / "data/00_pool").mkdir()
    run(shared, "dvc", "import-url", "remote://pools", "data/00_pool/photos")
    settings = read(shared / "conf/base/globals.yml") | {"pool": ["data/00_pool/photos"]}
    (shared / "conf/base/globals.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    run(shared, "dinomill", "dvc", "sync", "--quiet")
    run(shared, "dvc", "repro", "curation")
    before = ScanHandle.load(shared / "data/02_intermediate/scan")
    assert before.groups["pool"] == len(first)
    commit(shared)
    put(server, added)
    run(shared, "dvc", "update", "data/00_pool/photos.dvc")
    assert "data/00_pool/photos" in run(shared, "dvc", "status", "curation")
    said = run(shared, "dvc", "repro", "curation")
    assert "Running stage 'curation'" in said and "Running stage 'sample'" not in said
    after = ScanHandle.load(shared / "data/02_intermediate/scan")
    assert after.groups["pool"] == len(files)
    assert after.work["decoded"] == 2
    compared = parsed(run(shared, "dvc", "metrics", "diff", "--json"))
    assert compared["data/05_model_input/curated/metrics.json"]["files.all"]["diff"] == 2


def put(server: str, files: Iterable[Path]) -> None:
    """Into the bucket, each below the name of its folder."""
    for file in files:
        key = f"images/{file.parent.name}/{file.name}"
        client(server).put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
