"""What waits for its store, and how it is brought there: each run by itself, and no line is lost on the way."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dinomill.commands.tracking_sync import synchronise as command
from dinomill.errors import MachineError, StorageError
from dinomill.tracking import open_run
from dinomill.tracking.operations import OPERATIONS
from dinomill.tracking.spool import Spool, imported_as, waiting
from dinomill.tracking.sync import synchronise

GONE = {"stage": "curation", "process": f"1 since 0.00 on {socket.gethostname()}"}


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOMILL_SPOOL", str(tmp_path / "spool"))


def spooled(store: str, name: str, **tags: str) -> Spool:
    """A run that ended while its store was away."""
    spool = Spool.begin(store, "spooled", name, GONE, None)
    spool.keep(store, "tags", {"values": {"health": "good", **tags}})
    spool.keep(store, "end", {"status": "FINISHED"})
    return spool


def tags_of(store: str, run_id: str) -> dict[str, str]:
    return dict(MlflowClient(store).get_run(run_id).data.tags)


def test_a_run_that_the_store_refuses_blocks_no_other(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It raised, and all that waited after it waited for ever."""
    purged = Spool("0" * 32)
    purged.keep(store, "tags", {"values": {"health": "good"}})
    other = Spool("1" * 32)  # of another version of the program
    other.keep(store, "tags", {"rows": 3})
    fine = spooled(store, "curation")
    found = {one.run_id: one for one in synchronise(store)}
    known = str(imported_as(fine.run_id))
    assert set(found) == {purged.run_id, other.run_id, known}
    assert found[known].left is None and tags_of(store, known)["health"] == "good"
    assert f"remove {purged.folder}" in str(found[purged.run_id].left)
    assert "rows" in str(found[other.run_id].left)
    assert {spool.run_id for spool in waiting()} == {purged.run_id, other.run_id}
    assert command() == 1
    assert capsys.readouterr().out.count("left: ") == 2


def test_a_store_that_is_away_keeps_no_other_waiting(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = [spooled("http://127.0.0.1:9", "away") for _ in range(2)]
    with pytest.raises(MachineError, match="cannot be used"):
        synchronise()
    fine = spooled(store, "curation")
    left = {one.run_id for one in synchronise() if one.left}
    assert left == {one.run_id for one in away} and imported_as(fine.run_id)


def test_what_a_run_keeps_while_it_is_brought_is_brought_too(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that lost its server midway keeps its id: what it appended between reading and removing was gone."""
    page = tmp_path / "page.txt"
    page.write_text("late")
    with open_run("pretraining", tracking_uri=store) as run:
        run_id = str(run.run_id)
        spool = Spool(run_id)
        spool.keep(store, "tags", {"values": {"first": "1"}})
        tags = OPERATIONS["tags"]

        def meanwhile(client: Any, to: str, **values: Any) -> None:
            tags(client, to, **values)
            if "first" in values["values"]:
                spool.keep(store, "tags", {"values": {"second": "2"}})
                spool.keep(store, "artifacts", {"path": str(page), "folder": None})

        monkeypatch.setitem(OPERATIONS, "tags", meanwhile)
        (one,) = synchronise(store)
        assert (one.run_id, one.lines, one.left) == (run_id, 3, None)
        assert not waiting() and not spool.folder.with_name(f"{run_id}.lock").exists()
    found = tags_of(store, run_id)
    assert (found["first"], found["second"]) == ("1", "2")
    assert [one.path for one in MlflowClient(store).list_artifacts(run_id)] == ["page.txt"]


def test_a_worker_that_outlives_its_run_goes_on_in_it(store: str) -> None:
    """Its process was killed, its run was brought; what the worker kept afterwards stopped every later try."""
    spool = Spool.begin(store, "spooled", "pretraining", GONE, None)
    (first,) = synchronise(store)
    spool.keep(store, "tags", {"values": {"late": "yes"}})
    (second,) = synchronise(store)
    assert first.run_id == second.run_id and second.left is None
    assert tags_of(store, first.run_id)["late"] == "yes"


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """A disk that is full: no file of this process grows beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_no_half_line() -> None:
    spool = Spool("a" * 32)
    spool.keep("sqlite:///x.db", "tags", {"values": {"a": "1"}})
    before = spool.journal.read_bytes()
    with files_end_at(len(before) + 10), pytest.raises(StorageError):
        spool.keep("sqlite:///x.db", "tags", {"values": {"b": "2" * 100}})
    assert spool.journal.read_bytes() == before
    spool.keep("sqlite:///x.db", "tags", {"values": {"c": "3"}})
    assert [set(line["tags"]["values"]) for line in spool.lines()[1:]] == [{"a"}, {"c"}]


def test_half_a_line_is_lost_alone_and_a_line_may_hold_any_text() -> None:
    spool = Spool("a" * 32)
    spool.keep("sqlite:///x.db", "name", {"name": "one\u2028two\x85three"})
    with spool.journal.open("ab") as journal:
        journal.write(b'{"name": {"name": "hal\xc3')  # as a loss of power leaves it
    spool.keep("sqlite:///x.db", "name", {"name": "last"})
    assert [line["name"]["name"] for line in spool.lines()[1:]] == ["one\u2028two\x85three", "last"]


@pytest.mark.parametrize(
    "head", ['{"begin": []}', '{"begin": {"uri": 3}}', '{"begin": {"uri": "STORE", "experiment": "x"}}']
)
@pytest.mark.parametrize("imported", ["[]", "3", '{"a": 1}'])
def test_a_damaged_journal_and_a_damaged_list_stop_no_run(store: str, head: str, imported: str) -> None:
    fine = spooled(store, "curation")
    damaged = Spool("2" * 32)
    damaged.folder.mkdir()
    whole = '{"tags": {"values": {"process": ""}}}\n{"tags": []}\n{"end": {"status": "FINISHED"}}\n'
    damaged.journal.write_text(head.replace("STORE", store) + "\n" + whole)
    last = spooled(store, "evaluation")
    (damaged.folder.parent / "imported.json").write_text(imported)
    found = synchronise(store)
    assert {one.run_id for one in found if one.left is None} == {imported_as(fine.run_id), imported_as(last.run_id)}
    assert [one.run_id for one in found if one.left is not None] == [damaged.run_id]
