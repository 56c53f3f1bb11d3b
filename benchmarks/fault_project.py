"""A project in small that faults are done to, and what is asked of it afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

PROJECT = Path(__file__).resolve().parents[1]
STAGES = ("sample", "curation", "pretraining", "distillation", "evaluation", "registration", "packaging", "reporting")
WAIT = 900.0
_SAME = ("images", "fates", "scores", "version", "aliases", "passed_gate")  # in handles, beside the hashes
_SMALL: dict[str, dict[str, Any]] = {
    "sample": {
        "originals": 300, "scenes": 1, "near_duplicates": 30, "exact_duplicates": 20, "garments": 20, "digits": 20,
        "drawings": 20, "broken": 16, "seeds": 70, "bank": 196, "queries": 98,
    },
    "pretraining": {"steps": 16, "batch_size": 16},
    "distillation": {"steps": 16, "batch_size": 16},
    "packaging": {
        "backend": {"candidates": ["eager", "openvino"], "precisions": ["float32"], "clients": [1], "seconds": 0.1},
    },
}  # fmt: skip


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    text: str

    @property
    def said(self) -> str:
        """The first line of its message."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        error = next((line for line in lines if "error:" in line), lines[-1] if lines else "")
        return error.split("error:")[-1].strip()[:110]


def small_project(root: Path) -> Path:
    """The sample's project with fewer images and steps, and nothing done yet."""
    (root / "src").mkdir(parents=True)
    for name in ("src/dinomill", "pipelines", "pyproject.toml"):
        (root / name).symlink_to(PROJECT / name)
    shutil.copytree(PROJECT / "conf", root / "conf", ignore=shutil.ignore_patterns("local"))
    (root / "conf/local").mkdir()
    for stage, changes in _SMALL.items():
        path = root / "conf/base" / stage / "parameters.yml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        values[stage] |= changes
        if "steps" in changes:
            values[stage]["launcher"] = {"kind": "inline", "threads": 1}
            values[stage]["runtime"] |= {"checkpoint_every": 4, "log_every": 4}
            values[stage]["runtime"]["monitor"] = {"every": 8, "images": 64, "labelled_images": 100}
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
    (root / "data").mkdir()
    (root / "data/00_shipped").symlink_to(PROJECT / "data/00_shipped")
    return root


def copy_results(whole: Path, root: Path, stages: Sequence[str]) -> None:
    """What these stages wrote in one project, into another."""
    for name in _folders_of(_globals(root), stages):
        if (whole / name).exists():
            shutil.copytree(whole / name, root / name, symlinks=True)


def start(root: Path, stage: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Begin a stage in a session of its own."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("kedro"), "run", "--pipelines", stage],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def run(root: Path, stage: str, variables: Mapping[str, str] | None = None) -> Ended:
    """Run a stage to its end."""
    process = start(root, stage, variables)
    output, _ = process.communicate(timeout=WAIT)
    return Ended(process.returncode, output)


def killed(root: Path, stage: str, after: float) -> Ended:
    """Begin a stage, and end all of it without a word after some seconds."""
    process = start(root, stage)
    try:
        output, _ = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        with suppress(psutil.Error):
            top = psutil.Process(process.pid)
            for one in [*top.children(recursive=True), top]:
                with suppress(psutil.Error):
                    one.kill()
        output, _ = process.communicate(timeout=60)
        return Ended(-signal.SIGKILL, "")
    return Ended(process.returncode, output)


def processes(root: Path) -> list[psutil.Process]:
    """What still works in a project."""
    found = []
    for one in psutil.process_iter(["cmdline", "cwd"]):
        with suppress(psutil.Error):
            if str(root) in " ".join(one.info["cmdline"] or []) or one.info["cwd"] == str(root):
                found.append(one)
    return found


def results(root: Path, stage: str) -> dict[str, Any]:
    """What must not depend on a fault: the hashes and counts that a stage's handle names."""
    globals_ = _globals(root)
    found: dict[str, Any] = {}
    for folder in _folders_of(globals_, (stage,))[:1]:
        with suppress(OSError, ValueError):
            handle = json.loads((root / folder / "handle.json").read_text(encoding="utf-8"))
            found = {key: value for key, value in handle.items() if key.endswith("sha256") or key in _SAME}
            found |= {"students": {n: s["weights_sha256"] for n, s in handle.get("students", {}).items()}}
    for name in ("archive_sha256", "page_sha256"):
        found.pop(name, None)  # they hold times
    return found


def _globals(root: Path) -> dict[str, Any]:
    """Of the base: what differs between environments, and the folders that follow from it."""
    files = sorted((root / "conf/base").glob("globals*.yml"))
    return {key: value for file in files for key, value in yaml.safe_load(file.read_text(encoding="utf-8")).items()}


def _folders_of(globals_: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    writes = {
        "sample": ("sample",), "curation": ("curated", "scan", "duplicates", "embeddings", "selection"),
        "pretraining": ("teacher",), "distillation": ("students",), "evaluation": ("evaluation",),
        "registration": ("registration",), "packaging": ("package",), "reporting": ("report",),
    }  # fmt: skip
    found = []
    for stage in stages:
        for name in writes[stage]:
            place = str(globals_["folders"][name])
            found.append(place.replace("${dataset}", "data").replace("${data}", "data"))
    return [*found, "data/mlflow"] if len(stages) > 1 else found


def parses(path: Path) -> bool:
    with suppress(ValueError):
        json.loads(path.read_text(encoding="utf-8"))
        return True
    return False


def until_held(root: Path, stage: str) -> None:
    from dinomill.storage.lock import holder

    until(lambda: holder(root / f"data/work/locks/{stage}.lock") is not None)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)


@contextmanager
def small_disk(folder: Path, room: str) -> Iterator[bool]:
    """The folder on a file system in memory with some room beside what it holds; False: none may be mounted."""
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.mkdir()
    used = sum(path.stat().st_blocks * 512 + 4096 for path in kept.rglob("*") if not path.is_symlink())
    size = used + int(room[:-1]) * 2**20
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False)
    if done.returncode:
        folder.rmdir()
        kept.rename(folder)
        yield False
        return
    try:
        shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
