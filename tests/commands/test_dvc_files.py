"""One environment's mistake must not stop the others, nor write what nobody asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dinomill.commands.app import app
from dinomill.commands.dvc_files import refuse_broken
from dinomill.commands.dvc_sync import synchronise
from dinomill.commands.plan import make_plan
from dinomill.errors import ConfigError, InputError
from dinomill.planning.checks import ChecksFailed

OWN = "data: data/{0}\nwork: data/work/{0}\nexperiment: {0}\npool: [own]\nseeds:\nlabelled:\n"


@pytest.fixture
def root(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    (project / "own").mkdir()
    (project / "own/a.png").write_bytes(b"not looked at in these tests")
    return project


def say(name: str, text: str) -> None:
    path = Path("conf", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def files() -> dict[str, str]:
    return {str(path): path.read_text(encoding="utf-8") for path in Path().glob("**/dvc.yaml")}


@pytest.mark.parametrize("verb", [["plan"], ["dvc", "sync"], ["bootstrap"]])
@pytest.mark.parametrize("source", ["seeds: {examples: .}\n", "pool: [data]\n", "labelled: data/s1\n", "pool: [..]\n"])
def test_a_source_that_holds_results_is_refused_before_the_file_is_written(
    root: Path, verb: list[str], source: str
) -> None:
    key = source.partition(":")[0]
    say("s1/globals.yml", "".join(line + "\n" for line in OWN.format("s1").splitlines() if not line.startswith(key)))
    say("s1/globals.yml", Path("conf/s1/globals.yml").read_text(encoding="utf-8") + source)
    result = CliRunner().invoke(app, [*verb, "--env", "s1"])
    assert isinstance(result.exception, ChecksFailed)
    assert "would be taken for images" in str(result.exception)
    assert f"set in: {key}" in str(result.exception)
    assert "conf/s1/globals.yml" in str(result.exception)
    assert files() == {}


def test_another_environments_results_are_no_images_either(root: Path) -> None:
    say("s1/globals.yml", OWN.format("s1"))
    say("s2/globals.yml", OWN.format("s2").replace("[own]", "[data/s1]"))
    result = CliRunner().invoke(app, ["dvc", "sync", "--env", "s2"])
    assert "data/s1 holds results of the environment s1" in str(result.exception)
    assert files() == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [\n", "conf/zz/dvc.yaml cannot be read: line 2, column 1"),
        ("stages: []\n", "conf/zz/dvc.yaml cannot be read: it has no stages"),
        ("hello\n", "conf/zz/dvc.yaml cannot be read: it has no stages"),
        (
            yaml.dump({"stages": {"curation": {"cmd": "x", "deps": ["."], "outs": ["data/zz"]}}}),
            "the stage curation reads ., and its results lie there",
        ),
    ],
)
def test_an_unreadable_file_is_named(root: Path, text: str, said: str) -> None:
    say("mine/globals.yml", OWN.format("mine"))
    say("zz/dvc.yaml", text)
    for run in (refuse_broken, lambda: synchronise(root, env="mine"), lambda: make_plan(Path("conf/mine/dvc.yaml"))):
        with pytest.raises(InputError) as caught:
            run()
        assert said in str(caught.value)
        assert "conf/zz/dvc.yaml" in caught.value.problem
        assert "mend or remove it" in str(caught.value)
    assert Path("conf/mine/dvc.yaml").is_file()  # its own is written all the same
    say("zz/globals.yml", OWN.format("zz"))
    assert synchronise(root, env="zz") == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("/proc/x", "Results would lie outside of the project"),
        ("..", "Results would lie outside of the project"),
        ("data/../..", "Results would lie outside of the project"),
        ("''", "data: expected a text"),
        ("[a]", "data: expected a text"),
    ],
)
def test_a_wrong_place_is_refused_by_the_file_that_says_it(root: Path, data: str, said: str) -> None:
    for env in ("kk", "adapt"):
        say("kk/globals.yml", OWN.format("kk"))
        Path("dvc.yaml").write_text("# kept\n", encoding="utf-8")
        say("local/globals.yml", f"data: {data}\n")
        with pytest.raises(ConfigError) as caught:
            synchronise(root, env=env)
        assert said in str(caught.value)
        assert "conf/local/globals.yml" in str(caught.value)
        assert f"conf/{env}/" not in str(caught.value)
        assert files() == {"dvc.yaml": "# kept\n"}


def test_the_bases_file_is_left_alone_unless_it_is_waited_for(root: Path) -> None:
    say("kk/globals.yml", OWN.format("kk"))
    synchronise(root, env="kk")
    assert set(files()) == {"conf/kk/dvc.yaml"}
    synchronise(root, env="adapt")  # trains on the sample, which the base lays out
    assert set(files()) == {"conf/kk/dvc.yaml", "conf/adapt/dvc.yaml", "dvc.yaml"}


def test_shared_places_are_the_fault_of_the_file_that_says_them(root: Path) -> None:
    say("one/globals.yml", OWN.format("one"))
    say("two/globals.yml", OWN.format("two"))
    synchronise(root, env="one")
    say("local/globals.yml", "data: data/one\n")
    with pytest.raises(ConfigError, match=r"take `data` out of conf/local/globals\.yml") as caught:
        synchronise(root, env="two")
    assert "conf/two/globals.yml" not in str(caught.value)


def test_a_project_without_git_is_told_what_to_do(root: Path) -> None:
    synchronise(root)
    with pytest.raises(InputError, match=r"`git init` and `dvc init`, or, without git, `dvc init --no-scm`"):
        make_plan()
    dvc = Path(sys.executable).with_name("dvc")
    subprocess.run([dvc, "init", "--no-scm", "--quiet"], check=True)
    config = Path(".dvc/config")
    config.write_text("", encoding="utf-8")  # as cloned from git, without it
    with pytest.raises(InputError, match="`git init`"):
        make_plan()
    subprocess.run([dvc, "config", "core.no_scm", "true"], check=True)
    assert make_plan()


@pytest.mark.parametrize("name", ["notebooks/old/dvc.yaml", "data/01_raw/own/images.dvc"])
def test_a_foreign_file_that_stops_dvc_is_named(project: Path, name: str) -> None:
    """DVC reads every dvc.yaml and .dvc of a project, and stopped at it in its own words."""
    refuse_broken(project)
    path = project / name
    path.parent.mkdir(parents=True)
    path.write_text("outs: [\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"{name}, which DVC reads with all others") as caught:
        refuse_broken(project)
    assert "line 2" in str(caught.value)
    (project / ".dvcignore").write_text(f"# ours\n{Path(name).parent}/\n", encoding="utf-8")
    refuse_broken(project)
    (project / ".dvcignore").unlink()
    path.write_text("outs:\n- path: x\n", encoding="utf-8")
    refuse_broken(project)
