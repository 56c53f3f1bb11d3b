"""The gates of this stage: its tables, loaded and held against their suites."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from dinomill.curation.gates.rules import files_rules
from dinomill.curation.gates.suites import files_suite
from dinomill.curation.handles import ScanHandle
from dinomill.curation.scan.preflight import EMPTY_TILE
from dinomill.curation.scan.scan import ScanConfig
from dinomill.quality.counting import count_broken, sample_rows
from dinomill.quality.gate import GateConfig, check_table
from dinomill.quality.handle import QualityHandle
from dinomill.quality.suites import summary_suite
from dinomill.storage.atomic import fresh_folder

_COLUMNS = [
    "candidate",
    "source",
    "path",
    "reason",
    "sha256",
    "pixels",
    "width",
    "height",
    "brightness",
    "entropy",
    "channels",
]


def check_files(
    scan: ScanHandle, config: GateConfig, scan_config: ScanConfig, *, folder: Path, work: Path
) -> QualityHandle:
    """The gate between scan and embedding.

    Raises:
        QualityError: When an expectation fails, with the rows.
    """
    # Nothing is wrong with a part of a picture that shows nothing.
    empty = pc.coalesce(pc.field("reason"), pc.scalar("")) == EMPTY_TILE
    candidate = pc.field("candidate") & ~empty
    table, total = sample_rows(scan.files, _COLUMNS, config.sample_above, candidate)
    rows = table.to_pandas()
    rows["usable"] = rows.pop("reason").isna()
    fresh_folder(folder)  # the first gate of a run: what earlier runs found is no longer true
    fresh_folder(work / "gx")
    if len(rows) < total:
        counts = count_broken(scan.files, files_rules(scan_config.preflight.min_side), candidate)
        check_table(
            "files_summary", counts, summary_suite(), config, folder=folder, work=work, index=("rule", "examples")
        )
    suite = files_suite(scan_config.preflight, scan_config.max_bad_fraction)
    return check_table("files", rows, suite, config, folder=folder, work=work, total=total)
