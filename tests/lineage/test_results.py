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
