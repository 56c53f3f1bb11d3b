from __future__ import annotations

from pathlib import Path

from dinomill.lineage.places import Place
from dinomill.lineage.results import Results
from dinomill.lineage.thread import OVERVIEW, Thread
from dinomill.tracking.dvc_history import History


def test_earlier_results_of_a_project_that_names_no_folder_of_datasets(tmp_path: Path) -> None:
    """What was gone of its networks was to be said beside what was gone of its datasets: a traceback."""
    lock = "stages:\n  pretraining:\n    outs:\n    - path: teacher\n      hash: md5\n      md5: {}.dir\n"
    (tmp_path / "dvc.lock").write_text(lock.format("0" * 32))
    history = History(tmp_path, ["teacher"])
    history.present.clear()  # of a commit before
    thread = Thread()
    place = Place(None, {"teacher": Path("teacher")}, model="m", store="", withdrawn=None, used=True)
    Results(thread, [place], history)
    [missing] = thread.missing
    assert missing.what.startswith("one earlier version of teacher")
    assert missing.about == (OVERVIEW,)
    # Nothing could come from anywhere: `dvc fetch` alone would bring nothing.
    assert missing.what.endswith("not in DVC's cache on this machine, and no remote is set")
    assert missing.command.startswith("dvc remote add -d NAME URL")


def test_what_is_gone_comes_from_the_remote_that_is_set(tmp_path: Path) -> None:
    lock = "stages:\n  curation:\n    outs:\n    - path: curated\n      hash: md5\n      md5: {}.dir\n"
    (tmp_path / "dvc.lock").write_text(lock.format("0" * 32))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("['remote \"team\"']\n    url = /nowhere\n")
    history = History(tmp_path, ["curated"])
    history.present.clear()
    thread = Thread()
    place = Place(None, {"curated": Path("curated")}, model="m", store="", withdrawn=None, used=True)
    Results(thread, [place], history)
    assert [one.command for one in thread.missing] == ["dvc fetch --all-commits   (`dvc remote list` says from where)"]
    assert thread.missing[0].what.endswith("on this machine")
