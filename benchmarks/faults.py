"""What happens when something goes wrong: one row a fault, tried on the sample in small, as users meet it.

Each fault is done to `kedro run --pipelines STAGE` in a project of its own. Asked is: did it end with a message instead
of a traceback, was nothing half-written left, did the same command then finish, with the bytes of a run that nothing
happened to, and did no process stay?

    kill        SIGKILL to all of a stage's processes: in the first second of the first run, and in the middle
    two         a second pipeline beside one that runs
    s3          the server is down, the secret is wrong, the server dies while images are read
    disk        a disk that is full (a file system of its own in memory; needs the right to mount)
    tracking    MLflow's server is down, dies, its database is locked

    python benchmarks/faults.py                          curation, some minutes
    python benchmarks/faults.py --only kill --stages sample curation pretraining distillation   some more
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import yaml
from fault_project import (
    PROJECT,
    STAGES,
    WAIT,
    Ended,
    copy_results,
    killed,
    parses,
    processes,
    results,
    run,
    small_disk,
    small_project,
    start,
    until,
    until_held,
)
from measuring import command_line, finish


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
        root = small_project(self._room / f"{self._number}" / "project")
        if before is not None:
            copy_results(self.whole, root, STAGES[: STAGES.index(before)])
        return root

    def add(self, fault: str, root: Path, stage: str, ended: Ended) -> None:
        """Run the stage again after a fault, and write down what came of it."""
        left = len(processes(root))
        parsed = all(parses(path) for path in root.glob("data/0*/**/handle.json"))
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
                ("in its middle", self._moments.uniform(0.3, 0.6) * self.seconds[stage]),
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
                until_held(root, "curation")
                ended = run(root, second)
                told = "process" in ended.text and ended.code == 1
            finally:
                output, _ = first.communicate(timeout=WAIT)
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
                until(lambda: any((root / "data/work").rglob("scan/**/*.parquet")) or process.poll() is not None)
            output, _ = process.communicate(timeout=WAIT)
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
            with small_disk(root / "data", size) as mounted:
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
        if "pretraining" in self.seconds:
            self._server_dies()
        if "registration" in self.seconds:
            root = self.project("registration")
            ended = run(root, "registration", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
            self.add("MLflow's server is down when a model is registered", root, "registration", ended)

    def _server_dies(self) -> None:
        """MLflow's server is killed in the middle of a training, which goes on; then what waits is brought to it."""
        sys.path.insert(0, str(PROJECT))
        root = self.project("pretraining")
        with tempfile.TemporaryDirectory() as folder:
            server = import_module("tests.mlflow_server").Server(Path(folder))
            server.start()
            uri = {"MLFLOW_TRACKING_URI": server.address}
            process = start(root, "pretraining", uri)
            until(lambda: any((root / "data/work").rglob("checkpoints/*")) or process.poll() is not None)
            server.stop()
            output, _ = process.communicate(timeout=WAIT)
            server.start()
            sync = subprocess.run(
                [Path(sys.executable).with_name("dinomill"), "tracking", "sync"],
                cwd=root, env=os.environ | uri, capture_output=True, text=True, check=False,
            )  # fmt: skip
            server.stop()
        told = "" if sync.returncode == 0 else " (and what waited could NOT be brought to it)"
        fault = f"MLflow's server dies in the middle of a training{told}"
        self.add(fault, root, "pretraining", Ended(process.returncode, output))


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
