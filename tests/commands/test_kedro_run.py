"""`kedro run`: what it says when something is wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kedro.framework.cli.cli import KedroCLI

SCREEN = 24  # lines

Refused = Callable[..., str]


def kedro(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start it as a user does."""
    program = Path(sys.executable).with_name("kedro")
    return subprocess.run([program, *arguments], cwd=project, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def refused(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Refused]:
    """Run `kedro run` in this process, and check that it failed in one screen, with nothing written."""
    monkeypatch.chdir(project)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            KedroCLI(project).main(["run", *arguments])
        shown = "".join(capfd.readouterr())
        check_refusal(project, stop.value.code, shown)
        return shown

    yield run
    signal.signal(signal.SIGTERM, before)


def check_refusal(project: Path, code: object, shown: str) -> None:
    assert code not in (0, None), shown
    assert "Traceback" not in shown
    assert "Warning" not in shown
    assert len(shown.splitlines()) <= SCREEN, shown
    written = [path for path in (project / "data").rglob("*") if not {"mlflow", "01_raw"} & set(path.parts)]
    assert not written


def make_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"not looked at in these tests")


@pytest.fixture
def sources(project: Path) -> Path:
    for name in ("pool", "seeds", "labelled"):
        make_images(project / "data/01_raw/sample" / name)
    return project


@pytest.mark.parametrize("option", ["--pipeline", "--pipelines"])
def test_an_unknown_stage_names_the_likely_one(refused: Refused, option: str) -> None:
    assert "Did you mean 'curation'?" in refused(option, "curaton")


def test_one_spelling_at_a_time(project: Path, refused: Refused) -> None:
    assert "two spellings" in refused("--pipeline", "curation", "--pipelines", "sample")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tags", "curatoin"), "There is no tag 'curatoin'; did you mean 'curation'?"),
        (("--nodes", "embed_image"), "There is no node 'embed_image'; did you mean 'embed_images'?"),
        (("--from-nodes", "nosuch"), "There is no node 'nosuch'."),
        (("--to-nodes", "nosuch"), "found: --to-nodes nosuch"),
        (("--from-inputs", "pol"), "There is no input 'pol'; did you mean 'pool'?"),
        (("--to-outputs", "pool"), "There is no output 'pool'."),
        (("--namespaces", "nosuch"), "one of curation: curation"),
        (("--tags", "curation", "--nodes", "evaluate"), "one of curation"),
        (("--from-nodes", "write_curated", "--to-nodes", "scan_files"), "These options leave no node to run."),
        (("--runner", "NoSuchRunner"), "found: NoSuchRunner"),
        (("--runner", "ParallelRunner"), "no other runner than SequentialRunner"),
        (("--load-versions", "curated:2020-01-01T00.00.00.000Z"), "versioned by Kedro: its results are DVC's"),
        (("--load-versions", "garbage"), "git checkout COMMIT"),
        (("--env", "nosuch"), "There is no environment 'nosuch'."),
    ],
)
def test_options_that_name_what_there_is_not_are_answered(
    refused: Refused, options: tuple[str, ...], said: str
) -> None:
    """Tracebacks from Kedro's depths; and versions to load, which were passed over without a word."""
    stage = () if options[0] == "--env" else ("--pipelines", "curation")
    shown = " ".join(refused(*stage, *options).split())
    assert said in shown
    assert "not foreseen" not in shown


def test_a_stages_name_is_a_tag_of_its_nodes(sources: Path, refused: Refused) -> None:
    shown = refused("--tags", "curation,evaluation")
    assert "There is no data/01_raw/sample/scenes" in shown  # it got as far as the images


def test_a_missing_pool_says_what_to_do(project: Path, refused: Refused) -> None:
    shown = refused("--pipelines", "curation")
    assert "There is no data/01_raw/sample/pool." in shown
    assert "pool in conf/base/globals.yml" in shown
    assert "dinomill sample" in shown


def test_an_empty_pool_is_said(project: Path, refused: Refused) -> None:
    (project / "data/01_raw/sample/pool").mkdir(parents=True)
    assert "data/01_raw/sample/pool is empty" in refused("--pipeline", "curation")


def test_a_missing_seed_folder_is_said(sources: Path, refused: Refused) -> None:
    for path in (sources / "data/01_raw/sample/seeds").iterdir():
        path.unlink()
    (sources / "data/01_raw/sample/seeds").rmdir()
    shown = refused("--pipelines", "curation")
    assert "There is no data/01_raw/sample/seeds." in shown
    assert "seeds.examples in conf/base/globals.yml" in shown


def test_a_wrong_parameter_names_the_likely_key_and_the_file(sources: Path, refused: Refused) -> None:
    shown = refused("--pipelines", "curation", "--params", "curation.scan.max_bad_fractoin=0.5")
    assert "did you mean 'max_bad_fraction'?" in shown
    assert "The configuration in --params is not valid" in shown


def test_a_value_out_of_range_is_named(sources: Path, refused: Refused) -> None:
    shown = refused("--pipelines", "curation", "--params", "curation.scan.max_bad_fraction=7")
    assert "scan.max_bad_fraction" in shown
    assert "found 7" in shown


def test_a_wrong_top_level_parameter_is_named(sources: Path, refused: Refused) -> None:
    assert "did you mean 'curation'?" in refused("--pipelines", "curation", "--params", "curatoin.scan.x=1")


def test_broken_yaml_is_shown_with_its_place(sources: Path, refused: Refused) -> None:
    (sources / "conf/base/curation/parameters.yml").write_text("curation: [1,\nscan: 2", encoding="utf-8")
    assert "parameters.yml" in refused("--pipelines", "curation")


def test_a_reference_to_nothing_is_named(sources: Path, refused: Refused) -> None:
    path = sources / "conf/base/parameters_places.yml"
    text = path.read_text(encoding="utf-8")
    assert "folders.scan" in text
    path.write_text(text.replace("folders.scan", "folders.scn"), encoding="utf-8")
    assert "folders.scn" in refused("--pipelines", "curation")


def mine(project: Path) -> None:
    path = project / "conf/mine/globals.yml"
    path.parent.mkdir()
    path.write_text("data: data/mine\nwork: data/work/mine\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("paper", "--env paper/vitl14"),
        ("nosuch", "mine, paper/distilled, paper/high_resolution"),
        ("conf/mine/", "no data/mine/05_model_input/curated/handle.json"),
        ("mine", "kedro run --env mine --pipelines curation; `dvc repro conf/mine/dvc.yaml` runs all"),
        ("paper/vitl14", "no data/05_model_input/curated/handle.json"),
    ],
)
def test_an_environment_works_or_says_what_to_type(project: Path, refused: Refused, env: str, said: str) -> None:
    mine(project)
    shown = refused("--env", env, "--pipelines", "pretraining")
    assert said in " ".join(shown.split())


@pytest.mark.parametrize(
    ("file", "text", "options", "said"),
    [
        ("local/parameters.yml", "pretraining: {stepz: 3}", (), "conf/local/parameters.yml is not valid: pretraining:"),
        ("mine/parameters.yml", "pretraining: {batch_size: 0}", (), "conf/mine/parameters.yml is not valid:"),
        (
            "mine/parameters.yml",
            "pretraining: {batch_size: 8}",
            ("--params", "pretraining.batch_size=0"),
            "--params is not valid: pretraining.batch_size",
        ),
        ("local/parameters.yml", "pretraning: {}", (), "set in: pretraning in conf/local/parameters.yml"),
        (
            "local/pretraining/parameters.yml",
            "pretraining:",
            (),
            "pretraining in conf/local/pretraining/parameters.yml",
        ),
        ("local/curation/parameters.yml", "curation: [", (), "conf/local/curation/parameters.yml is not valid YAML"),
        ("local/globals.yml", "pool: [nosuch]", (), "There is no nosuch. set in: pool in conf/local/globals.yml"),
        ("local/globals.yml", "folders: {work: 3}", (), "conf/local/globals.yml is not valid: folders.work"),
    ],
)
def test_the_file_that_is_wrong_is_the_one_named(
    project: Path, refused: Refused, file: str, text: str, options: tuple[str, ...], said: str
) -> None:
    mine(project)
    path = project / "conf" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    shown = refused("--env", "mine", "--pipelines", "pretraining,curation", *options)
    assert said in " ".join(shown.split())


def test_another_environments_results_are_not_written_over(project: Path, refused: Refused) -> None:
    mine(project)
    (project / "conf/mine_too").mkdir()
    (project / "conf/mine_too/globals.yml").write_text("data: data/mine\n", encoding="utf-8")
    shown = " ".join(refused("--env", "mine_too", "--pipelines", "pretraining").split())
    assert "write over results of the environment mine" in shown
    assert "data in conf/mine_too/globals.yml" in shown
    assert "by conf/mine/globals.yml" in shown


@pytest.mark.parametrize("runner", ["ParallelRunner", "ThreadRunner"])
def test_other_runners_are_refused(sources: Path, refused: Refused, runner: str) -> None:
    assert "SequentialRunner" in refused("--pipelines", "curation", "--runner", runner)


def test_a_stage_whose_input_is_not_made_names_the_way(project: Path, refused: Refused) -> None:
    shown = refused("--pipelines", "pretraining")
    assert "data/05_model_input/curated" in shown
    assert "dvc repro" in shown


def test_a_failure_looks_the_same_from_the_shell_and_any_folder(project: Path) -> None:
    done = kedro(project / "conf", "run", "--pipelines", "curation")
    check_refusal(project, done.returncode, done.stdout + done.stderr)
    assert done.returncode == 1
    assert "There is no data/01_raw/sample/pool." in done.stderr


def test_the_stages_are_listed_quickly_from_any_folder(project: Path) -> None:
    done = kedro(project / "conf" / "base", "registry", "list")
    assert done.returncode == 0, done.stderr
    assert "- curation" in done.stdout
    assert "- __default__" in done.stdout


HEAVY = {"torch", "mlflow", "great_expectations", "sklearn", "cv2", "faiss", "pandas", "matplotlib", "boto3"}
LIST_STAGES = """
import sys
from pathlib import Path
from kedro.framework.startup import bootstrap_project
bootstrap_project(Path.cwd())
from dinomill.pipeline_registry import register_pipelines
register_pipelines()
print(*sys.modules)
"""


def test_listing_imports_nothing_heavy(project: Path) -> None:
    program = [sys.executable, "-c", LIST_STAGES]
    done = subprocess.run(program, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())
