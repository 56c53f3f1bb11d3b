"""The thread both ways, by every name that a thing has; and what is said where parts are missing."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from dinomill.commands.lineage import show_lineage
from dinomill.errors import InputError
from dinomill.export import export
from dinomill.handles import ProbesHandle
from dinomill.lineage.archives import read_archive
from dinomill.lineage.images import write_list
from dinomill.lineage.thread import Kind
from dinomill.models.beside import note_of
from dinomill.serving.litserve.places import note_folder
from dinomill.storage.hashing import hash_file
from dinomill.tracking.dvc_history import History
from tests.exported import export as exported_network
from tests.lineage.mill import CURATED, Mill, commit, curate_here, git, keep


def rows(root: Path, folder: Path = CURATED) -> list[dict[str, Any]]:
    return pq.read_table(root / folder / "manifest.parquet").to_pylist()


def kept(root: Path, **values: Any) -> dict[str, Any]:
    wanted = {"fate": "kept"} | values
    return next(row for row in rows(root) if all(row[name] == value for name, value in wanted.items()))


def ask(
    name: str | None, capsys: pytest.CaptureFixture[str], *, here: Path | None = None, **options: Any
) -> dict[str, Any]:
    settings: dict[str, Any] = {"env": None, "as_data": True, "picture": None, "images": None}
    show_lineage(name, here or Path.cwd(), **settings | options)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def say(name: str | None, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    settings: dict[str, Any] = {"env": None, "as_data": False, "picture": None, "images": None}
    show_lineage(name, Path.cwd(), **settings | options)
    return capsys.readouterr().out


def kinds(found: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for thing in found["things"]:
        counts[thing["kind"]] = counts.get(thing["kind"], 0) + 1
    return counts


def facts_of(found: dict[str, Any]) -> dict[str, str]:
    """What is known of the image that was asked for."""
    facts: dict[str, str] = next(one["facts"] for one in found["things"] if one["kind"] == "image")
    return facts


def ways(found: dict[str, Any], start: str, end: str) -> bool:
    """Whether one leads down to the other."""
    below: dict[str, list[str]] = {}
    for link in found["links"]:
        below.setdefault(link["above"], []).append(link["below"])
    seen, left = set(), [start]
    while left:
        one = left.pop()
        if one == end:
            return True
        if one not in seen:
            seen.add(one)
            left += below.get(one, [])
    return False


def test_an_image_leads_to_every_archive_and_back(mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    row = kept(mill.root)
    image, archive = f"image:{row['sha256']}", f"archive:{mill.package.archive_sha256}"
    found = ask(f"images/pool/{row['path']}", capsys)
    assert found["asked"] == [image]
    assert ways(found, image, archive)
    assert kinds(found) == {"image": 1, "dataset": 1, "run": 2, "network": 2, "version": 1, "archive": 1}
    back = ask(str(mill.package.archive), capsys)
    assert back["asked"] == [archive]
    assert ways(back, f"dataset:{mill.dataset.manifest_sha256}", archive)
    # The student learnt from the dataset and from the teacher, in one run; both ways are there.
    links = {(link["above"].split(":")[0], link["below"].split(":")[0]) for link in back["links"]}
    assert links == {
        ("dataset", "run"),
        ("run", "network"),
        ("network", "run"),
        ("network", "version"),
        ("version", "archive"),
    }


@pytest.mark.parametrize("name", ["path", "from elsewhere", "in its source", "hash", "beginning", "renamed"])
def test_an_image_by_every_name(mill: Mill, capsys: pytest.CaptureFixture[str], name: str, tmp_path: Path) -> None:
    row = kept(mill.root)
    copy = tmp_path / "any name.bin"
    shutil.copy(mill.root / "images/pool" / row["path"], copy)
    said = {
        "path": f"images/pool/{row['path']}",
        "from elsewhere": Path(row["path"]).name,
        "in its source": row["path"],
        "hash": row["sha256"],
        "beginning": row["sha256"][:12],
        "renamed": str(copy),
    }[name]
    here = (mill.root / "images/pool" / row["path"]).parent if name == "from elsewhere" else None
    assert ask(said, capsys, here=here)["asked"] == [f"image:{row['sha256']}"]


def test_a_version_a_dataset_weights_and_runs_by_every_name(mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    commit_of = git(mill.root, "rev-parse", "HEAD").strip()
    version = "version:dinomill-backbone/1"
    for name in ("1", "dinomill-backbone/1", "models:/dinomill-backbone@champion", "dinomill-backbone@champion"):
        assert ask(name, capsys)["asked"] == [version], name
    dataset = f"dataset:{mill.dataset.manifest_sha256}"
    assert ask(mill.dataset.manifest_sha256[:10], capsys)["asked"] == [dataset]
    found = ask(mill.student.weights_sha256, capsys)
    assert found["asked"] == [f"network:{mill.student.weights_sha256}"]
    run = next(one["id"] for one in found["things"] if one["kind"] == "run")
    assert ask(run[:9], capsys)["asked"] == [f"run:{run}"]
    dvc = next(one["facts"]["dvc"] for one in found["things"] if one["kind"] == "dataset")
    assert dataset in ask(dvc, capsys)["asked"]
    assert dataset in ask(commit_of, capsys)["asked"]
    assert dataset in ask(commit_of[:8], capsys)["asked"]


def test_an_alias_is_a_version_unless_a_file_is_called_so(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    assert say("champion", capsys) == say("@champion", capsys) == say("1", capsys)
    with pytest.raises(InputError, match="names nothing that is known"):
        say("nobody", capsys)
    shutil.copy(own_mill.root / "images/pool" / kept(own_mill.root)["path"], own_mill.root / "champion")
    assert say("champion", capsys) != say("1", capsys)


def test_stores_of_environments_that_nobody_used_are_not_asked(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    """The project ships an environment for a cluster, with the address of an example."""
    assert "postgres.example.org" in (own_mill.root / "conf/cluster/globals.yml").read_text()
    with pytest.raises(InputError) as raised:
        say("nobody", capsys)
    assert "example.org" not in str(raised.value)
    (own_mill.root / "conf/cluster/dvc.lock").touch()
    with pytest.raises(InputError) as raised:
        say("nobody", capsys)
    assert "postgres.example.org" in str(raised.value)


def test_why_an_image_is_not_in(mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    for fate, words in (("near_duplicate", "left out: near_duplicate"), ("irrelevant", "not_like_the_seeds")):
        row = kept(mill.root, fate=fate)
        text = say(f"images/pool/{row['path']}", capsys)
        assert words in text
        assert (row["duplicate_of"] or "") in text
        assert "went into\n  nothing that is known here" in text
    broken = kept(mill.root, fate="quarantined", path="bad/text.jpg")
    assert "quarantined, " in say(f"images/pool/{broken['path']}", capsys)


def test_a_picture_of_any_kind_and_a_list_of_the_images(
    mill: Mill, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for end in ("svg", "png", "html"):
        say("1", capsys, picture=tmp_path / f"a.{end}", images=tmp_path / "list.csv")
    text = (tmp_path / "a.svg").read_text()
    assert len(ET.fromstring(text).findall(".//{*}g")) == 7  # all but the image
    assert text in (tmp_path / "a.html").read_text()
    assert Image.open(tmp_path / "a.png").width > 1000
    assert len((tmp_path / "list.csv").read_text().splitlines()) == mill.dataset.images + 1
    say(mill.dataset.manifest_sha256, capsys, images=tmp_path / "list.parquet")
    assert pq.read_table(tmp_path / "list.parquet").num_rows == mill.dataset.images
    with pytest.raises(InputError, match="names no picture"):
        say("1", capsys, picture=tmp_path / "a.bmp")
    with pytest.raises(InputError, match="names no list"):
        say("1", capsys, images=tmp_path / "a.txt")


def test_an_image_is_looked_up_in_a_list(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    """It was refused, since no dataset made an image."""
    row, other = kept(own_mill.root), kept(own_mill.root, fate="irrelevant")
    for name in ("list.csv", "list.parquet"):
        say("1", capsys, images=Path(name))
        found = ask(f"images/pool/{row['path']}", capsys, images=Path(name))
        assert facts_of(found)[f"in {name}"] == f"yes: images/pool/{row['path']}"
        said = say(other["sha256"], capsys, images=Path(name))
        assert f"in {name}" in said
        assert f"no: none of its {own_mill.dataset.images:,} images" in said
    with pytest.raises(InputError, match="There is no list"):
        say(row["sha256"], capsys, images=Path("none.csv"))
    with pytest.raises(InputError, match="names no list"):
        say(row["sha256"], capsys, images=Path("conf/base/globals.yml"))
    Path("mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="lists no images"):
        say(row["sha256"], capsys, images=Path("mine.csv"))
    # Where no dataset is at hand, as in a clone, the list alone knows it.
    for folder in ("data/05_model_input", ".dvc/cache"):
        shutil.rmtree(own_mill.root / folder)
    (own_mill.root / "images/pool" / row["path"]).unlink()
    for text in (row["sha256"][:12], row["path"], f"images/pool/{row['path']}"):
        assert ask(text, capsys, images=Path("list.csv"))["asked"] == [f"image:{row['sha256']}"]
    with pytest.raises(InputError, match="names nothing that is known"):
        say(other["sha256"], capsys, images=Path("list.csv"))


def labelled(root: Path, split: str) -> Path:
    return min(path for path in (root / "images/labelled" / split).rglob("*.png")).relative_to(root)


def fit_probes(mill: Mill) -> None:
    """What evaluation and packaging say of linear probes: one of the student, which the archive answers by."""
    place = Path("data/07_model_output/evaluation/probes")
    place.mkdir(parents=True)
    probes = {mill.student.weights_sha256: place / "student-small.safetensors"}
    ProbesHandle(folder=place, made_of="0" * 64, probes=probes, labelled=True).save()
    said = {"weights_sha256": mill.student.weights_sha256, "probe": {"classes": 2.0, "accuracy": 0.9}}
    mill.package.model_copy(update=said).save()


def test_a_labelled_image_leads_to_what_learnt_from_it(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    fit_probes(own_mill)
    file = labelled(own_mill.root, "train")
    found = ask(file.as_posix(), capsys)
    probe = "probe:data/07_model_output/evaluation/probes/student-small.safetensors"
    assert ways(found, found["asked"][0], probe)
    assert ways(found, probe, f"archive:{own_mill.package.archive_sha256}")
    assert facts_of(found)["labelled"] == f"{file}, learnt from by evaluation"
    assert ask(hash_file(file)[:12], capsys)["asked"] == found["asked"]
    scored = ask(labelled(own_mill.root, "test").as_posix(), capsys)
    assert kinds(scored) == {"image": 1}
    assert facts_of(scored)["labelled"].endswith(", scored by evaluation")
    assert facts_of(scored)["known"].startswith("in none of the 1 dataset")


def test_of_a_table_of_labelled_images_its_rows_say_who_was_learnt_from(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_probes(own_mill)
    learnt, scored = labelled(own_mill.root, "train"), labelled(own_mill.root, "test")
    lines = [f"{file.relative_to('images')},digit,{split}" for file, split in ((learnt, "test"), (scored, "train"))]
    Path("images/labels.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    local = own_mill.root / "conf/local/globals.yml"
    local.write_text(yaml.safe_dump(yaml.safe_load(local.read_text()) | {"labelled": "images/labels.csv"}))
    curate_here()
    capsys.readouterr()
    assert kinds(ask(scored.as_posix(), capsys)) == {"image": 1, "probe": 1, "archive": 1}
    assert kinds(ask(learnt.as_posix(), capsys)) == {"image": 1}


def test_what_brings_an_archive_names_the_environment(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(own_mill.root / "conf/local", own_mill.root / "conf/other")
    (own_mill.root / "conf/other/globals.yml").write_text("data: data/other\n")
    shutil.rmtree(own_mill.root / "data/07_model_output/package")
    assert "kedro run --pipelines packaging --env other" in say(None, capsys, env="other")
    assert "kedro run --pipelines packaging   (" in say(None, capsys)


def test_what_means_nothing_is_said_so(mill: Mill, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    unknown = ("nothing", "0123456789abcdef", "f" * 64, "", "../../etc/passwd", "models:/none@x", "7", "a.mar")
    for name in (*unknown, "~nobody here/x", "v" * 260, "v" * 260 + ".mar"):
        with pytest.raises(InputError):
            ask(name, capsys)
    with pytest.raises(InputError, match="No log at hand knows"):
        ask("24863759-a554-4b2d-aecd-3a89bc0979d9", capsys)
    (tmp_path / "a.mar").write_bytes(b"PK no")
    with pytest.raises(InputError, match="no archive that the packaging stage made"):
        ask(str(tmp_path / "a.mar"), capsys)
    stranger = tmp_path / "stranger.png"
    Image.new("RGB", (30, 20), "teal").save(stranger)
    found = ask(str(stranger), capsys)
    assert found["things"][0]["facts"]["known"] == "in none of the 1 dataset whose manifest is at hand"


@pytest.mark.parametrize("damage", ["compression", "encrypted", "nested"])
def test_an_archive_that_cannot_be_unpacked_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "damaged.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "[" * 100_000 if damage == "nested" else "{}")
        archive.writestr("model.safetensors", b"")
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    if damage == "encrypted":  # a flag, in the file's head and in the list of contents
        content[6] |= 1
        content[directory + 8] |= 1
    elif damage == "compression":
        content[8:10] = content[directory + 10 : directory + 12] = b"\x63\0"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.mar is no archive that the packaging stage made"):
        read_archive(path)


def test_a_file_that_was_replaced_is_told_from_what_it_was(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    row, other = kept(own_mill.root), [one for one in rows(own_mill.root) if one["fate"] == "kept"][5]
    source = own_mill.root / "images/pool"
    shutil.copy(source / other["path"], source / row["path"])
    found = ask(f"images/pool/{row['path']}", capsys)
    assert set(found["asked"]) == {f"image:{row['sha256']}", f"image:{other['sha256']}"}
    facts = next(one["facts"] for one in found["things"] if one["id"] == row["sha256"])
    assert "holds something else now" in facts["beware"]


def test_datasets_over_time_by_git_and_dvc(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    row = kept(own_mill.root, path="a/1/0001.png")  # it has no copies
    file = own_mill.root / "images/pool" / row["path"]
    data = file.read_bytes()
    file.unlink()
    (own_mill.root / "images/pool/new.png").write_bytes(b"x")
    later = curate_here()
    capsys.readouterr()
    keep(own_mill.root)
    commit(own_mill.root, "second dataset")
    found = ask(row["sha256"], capsys)
    assert [one["id"] for one in found["things"] if one["kind"] == "dataset"] == [own_mill.dataset.manifest_sha256]
    everything = ask(None, capsys)
    ids = {one["id"]: one for one in everything["things"] if one["kind"] == "dataset"}
    assert set(ids) == {own_mill.dataset.manifest_sha256, later.manifest_sha256}
    assert "lies in" not in ids[own_mill.dataset.manifest_sha256]["facts"]
    # Another branch counts, too, and a version that DVC has not here is said to be missing.
    file.write_bytes(data)
    shutil.rmtree(own_mill.root / ".dvc/cache")
    missing = ask(None, capsys)["missing"]
    assert any("2 earlier versions of data/05_model_input/curated" in one["what"] for one in missing)
    assert any("dvc fetch --all-commits" in one["command"] for one in missing)
    with pytest.raises(InputError, match="not at hand"):
        ask("f" * 64, capsys)


def test_without_a_store_an_archive_a_lock_or_git(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    root, row = own_mill.root, kept(own_mill.root)
    (root / "data/mlflow/mlflow.db").unlink()
    found = ask(row["sha256"], capsys)
    # Handles say most of it all the same.
    assert ways(found, f"image:{row['sha256']}", f"archive:{own_mill.package.archive_sha256}")
    assert any("no tracking database" in one["what"] for one in found["missing"])
    shutil.rmtree(root / "data/07_model_output/package")
    shutil.rmtree(root / ".git")
    (root / "dvc.lock").unlink()
    said = {one["what"]: one["command"] for one in ask(None, capsys)["missing"]}
    assert any("no archive is at hand" in what for what in said)
    assert any("not in git" in what for what in said)
    shutil.rmtree(root / "data")
    text = say(None, capsys)
    assert "no dataset is at hand" in text
    assert "make run" in text


def test_a_clone_answers_by_its_handle_and_names_the_one_command(
    own_mill: Mill, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was "no registered version", and what had nothing to do with it was advised: `dvc fetch --all-commits`."""
    root, address = own_mill.root, "models:/dinomill-backbone@champion"
    # Results that nobody has, whose lock was committed once.
    registered = Path("data/07_model_output/registration")
    first = (root / "dvc.lock").read_text()
    (root / "dvc.lock").write_text(re.sub("[0-9a-f]{32}[.]dir", "0" * 32 + ".dir", first))
    commit(root, "a lock by accident")
    (root / "dvc.lock").write_text(first)
    commit(root, "without")
    before = say(address, capsys)
    assert "not at hand" not in before

    MlflowClient(own_mill.store).delete_registered_model("dinomill-backbone")  # as of a store that only runs made
    (missing,) = ask(address, capsys)["missing"]
    assert missing["what"] == "the registry here has no models:/dinomill-backbone/1"
    assert missing["command"].startswith("kedro run --pipelines registration")
    (root / "data/mlflow/mlflow.db").unlink()
    found = ask(address, capsys)
    assert found["asked"] == ["version:dinomill-backbone/1"] == ask("champion", capsys)["asked"]
    assert ways(found, f"dataset:{own_mill.dataset.manifest_sha256}", "version:dinomill-backbone/1")
    (missing,) = found["missing"]
    assert missing["command"].startswith("kedro run --pipelines registration")
    # Where results are yet to come, it is another command.
    for folder in (registered, Path("data/06_models")):
        shutil.move(root / folder, root.parent / folder.name)
    with pytest.raises(InputError) as raised:
        say(address, capsys)
    assert raised.value.action == "make run"
    (root / "dvc.lock").write_text(first.replace(CURATED.as_posix(), registered.as_posix()))
    with pytest.raises(InputError) as raised:
        say(address, capsys)
    assert str(raised.value.action).startswith("dvc pull")
    # The lock by accident is a line where it may matter.
    said = [one["what"] for one in ask(kept(root)["sha256"], capsys)["missing"]]
    assert sum("earlier version" in one for one in said) == 1


def test_the_registry_says_who_is_champion_whatever_a_handle_says(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    from dinomill import tracking

    tracking.set_alias(own_mill.store, "dinomill-backbone", "champion", None)
    with pytest.raises(InputError, match="no registered version") as raised:
        say("models:/dinomill-backbone@champion", capsys)
    assert raised.value.action == "name one of them"


def test_a_server_that_does_not_answer_is_said(
    own_mill: Mill, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = ask(None, capsys)
    assert any("127.0.0.1:9" in one["what"] for one in found["missing"])
    assert "secret" not in json.dumps(found)
    assert Kind.DATASET in kinds(found)


def test_an_archive_of_another_registry_is_not_taken_for_this_one(
    own_mill: Mill, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
    from dinomill.serving.torchserve.properties import ServerConfig

    settings = {"version": "1", "batching": BatchingConfig(), "server": ServerConfig()}
    strange = build_archive(own_mill.teacher.folder, tmp_path, model="dinomill-backbone", **settings)  # type: ignore[arg-type]
    found = ask(str(strange), capsys)
    assert found["asked"] == [f"archive:{hash_file(strange)}"]
    things = {one["key"]: one for one in found["things"]}
    assert "has other weights" in things[found["asked"][0]]["facts"]["beware"]
    assert "version:dinomill-backbone/1" not in things
    assert f"network:{own_mill.teacher.weights_sha256}" in things


def test_damaged_parts_are_passed_over_or_said(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    root = own_mill.root
    (root / "dvc.lock").write_bytes(b"\xff{{{ not: yaml\n" * 3)
    (root / "data/06_models/teacher/handle.json").write_text("{cut")
    manifest = root / CURATED / "manifest.parquet"
    manifest.write_bytes(manifest.read_bytes()[:1000])
    found = ask(None, capsys)
    assert kinds(found)["dataset"] == 1
    with pytest.raises(InputError, match="not a readable Parquet file"):
        ask("f" * 64, capsys)


@pytest.mark.parametrize(
    ("folder", "damage"),
    [
        ("data/05_model_input/curated", '{"images": null}'),
        ("data/05_model_input/curated", '{"fates": [3]}'),
        ("data/06_models/students", '{"students": [3]}'),
        ("data/06_models/teacher", '{"steps": "many"}'),
    ],
)
def test_a_handle_of_another_shape_is_said_and_the_rest_is_shown(
    own_mill: Mill, capsys: pytest.CaptureFixture[str], folder: str, damage: str
) -> None:
    (own_mill.root / folder / "handle.json").write_text(damage)
    found = ask(None, capsys)
    assert kinds(found)["version"] == 1
    assert any(f"{folder}/handle.json is damaged" in one["what"] for one in found["missing"])


def test_a_project_below_a_repository_is_in_git(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "below/conf").mkdir(parents=True)
    assert History(tmp_path / "below", []).in_git


def test_a_request_leads_to_the_images(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    run = own_mill.root / "data/work/serve"
    (run / "logs").mkdir(parents=True)
    archive = own_mill.root / own_mill.package.archive
    said = {"address": "http://127.0.0.1:8080", "model": "dinomill-backbone", "archive": str(archive)}
    (run / "serving.json").write_text(json.dumps(said))
    one, other, named = "aeebbdd9-11ce-409d-a143-acc88881231a", "24863759-a554-4b2d-aecd-3a89bc0979d9", "shop:order-7"
    logged = [
        {
            "id": name,
            "time": "2026-11-26T09:16:56.727Z",
            "model": "dinomill-backbone",
            "version": version,
            "status": 200,
        }
        for name, version in ((one, "1"), (named, "1"), (other, "9"))
    ]
    lines = [json.dumps(row, separators=(",", ":")) + "\n" for row in logged]
    (run / "logs/requests.log").write_text(lines[0] + lines[1] + '{"cut off')
    (run / "logs/requests.log.1").write_text(lines[2])
    found = ask(one, capsys)
    assert found["asked"] == [f"request:{one}"]
    assert ways(found, f"dataset:{own_mill.dataset.manifest_sha256}", f"request:{one}")
    assert kinds(found)["endpoint"] == 1
    assert ask(named, capsys)["asked"] == [f"request:{named}"]  # an id that a client gave
    # Answered by another version, before the server was started with this one.
    old = ask(other, capsys)
    assert "version 9" in next(thing["facts"]["beware"] for thing in old["things"] if thing["kind"] == "request")
    assert not any(thing["kind"] == "dataset" for thing in old["things"])


def test_a_server_answers_with_what_it_read_although_another_archive_lies_there_now(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    """After another packaging, the thread led from a running server to an archive that it never read."""
    run, number = own_mill.root / "data/work/serve", "aeebbdd9-11ce-409d-a143-acc88881231a"
    (run / "logs").mkdir(parents=True)
    said = {
        "address": "http://127.0.0.1:8080",
        "model": "dinomill-backbone",
        "version": "1",
        "archive": str(own_mill.root / own_mill.package.archive),
        "archive_sha256": "c" * 64,
    }
    (run / "serving.json").write_text(json.dumps(said))
    row = {"id": number, "time": "2026-11-26T09:16:56Z", "model": "dinomill-backbone", "version": "1", "status": 200}
    (run / "logs/requests.log").write_text(json.dumps(row) + "\n")
    found = ask(number, capsys)
    assert ways(found, f"archive:{'c' * 64}", f"request:{number}")
    assert ways(found, f"dataset:{own_mill.dataset.manifest_sha256}", f"request:{number}")
    assert not ways(found, f"archive:{own_mill.package.archive_sha256}", f"request:{number}")
    assert "beware" not in next(thing["facts"] for thing in found["things"] if thing["kind"] == "request")


def test_a_list_of_a_dataset_that_is_being_made_again_is_no_traceback(
    own_mill: Mill,
) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        write_list(own_mill.root / "gone.parquet", own_mill.root / "list.csv")


def test_a_request_to_litserve_leads_there_too(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, elsewhere = (f"aeebbdd9-11ce-409d-a143-acc88881231{digit}" for digit in "abc")
    package, far = own_mill.package, own_mill.root.parent / "far"
    note_folder(own_mill.root / "data/work", far)
    places = [own_mill.root / "data/07_model_output/package-litserve/run", far / "run"]
    for run, number, archive in zip(places, (one, other), (package.archive_sha256, "f" * 64), strict=True):
        said = {"address": "http://127.0.0.1:8080", "model": "dinomill-backbone", "version": "1", "archive": None}
        (run / "logs").mkdir(parents=True)
        (run / "serving.json").write_text(json.dumps(said | {"archive_sha256": archive}))
        row = {"id": number, "time": "2026-11-26T09:16:56.727Z", "model": "dinomill-backbone", "version": "1"}
        (run / "logs/requests.log").write_text(json.dumps(row, separators=(",", ":")) + "\n")
    for number, archive in ((one, package.archive_sha256), (other, "f" * 64)):
        found = ask(number, capsys)
        assert ways(found, f"archive:{archive}", f"request:{number}")
        assert ways(found, f"dataset:{own_mill.dataset.manifest_sha256}", f"request:{number}")
    with pytest.raises(InputError, match="under `archive` what answered"):
        ask(elsewhere, capsys)


def test_git_that_refuses_is_said(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    (own_mill.root / ".git/HEAD").write_text("damaged")
    assert any("git says: " in one["what"] for one in ask(None, capsys)["missing"])


def test_a_name_with_control_characters_is_shown_and_not_obeyed() -> None:
    from dinomill.lineage.thread import Thread

    assert Thread().add(Kind.IMAGE, "x", "a\x1b[2J\nb é.png").title == "a\\x1b[2J\\nb é.png"


def test_an_exported_file_leads_to_its_version(mill: Mill, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export(mill.student.folder, "safetensors", tmp_path / "elsewhere").path
    note_of(path).unlink()
    found = ask(str(path), capsys)
    assert found["asked"] == ["version:dinomill-backbone/1"]
    assert ways(found, f"dataset:{mill.dataset.manifest_sha256}", "version:dinomill-backbone/1")
    assert ask(str(mill.student.folder), capsys)["asked"] == ["version:dinomill-backbone/1"]
    assert ask(str(mill.teacher.folder), capsys)["asked"] == [f"network:{mill.teacher.weights_sha256}"]


def test_an_export_of_weights_that_nobody_knows_says_so(
    mill: Mill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = exported_network(tmp_path / "net", "net", depth=1, seed=3)
    path = export(handle.folder, "pth", tmp_path / "other").path
    with pytest.raises(InputError, match=f"of weights {handle.weights_sha256[:12]}"):
        ask(str(path), capsys)
