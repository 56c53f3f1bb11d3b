"""DVC's experiments with the real programs: what the documentation says to type, on a sample that takes a second."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage import data

from dinomill.handles import ModelHandle
from tests.commands.programs import SMALL, run
from tests.conftest import PROJECT

PROBE = """\
from dinomill import tracking
from dinomill.layers import Layers

with tracking.open_run("probe", tracking_uri=Layers().globals["tracking_uri"], experiment="probes") as run:
    run.set_tags({"store": run.tracking_uri})
open("probe.txt", "w").write("done")
"""


@pytest.fixture
def cloned(project: Path) -> Path:
    """A project in git and DVC, as a fresh clone has it: nothing of it has run."""
    (project / "data/00_shipped").symlink_to(PROJECT / "data/00_shipped")
    shutil.copy(PROJECT / ".dvcignore", project)
    (project / ".gitignore").write_text((PROJECT / ".gitignore").read_text(encoding="utf-8") + "!data/00_shipped\n")
    path = project / "conf/base/sample/parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["sample"] |= SMALL
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    run(project, "git", "init", "--quiet")
    run(project, "dvc", "init", "--quiet")
    run(project, "dinomill", "dvc", "sync", "--quiet")
    commit(project)
    return project


def commit(project: Path) -> None:
    run(project, "git", "add", "--all")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    run(project, "git", *who, "commit", "--quiet", "--no-gpg-sign", "-m", "x")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_parameter_is_set_for_an_experiment_as_documented(cloned: Path) -> None:
    """DVC resolved the whole parameter file, and died of `Unsupported interpolation type globals`."""
    file = "conf/base/sample/parameters.yml"
    run(cloned, "dvc", "exp", "run", "--name", "more", "-S", f"{file}:sample.originals=50", "sample")
    assert read(cloned / file)["sample"]["originals"] == 50
    planted = SMALL["broken"] + sum(SMALL[kind] for kind in ("near_duplicates", "exact_duplicates"))
    planted += sum(SMALL[kind] for kind in ("garments", "digits", "drawings"))
    assert len([path for path in (cloned / "data/01_raw/sample/pool").rglob("*") if path.is_file()]) == 50 + planted


def test_a_global_is_set_for_an_experiment_and_the_others_stay_as_they_are(cloned: Path) -> None:
    """DVC resolves the file and writes it anew: `${data}` in it became a path, which no `data` moved any more."""
    file = "conf/base/globals.yml"
    before = read(cloned / file)
    run(cloned, "dvc", "exp", "run", "--name", "named", "-S", f"{file}:experiment=tried", "configuration")
    assert read(cloned / file) == before | {"experiment": "tried"}
    assert "${data}" in (cloned / "conf/base/globals_folders.yml").read_text(encoding="utf-8")
    for path in (cloned / "conf").rglob("globals.yml"):
        assert "${" not in json.dumps(read(path)), path


@pytest.mark.slow
def test_a_copy_without_the_local_configuration_is_refused_with_the_option_that_brings_it(cloned: Path) -> None:
    (cloned / "conf/local/parameters.yml").write_text("sample: {originals: 50}\n", encoding="utf-8")
    run(cloned, "dinomill", "dvc", "sync", "--quiet")
    commit(cloned)
    shown = run(cloned, "dvc", "exp", "run", "--temp", "sample", code=255)
    assert "--copy-paths conf/local" in shown and "Traceback" not in shown
    run(cloned, "dvc", "exp", "run", "--temp", "--copy-paths", "conf/local", "--name", "whole", "configuration")


@pytest.mark.parametrize("kind", ["--temp", pytest.param("--queue", marks=pytest.mark.slow)])
def test_an_experiment_in_a_copy_records_in_the_projects_store(cloned: Path, kind: str) -> None:
    """Runs and registered models of `--temp` and `--queue` were thrown away with DVC's copy of the project."""
    (cloned / "probe.py").write_text(PROBE, encoding="utf-8")
    (cloned / "probes").mkdir()
    stage = {"cmd": "python probe.py", "wdir": "..", "deps": ["probe.py"], "outs": ["probe.txt"]}
    (cloned / "probes/dvc.yaml").write_text(yaml.safe_dump({"stages": {"probe": stage}}), encoding="utf-8")
    commit(cloned)
    run(cloned, "dvc", "exp", "run", kind, "--name", "kept", "probes/dvc.yaml:probe")
    if kind == "--queue":
        run(cloned, "dvc", "queue", "start")
        run(cloned, "dvc", "queue", "logs", "--follow", queued(cloned))
    database = cloned / "data/mlflow/mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        stores = connection.execute("select value from tags where key = 'store'").fetchall()
        names = connection.execute("select value from tags where key = 'dvc_experiment'").fetchall()
        places = connection.execute("select artifact_uri from runs").fetchall()
    assert stores == [(f"sqlite:///{database}",)]
    assert names == [("kept",)]
    assert all(".dvc" not in place for (place,) in places)


@pytest.mark.slow  # it curates and trains with the real programs
def test_a_recipe_that_init_wrote_is_tried_with_another_value(cloned: Path) -> None:
    """In an environment: the experiment runs with what was set, is listed, and the project's store has its runs."""
    pytest.importorskip("efficientnet_lite_pytorch")
    write_photographs(cloned / "images/pool", 40)
    run(cloned, "dinomill", "init", "photos", "--pool", "images/pool", "--no-probe")
    run(cloned, "dinomill", "dvc", "sync", "--env", "photos")
    commit(cloned)
    file = "conf/photos/pretraining/parameters.yml"
    before = read(cloned / file)["pretraining"]
    setting = f"{file}:pretraining.steps=6"
    run(cloned, "dvc", "exp", "run", "--name", "short", "-S", setting, "conf/photos/dvc.yaml:pretraining")
    assert read(cloned / file)["pretraining"] == before | {"steps": 6}
    assert ModelHandle.load(cloned / "data/photos/06_models/teacher").steps == 6
    shown = csv.DictReader(run(cloned, "dvc", "exp", "show", "--csv").splitlines())
    (listed,) = (row for row in shown if row["Experiment"] == "short")
    assert "6" in [value for name, value in listed.items() if name and name.endswith("pretraining.steps")]
    with closing(sqlite3.connect(cloned / "data/mlflow/mlflow.db")) as connection:
        kept = connection.execute(
            "select stage.value, experiments.name from runs join experiments using (experiment_id) "
            "join tags as stage on stage.run_uuid = runs.run_uuid and stage.key = 'stage' "
            "join tags as made on made.run_uuid = runs.run_uuid and made.key = 'dvc_experiment' "
            "where made.value = 'short' and runs.status = 'FINISHED'"
        ).fetchall()
    assert sorted(kept) == [(stage, "photos") for stage in ("curation", "pipeline", "pretraining")]


def write_photographs(folder: Path, count: int) -> None:
    """Places of a photograph."""
    folder.mkdir(parents=True)
    photograph = data.astronaut()
    for number, (y, x) in enumerate(np.random.default_rng(0).integers(0, 448, size=(count, 2))):
        Image.fromarray(photograph[y : y + 64, x : x + 64]).save(folder / f"{number:04d}.png")


def queued(project: Path) -> str:
    """The name of the task in the queue."""
    lines = run(project, "dvc", "queue", "status").splitlines()
    return lines[1].split()[0]
