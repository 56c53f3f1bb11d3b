from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinomill.commands.dvc_sync import confirm, generate, synchronise
from dinomill.errors import ConfigError
from dinomill.stages import STAGES

PROJECT = Path(__file__).parents[2]
ORDER = ["configuration", *STAGES]

Sync = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    own = "project" in request.fixturenames
    monkeypatch.chdir(request.getfixturevalue("project") if own else PROJECT)


@pytest.fixture
def sync(capsys: pytest.CaptureFixture[str]) -> Sync:
    def run(root: Path, **options: Any) -> tuple[int, str]:
        code = synchronise(root, **options)
        return code, "".join(capsys.readouterr())

    return run


def stages(root: Path, name: str = "dvc.yaml") -> dict[str, Any]:
    read = yaml.safe_load((root / name).read_text(encoding="utf-8"))
    return dict(read["stages"])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_dvc_yaml_is_what_the_registry_says() -> None:
    assert generate(PROJECT) == (PROJECT / "dvc.yaml").read_text(encoding="utf-8"), "run `dinomill dvc sync`"


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return stages(PROJECT)


def test_every_stage_is_there_in_order(committed: dict[str, Any]) -> None:
    assert list(committed) == ORDER
    assert all(committed[name]["cmd"] == f"kedro run --pipelines {name}" for name in ORDER[1:])


def results(stage: dict[str, Any]) -> list[str]:
    return [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]


def test_the_check_of_the_file_itself_comes_before_every_stage(committed: dict[str, Any]) -> None:
    first = committed["configuration"]
    assert first["cmd"] == "dinomill dvc check"
    assert first["always_changed"]
    (stamp,) = results(first)
    assert all(stamp in committed[name]["deps"] for name in ORDER[1:])


def test_every_dependency_is_there_and_every_result_has_one_owner(committed: dict[str, Any]) -> None:
    outs = [Path(out) for stage in committed.values() for out in results(stage)]
    assert not [(a, b) for a in outs for b in outs if a is not b and a.is_relative_to(b)]
    for name in ORDER[1:]:
        stage = committed[name]
        assert f"pipelines/{name}" in stage["deps"]
        assert f"src/dinomill/{name}" in stage["deps"]
        for dep in map(Path, stage["deps"]):
            assert (PROJECT / dep).exists() or any(dep.is_relative_to(out) for out in outs), f"{name}: {dep}"


def test_one_stages_code_is_no_other_stages_business(committed: dict[str, Any]) -> None:
    for name in ORDER[1:]:
        rooms = ("pipelines",) if name == "reporting" else ("pipelines", "src/dinomill")  # reporting speaks of all
        others = {f"{room}/{other}" for other in ORDER if other != name for room in rooms}
        assert not others & set(committed[name]["deps"]), name
    assert not {"README.md", "dvc.yaml", "src/dinomill/commands", "src/dinomill/__init__.py"} & set(
        committed["curation"]["deps"]
    )


def test_unfinished_work_and_runs_are_nobodys_result(committed: dict[str, Any]) -> None:
    for stage in committed.values():
        paths = [*results(stage), *stage.get("deps", ())]
        assert not [path for path in paths if path.startswith(("data/work", "data/mlflow"))]


def test_registration_looks_every_time_and_keeps_what_it_has_meanwhile(committed: dict[str, Any]) -> None:
    """Its effect lies in the registry: from DVC's run cache it said `passed` where the registry says `failed`."""
    assert [name for name, stage in committed.items() if stage.get("always_changed")] == [
        "configuration",
        "registration",
    ]
    (out,) = committed["registration"]["outs"]
    assert out == {"data/07_model_output/registration": {"persist": True}}


def test_globals_that_globals_refer_to_are_watched_too(committed: dict[str, Any]) -> None:
    keys = [
        key
        for file in committed["curation"]["params"]
        for name in ("conf/base/globals.yml", "conf/base/globals_folders.yml")
        for key in file.get(name, ())
    ]
    assert {"folders.curated", "dataset", "data", "pool"} <= set(keys)


def test_ones_own_images_take_the_samples_place(project: Path, sync: Sync) -> None:
    own = project / "images"
    own.mkdir()
    globals_yml = project / "conf/base/globals.yml"
    edit(globals_yml, "\n  - path: data/01_raw/sample/scenes # large pictures, of which curation cuts tiles", "")
    edit(globals_yml, "\n    tiles: {side: 32}", "")
    for place in ("pool", "seeds", "labelled"):
        edit(globals_yml, f"data/01_raw/sample/{place}", "s3://bucket/labelled" if place == "labelled" else str(own))
    assert sync(project)[0] == 0
    made = stages(project)
    assert "sample" not in made
    assert str(own) in made["curation"]["deps"]
    assert not [dep for dep in made["curation"]["deps"] if "s3:" in dep]
    assert sync(project, check=True)[0] == 0


def test_a_local_file_is_seen(project: Path, sync: Sync) -> None:
    local = project / "conf/local/curation/parameters.yml"
    local.parent.mkdir(parents=True)
    local.write_text("curation:\n  scan:\n    max_bad_fraction: 0.9\n", encoding="utf-8")
    assert sync(project)[0] == 0
    made = stages(project)
    assert {"conf/local/curation/parameters.yml": ["curation"]} in made["curation"]["params"]
    assert not [file for file in made["pretraining"]["params"] if "conf/local" in str(file)]


def test_weights_that_a_stage_starts_from_are_watched(project: Path, sync: Sync) -> None:
    """Other weights under the same name gave another model, and DVC saw nothing to do."""
    (project / "weights").mkdir()
    (project / "weights/vits14.pth").write_bytes(b"weights")
    local = project / "conf/local/parameters.yml"
    local.parent.mkdir(parents=True, exist_ok=True)
    local.write_text(
        "pretraining:\n  initial: weights/vits14.pth\n  model: from_weights\n"
        "curation:\n  embedding:\n    embedder:\n      network: weights/vits14.pth\n",
        encoding="utf-8",
    )
    assert sync(project)[0] == 0
    made = stages(project)
    assert "weights/vits14.pth" in made["pretraining"]["deps"]
    assert "weights/vits14.pth" in made["curation"]["deps"]
    assert "weights/vits14.pth" not in made["distillation"]["deps"]


def test_a_class_that_the_catalog_names_is_watched(project: Path, sync: Sync) -> None:
    """A validator in the catalog is an arrow that no import shows: the evaluation's contract was missed."""
    catalog = project / "conf/base/evaluation/catalog.yml"
    edit(catalog, "  metadata:", "  validator: {class: dinomill.vectors.self_join.Check, on: [save]}\n  metadata:")
    assert sync(project)[0] == 0
    made = stages(project)
    assert "src/dinomill/vectors/self_join.py" in made["evaluation"]["deps"]
    assert "src/dinomill/vectors/self_join.py" not in made["pretraining"]["deps"]


def say(project: Path, name: str, text: str) -> None:
    path = project / "conf" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


OWN = "data: data/{0}\nwork: data/work/{0}\nexperiment: {0}\n"


@pytest.mark.parametrize("name", ["trial", "paper/vitx"])
def test_an_environment_has_a_file_of_its_own(project: Path, sync: Sync, name: str) -> None:
    say(project, f"{name}/globals.yml", OWN.format(name))
    say(project, f"{name}/curation/parameters.yml", "curation:\n  scan:\n    max_bad_fraction: 0.9\n")
    assert sync(project, env=name)[0] == 0
    made = stages(project, f"conf/{name}/dvc.yaml")
    # The sample is the base's: raw images are not copied for each environment.
    assert list(made) == ["configuration", *ORDER[2:]]
    above = "/".join([".."] * (1 + len(name.split("/"))))
    assert {stage["wdir"] for stage in made.values()} == {above}
    assert made["curation"]["cmd"] == f"kedro run --env {name} --pipelines curation"
    assert {f"conf/{name}/curation/parameters.yml": ["curation"]} in made["curation"]["params"]
    assert {f"conf/{name}/globals.yml": ["data", "work"]} in made["curation"]["params"]
    assert all(out.startswith(f"data/{name}/") for stage in made.values() for out in results(stage))
    read = yaml.safe_load((project / f"conf/{name}/dvc.yaml").read_text(encoding="utf-8"))
    outputs = ("05_model_input/curated", "07_model_output/evaluation")
    assert read["metrics"] == [f"{above}/data/{name}/{output}/metrics.json" for output in outputs]
    assert stages(project)["sample"]["cmd"] == "kedro run --pipelines sample"
    assert sync(project, env=name, check=True)[0] == 0


def test_an_environment_of_own_images_does_not_wait_for_the_sample(project: Path, sync: Sync) -> None:
    own = "pool: [own/pool]\nseeds: {own: own/seeds}\nlabelled: own/labelled\n"
    say(project, "trial/globals.yml", OWN.format("trial") + own)
    assert sync(project, env="trial", quiet=True) == (0, "")  # new: nothing was out of date
    say(project, "local/curation/parameters.yml", "curation:\n  gate:\n    docs: true\n")
    assert "conf/trial/dvc.yaml was brought up to date" in sync(project, env="trial", quiet=True)[1]
    made = stages(project, "conf/trial/dvc.yaml")
    assert not [dep for stage in made.values() for dep in stage.get("deps", ()) if dep.startswith("data/01_raw")]


def test_two_recipes_may_share_the_bases_dataset(project: Path, sync: Sync) -> None:
    assert sync(project, env="paper/vitl14")[0] == 0
    made = stages(project, "conf/paper/vitl14/dvc.yaml")
    assert "curation" not in made
    assert "data/05_model_input/curated" in made["pretraining"]["deps"]
    assert made["pretraining"]["outs"] == ["data/paper/vitl14/06_models/teacher"]


def test_an_environment_may_lay_out_a_sample_of_its_own(project: Path, sync: Sync) -> None:
    say(
        project,
        "trial/globals.yml",
        OWN.format("trial") + "folders: {sample: data/trial/raw}\npool: [data/trial/raw/pool]\n",
    )
    say(project, "trial/sample/parameters.yml", "sample:\n  seed: 7\n")
    assert sync(project, env="trial")[0] == 0
    made = stages(project, "conf/trial/dvc.yaml")
    assert made["sample"]["outs"] == ["data/trial/raw"]
    assert made["curation"]["deps"][1] == "data/01_raw/sample/labelled"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"trial/parameters.yml": "pretraining: {steps: 7}\n"}, "changes the stage pretraining"),
        ({"trial/globals.yml": OWN, "trial/parameters.yml": "sample: {seed: 7}\n"}, "changes the stage sample"),
        ({"trial/globals.yml": "data: data/trial\ndataset: data\npool: [own]\n"}, "changes the stage curation"),
        ({"trial/globals.yml": OWN, "other/globals.yml": OWN}, "conf/trial/dvc.yaml would have results where those of"),
    ],
)
def test_environments_do_not_write_over_each_other(project: Path, sync: Sync, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        say(project, name, text.replace("{0}", "trial"))
    if "other/globals.yml" in files:
        sync(project, env="other")
    with pytest.raises(ConfigError, match=said) as caught:
        sync(project, env="trial")
    assert "data/trial" in str(caught.value)


def test_a_difference_is_shown_and_fails(project: Path, sync: Sync) -> None:
    assert sync(project)[0] == 0
    edit(project / "dvc.yaml", "kedro run --pipelines curation", "kedro run --pipelines curatoin")
    code, shown = sync(project, check=True)
    assert code == 1
    assert "+    cmd: kedro run --pipelines curation" in shown
    assert "dinomill dvc sync" in shown
    assert "curatoin" in (project / "dvc.yaml").read_text(encoding="utf-8")


def test_the_first_stage_refuses_a_stale_file(project: Path, sync: Sync, capsys: pytest.CaptureFixture[str]) -> None:
    say(project, "trial/globals.yml", OWN.format("trial"))
    for env, stamp in ((None, "data/configuration.txt"), ("trial", "data/trial/configuration.txt")):
        with pytest.raises(ConfigError, match="has changed"):
            confirm(project, env)
        assert not (project / stamp).exists()
        sync(project, env=env)
        confirm(project, env)
        assert (project / stamp).is_file()
    say(project, "local/globals.yml", "pool: [own]\n")
    with pytest.raises(ConfigError, match="dvc sync --env trial"):
        confirm(project, "trial")
    assert "+    - own" in capsys.readouterr().out
