"""One pool, curated as a processor with AVX2 would and as this one does, each in a process of its own.

Where this processor has no AVX512, both are the same, and the test shows only that a run repeats itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dinomill.curation.config import CurationConfig

ROOT = Path(__file__).parents[2]
# What tells each library that there is nothing beyond AVX2.
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENCV_CPU_DISABLE": "AVX512-SKX",
    "FAISS_OPT_LEVEL": "avx2",
}


def curated(root: Path, planted: Any, config: CurationConfig, variables: dict[str, str]) -> Path:
    """The manifest of a run under these variables."""
    settings = root / "settings.json"
    root.mkdir()
    pool, seeds, labelled = (str(getattr(planted, name)) for name in ("pool", "seeds", "labelled"))
    content = {"config": config.model_dump(mode="json"), "pool": pool, "seeds": seeds, "labelled": labelled}
    settings.write_text(json.dumps(content))
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("run_curation.py"), settings],
        cwd=ROOT,
        env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return config.folders.curated / "manifest.parquet"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, planted: Any, configure: Callable[..., CurationConfig]) -> Any:
    """The manifests of both kinds of processor in a precision."""

    def make(precision: str) -> tuple[Path, Path]:
        room = tmp_path_factory.mktemp(precision)
        embedding = {"embedder": {"image_size": 32, "precision": precision}, "images_per_task": 128}
        balance = {"levels": (12, 4), "target": 120}  # the decision that hangs on most figures
        paths = (
            curated(room / name, planted, configure(room / name, embedding=embedding, balance=balance), variables)
            for name, variables in (("here", {}), ("avx2", AVX2))
        )
        here, there = paths
        return here, there

    return make


@pytest.mark.timeout(1800)  # two processes, with all of their imports, on a machine that may be busy
@pytest.mark.parametrize("precision", ["auto", pytest.param("float64", marks=pytest.mark.slow)])
def test_the_manifest_has_the_same_bytes(both: Any, precision: str) -> None:
    here, avx2 = both(precision)
    rows, others = pq.read_table(here).to_pylist(), pq.read_table(avx2).to_pylist()
    assert [row for row, other in zip(rows, others, strict=True) if row != other] == []
    assert here.read_bytes() == avx2.read_bytes()
    assert {"kept", "irrelevant", "balanced_out"} <= {row["fate"] for row in rows}
