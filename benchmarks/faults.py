"""What happens when something goes wrong: one row a fault, tried on the sample in small, as users meet it.

Each fault is done to `kedro run --pipelines STAGE` in a project of its own. Asked is: did it end with a message instead
of a traceback, was nothing half-written left, did the same command then finish, with the bytes of a run that nothing
happened to, and did no process stay?

    kill        SIGKILL to all of a stage's processes: in the first second of the first run, and in the middle
    two         a second pipeline beside one that runs
    s3          the server is down, the secret is wrong, the server dies while images are read
    disk        a disk that is full (a file system of its own in memory; needs the right to mount)
    tracking    MLflow's server is down, its database is locked

    python benchmarks/faults.py                          curation, some minutes
    python benchmarks/faults.py --only kill --stages sample curation pretraining distillation   some more
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml
from measuring import command_line, finish

PROJECT = Path(__file__).resolve().parents[1]
STAGES = ("sample", "curation", "pretraining", "distillation", "evaluation", "registration", "packaging", "reporting")
_WAIT = 900.0
_SMALL: dict[str, dict[str, Any]] = {
    "sample": {
        "originals": 300, "scenes": 1, "near_duplicates": 30, "exact_duplicates": 20, "garments": 20, "digits": 20,
        "drawings": 20, "broken": 16, "seeds": 70, "bank": 196, "queries": 98,
    },
    "pretraining": {"steps": 16, "batch_size": 16},
    "distillation": {"steps": 16, "batch_size": 16},
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


class Row(NamedTuple):
    """One fault and what came of it."""

    fault: str
    ended: str
    said: str
    message: bool  # instead of a traceback
    again: bool  # the same command finished then
    same: bool  # with the results of an undisturbed run
    left: int  # processes


class Trial:
    """A project in small, made anew for each fault.

    Args:
        room: Where projects are made.
        stages: That faults are done to.
        moments: Of kills.
    """

    def __init__(self, room: Path, stages: list[str], moments: random.Random) -> None:
        self._room, self._stages, self._moments = room, stages, moments
        self._number = 0
        self.rows: list[Row] = []
        self.whole = self.project()
        self.seconds: dict[str, float] = {}
        for stage in STAGES[: max(STAGES.index(stage) for stage in stages) + 1]:
            begun = time.monotonic()
            ended = run(self.whole, stage)
            assert ended.code == 0, ended.text[-3000:]
            self.seconds[stage] = time.monotonic() - begun
            print(f"{stage}: {self.seconds[stage]:.0f} s", file=sys.stderr, flush=True)

    def project(self, before: str | None = None) -> Path:
        """A project; with the results of all stages before one, or empty."""
        self._number += 1
        root = self._room / f"{self._number}" / "project"
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
        if before is not None:
            self._results_before(root, before)
        return root

    def _results_before(self, root: Path, stage: str) -> None:
        globals_ = _globals(root)
        for name in _folders_of(globals_, STAGES[: STAGES.index(stage)]):
            source = self.whole / name
            if source.exists():
                shutil.copytree(source, root / name, symlinks=True)

    def add(self, fault: str, root: Path, stage: str, ended: Ended) -> None:
        """Run the stage again after a fault, and write down what came of it."""
        left = len(processes(root))
        parsed = all(_parses(path) for path in root.glob("data/0*/**/handle.json"))
        after = run(root, stage)
        same = parsed and after.code == 0 and results(root, stage) == results(self.whole, stage)
        message = "Traceback" not in ended.text
        how = "killed" if ended.code == -signal.SIGKILL else str(ended.code)
        self.rows.append(Row(fault, how, ended.said, message, after.code == 0, same, left))
        print(self.rows[-1], file=sys.stderr, flush=True)
        if after.code:
            print(after.text[-2000:], file=sys.stderr, flush=True)
        shutil.rmtree(root.parent, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL in the first second, and in the middle."""
        for stage in self._stages:
            for when, moment in (
                ("in its first second", self._moments.uniform(0.05, 1.0)),
                ("early", self._moments.uniform(0.1, 0.4) * self.seconds[stage]),
                ("in its middle", self._moments.uniform(0.4, 0.8) * self.seconds[stage]),
            ):
                root = self.project(stage)
                if when == "in its first second":
                    shutil.rmtree(root / "data/mlflow", ignore_errors=True)  # the first run makes the database, too
                ended = killed(root, stage, moment)
                self.add(f"kill -9 of {stage}, {when} ({moment:.1f} s)", root, stage, ended)

    def two(self) -> None:
        """A second pipeline while one runs."""
        for second in ("curation", "pretraining"):
            root = self.project("pretraining")  # a dataset is there already, and is made again
            first = start(root, "curation")
            try:
                _until_held(root, "curation")
                ended = run(root, second)
                told = "process" in ended.text and ended.code == 1
            finally:
                output, _ = first.communicate(timeout=_WAIT)
            assert first.returncode == 0, output[-2000:]
            self.add(
                f"{second} is started while curation runs{'' if told else ' (and was NOT refused)'}",
                root,
                "curation",
                ended,
            )

    def s3(self) -> None:
        """A pool on S3: the server is away, does not know the secret, dies."""
        sys.path.insert(0, str(PROJECT))
        server = import_module("tests.seaweedfs")
        s3_server, secret = server.s3_server, server.SECRET
        right = {
            "AWS_ACCESS_KEY_ID": server.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as port:
            here = right | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
            self._upload(here)
            [closed] = server.free_ports(1)
            for fault, variables in (
                ("the S3 server is down", here | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed}"}),
                ("the S3 secret is wrong", here | {"AWS_SECRET_ACCESS_KEY": "wrong"}),
                ("the S3 key is unknown", here | {"AWS_ACCESS_KEY_ID": "nobody"}),
            ):
                root = self._on_s3()
                ended = run(root, "curation", variables)
                assert secret not in ended.text
                self._again_on_s3(fault, root, ended, here)
        self._dies(right)

    def _dies(self, right: Mapping[str, str]) -> None:
        """The server is killed while images are read; another with the same data takes its place."""
        s3_server = import_module("tests.seaweedfs").s3_server
        with tempfile.TemporaryDirectory() as folder:
            with s3_server(Path(folder)) as port:
                here = {**right, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
                self._upload(here)
                root = self._on_s3()
                process = start(root, "curation", here)
                _until(lambda: any((root / "data/work").rglob("scan/**/*.parquet")) or process.poll() is not None)
            output, _ = process.communicate(timeout=_WAIT)
            with s3_server(Path(folder)) as port:
                here["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
                self._again_on_s3(
                    "the S3 server dies while images are read", root, Ended(process.returncode, output), here
                )

    def _upload(self, variables: Mapping[str, str]) -> None:
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="pool")
        base = self.whole / "data/01_raw/sample/pool"
        for path in sorted(base.rglob("*")):
            if path.is_file():
                client.put_object(Bucket="pool", Key=path.relative_to(base).as_posix(), Body=path.read_bytes())

    def _on_s3(self) -> Path:
        root = self.project("curation")
        (root / "conf/local/globals.yml").write_text(yaml.safe_dump({"pool": ["s3://pool"]}), encoding="utf-8")
        return root

    def _again_on_s3(self, fault: str, root: Path, ended: Ended, right: Mapping[str, str]) -> None:
        left = len(processes(root))
        after = run(root, "curation", right)
        kept = results(root, "curation").get("images", 0)
        # The same pool in another place: the same pictures, under another source.
        message, enough = "Traceback" not in ended.text, 0 < kept <= results(self.whole, "curation")["images"]
        self.rows.append(
            Row(fault, str(ended.code), ended.said, message, after.code == 0, after.code == 0 and enough, left)
        )
        print(self.rows[-1], file=sys.stderr, flush=True)
        shutil.rmtree(root.parent, ignore_errors=True)

    def disk(self) -> None:
        """`data` on a file system that is too small, and then large enough."""
        for size in ("1m", "3m"):
            root = self.project("curation")
            with _small_disk(root / "data", size) as mounted:
                if not mounted:
                    print("disk: left out, no right to mount", file=sys.stderr)
                    return
                ended = run(root, "curation")
                subprocess.run(["mount", "-o", "remount,size=200m", str(root / "data")], check=True)
                self.add(f"the disk is full ({size}B more than the pool)", root, "curation", ended)

    def tracking(self) -> None:
        """The tracking server is away; the database is held by another process."""
        root = self.project("curation")
        ended = run(root, "curation", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
        self.add("MLflow's server is down", root, "curation", ended)
        root = self.project("curation")
        assert run(root, "curation").code == 0
        with closing(sqlite3.connect(root / "data/mlflow/mlflow.db")) as connection:
            connection.execute("begin exclusive")
            shutil.rmtree(root / "data/05_model_input")
            ended = run(root, "curation")
            connection.rollback()
        self.add("MLflow's database is locked", root, "curation", ended)


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
    output, _ = process.communicate(timeout=_WAIT)
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
            found = {
                key: value for key, value in handle.items() if key.endswith("sha256") or key in ("images", "fates")
            }
            found |= {"students": {n: s["weights_sha256"] for n, s in handle.get("students", {}).items()}}
    for name in ("archive_sha256", "page_sha256"):
        found.pop(name, None)  # they hold times
    return found


def _globals(root: Path) -> dict[str, Any]:
    """Of the base: what differs between environments, and the folders that follow from it."""
    files = sorted((root / "conf/base").glob("globals*.yml"))
    return {key: value for file in files for key, value in yaml.safe_load(file.read_text(encoding="utf-8")).items()}


def _folders_of(globals_: Mapping[str, Any], stages: tuple[str, ...] | list[str]) -> list[str]:
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


def _parses(path: Path) -> bool:
    with suppress(ValueError):
        json.loads(path.read_text(encoding="utf-8"))
        return True
    return False


def _until_held(root: Path, stage: str) -> None:
    from dinomill.storage.lock import holder

    _until(lambda: holder(root / f"data/work/locks/{stage}.lock") is not None)


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT
    while not true():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)


@contextmanager
def _small_disk(folder: Path, room: str) -> Iterator[bool]:
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


def main() -> None:
    parser = command_line(__doc__, "a kill of the sample's stage")
    parser.add_argument("--only", nargs="*", choices=("kill", "two", "s3", "disk", "tracking"), help="these faults")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=["curation"], help="that are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    stages = ["sample"] if options.smoke else list(options.stages)
    only = ["kill"] if options.smoke else options.only or ["kill", "two", "s3", "disk", "tracking"]
    with tempfile.TemporaryDirectory(prefix="dinomill-faults-") as name:
        trial = Trial(Path(name), stages, random.Random(options.seed))
        for fault in only:
            getattr(trial, fault)()
    print("| fault | exit code | says | no traceback | finishes then | same results | processes left |")
    print("|---|--:|---|---|---|---|--:|")
    for row in trial.rows:
        said = row.said.replace("|", "\\|")
        held = " | ".join("yes" if one else "NO" for one in row[3:6])
        print(f"| {row.fault} | {row.ended} | {said} | {held} | {row.left} |")
    finish({"rows": [row._asdict() for row in trial.rows]}, smoke=options.smoke)


if __name__ == "__main__":
    main()
