from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from dinomill.commands.app import run

VERBS = [
    "promote",
    "rollback",
    "versions",
    "tracking sync",
    "doctor",
    "plan",
    "sample",
    "summary",
    "report",
    "ui",
    "serve",
    "embed",
    "export",
    "search",
    "bootstrap",
]
VERBS += ["evaluate", "dvc sync", "dvc check", "package"]


def dinomill(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("dinomill")
    return subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    done = dinomill(*verb.split(), "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"dinomill {verb}" in done.stdout
    assert "--env" in done.stdout


def test_help_lists_every_verb_and_comes_at_once() -> None:
    dinomill("--help")  # byte code and disk cache
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = dinomill("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(verb.split()[0] in done.stdout for verb in VERBS)
    # CPU-seconds: 0.3 on the machine that this was written on, however busy it is.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dinomill.commands.app import app; "
        "print([name for name in ('torch', 'mlflow', 'kedro', 'pandas', 'cv2', 'dvc') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", ["plan", "summary", "weights", "evaluate --help", "embed --help"])
def test_verbs_that_use_no_network_import_none(verb: str, project: Path) -> None:
    """Of seconds, not of bytes: torch alone takes two."""
    code = (
        "import sys; from dinomill.commands.app import run\n"
        f"sys.argv = ['dinomill', *{verb.split()!r}]\n"
        "try: run()\nexcept SystemExit: pass\n"
        "heavy = ('torch', 'mlflow', 'pandas', 'cv2', 'scipy', 'sklearn', 'matplotlib', 'transformers', 'faiss')\n"
        "print('heavy:', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_a_mistyped_verb_is_refused() -> None:
    done = dinomill("docter")
    assert done.returncode == 2
    assert "doctor" in done.stderr


def test_outside_of_a_project_the_way_in_is_shown(tmp_path: Path) -> None:
    done = dinomill("plan", cwd=tmp_path)
    assert done.returncode == 1
    assert "not in a dinomill project" in done.stderr
    assert "what to do" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_sees_what_is_missing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # the path of a temporary folder can be long, and would wrap the words
    done = dinomill("doctor", cwd=project)
    assert "Python" in done.stdout
    assert "torch" in done.stdout
    assert "dinomill sample" in done.stdout  # the pool of this project is not there yet
    assert done.returncode == 0  # which is no reason to refuse

    (project / "conf" / "base" / "globals.yml").write_text("pool: [unclosed", encoding="utf-8")
    done = dinomill("doctor", cwd=project)
    assert done.returncode == 1
    assert "not valid YAML" in done.stdout


def test_the_doctor_names_the_way_to_ones_own_images(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinomill.commands.doctor import examine

    monkeypatch.chdir(project)
    (pool,) = (check for check in examine() if check.name == "pool")
    assert "`dinomill init NAME --pool PATH`" in pool.action
    assert "conf/base" not in pool.action
    (project / "conf/local/globals.yml").write_text("pool: [nosuch]\nseeds:\n", encoding="utf-8")
    checks = {check.name: check for check in examine()}
    assert checks["pool"].action == "correct `pool` in conf/local/globals.yml"
    assert checks["seeds"].action == "set `seeds` in conf/local/globals.yml, if there are any"


def test_a_port_in_use_is_said_before_mlflow_starts(project: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = dinomill("ui", "--port", str(port), cwd=project)
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is in use." in done.stderr


def test_ctrl_c_is_answered(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    verbs = typer.Typer()

    @verbs.command()
    def wait() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("dinomill.commands.app.app", verbs)
    monkeypatch.setattr(sys, "argv", ["dinomill"])
    # What a shell starts in the background ignores Ctrl-C, and its tests with it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as end:
            run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.code == 130
    assert capfd.readouterr().err.strip() == "Interrupted."
