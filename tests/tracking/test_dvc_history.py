"""What locks say of earlier results, whatever lies where a lock should."""

from __future__ import annotations

from pathlib import Path

from dinomill.tracking.dvc_history import History

LOCK = """schema: '2.0'
stages:
  curation:
    outs:
    - path: data/curated
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
"""


def test_a_lock_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").mkdir()
    (tmp_path / "conf/mine").mkdir(parents=True)
    (tmp_path / "conf/mine/dvc.lock").write_text(LOCK)
    (one,) = History(tmp_path, ["data/curated"]).all_of("data/curated")
    assert one.version == "0123456789abcdef0123456789abcdef.dir" and one.said is None
