"""A deletion request through the real curation: out of the next dataset, and every thing that it touched is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinomill.commands.withdraw import take_back, withdraw
from dinomill.errors import InputError
from dinomill.images.withdrawn import WithdrawnList
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_file
from dinomill.storage.lock import held
from tests.lineage.mill import CURATED, Mill, commit, curate_here, keep
from tests.lineage.test_lineage import ask, fit_probes, kept, labelled, rows, say

LIST = Path("conf/withdrawn.csv")


def take_out(*names: str, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    settings: dict[str, Any] = {"because": "asked", "copies": None, "dry_run": False}
    withdraw(names, Path.cwd(), **settings | options)
    return capsys.readouterr().out


def test_a_withdrawn_image_and_its_copies_are_in_no_new_dataset(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    near = kept(own_mill.root, fate="near_duplicate")
    image = kept(own_mill.root, path=near["duplicate_of"])
    said = take_out(f"images/pool/{image['path']}", capsys=capsys, copies=True)
    group = {row["sha256"] for row in rows(own_mill.root) if row["duplicate_of"] == image["path"]} | {image["sha256"]}
    assert {row.sha256 for row in WithdrawnList.read(LIST).rows} == group
    assert "images touched 1 dataset, 2 runs, 2 networks, 1 version, 1 archive" in said
    for name in ("models:/dinomill-backbone/1", "dinomill-backbone.mar", "make run", "git commit", near["path"]):
        assert name in said
    before = own_mill.dataset
    later = curate_here()
    capsys.readouterr()
    keep(own_mill.root)
    commit(own_mill.root, "without it")
    assert later.fates["withdrawn"] == sum(row["sha256"] in group for row in rows(own_mill.root))
    assert not group & {row["sha256"] for row in rows(own_mill.root) if row["fate"] == "kept"}
    # Both directions: from the image only to the old dataset; the new one's list does not have it, the old one's has.
    found = ask(image["sha256"], capsys)
    links = [link for link in found["links"] if link["above"] == f"image:{image['sha256']}"]
    assert [link["below"] for link in links] == [f"dataset:{before.manifest_sha256}"]
    facts = next(one["facts"] for one in found["things"] if one["kind"] == "image")
    assert facts[f"dataset {later.manifest_sha256[:12]}"].startswith("left out: withdrawn")
    assert facts["withdrawn"].endswith(": asked")
    for dataset, there in ((before, True), (later, False)):
        say(dataset.manifest_sha256, capsys, images=Path("list.csv"))
        assert (image["sha256"] in Path("list.csv").read_text()) is there


def two_sources(mill: Mill) -> tuple[str, str, str]:
    """A second folder of the pool has another picture of a name that the first has, and a copy of it; all three places.

    The picture of the first folder has a copy there, too.
    """
    name = kept(mill.root, fate="exact_duplicate")["duplicate_of"]
    other = mill.root / "images/more" / name
    other.parent.mkdir(parents=True)
    shutil.copy(mill.root / "images/pool/a/1/0008.png", other)
    Image.open(other).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(other)
    shutil.copy(other, other.with_name("twin.png"))
    globals_file = mill.root / "conf/local/globals.yml"
    globals_file.write_text(globals_file.read_text().replace("- images/pool", "- images/pool\n- images/more"))
    curate_here()
    return f"images/pool/{name}", f"images/more/{name}", f"images/more/{Path(name).parent}/twin.png"


def listed() -> set[str]:
    return {row.sha256 for row in WithdrawnList.read(LIST).rows}


@pytest.mark.parametrize("of_before", [False, True])
def test_a_picture_of_the_same_name_in_another_folder_is_another_picture(
    own_mill: Mill, capsys: pytest.CaptureFixture[str], of_before: bool
) -> None:
    first, other, twin = two_sources(own_mill)
    of_first = {
        row["sha256"]
        for row in rows(own_mill.root)
        if row["source"] == "images/pool" and Path(first).name in (Path(row["duplicate_of"] or "").name,)
    } | {hash_file(Path(first))}
    assert hash_file(Path(other)) == hash_file(Path(twin)) not in of_first
    manifest = own_mill.root / CURATED / "manifest.parquet"
    if of_before:
        write_parquet(manifest, pq.read_table(manifest).drop_columns(["duplicate_source"]))
        with pytest.raises(InputError, match="near copies, which are named above"):
            take_out(first, capsys=capsys)
        assert not listed()
    take_out(first, capsys=capsys, copies=False if of_before else None)
    assert listed() == ({hash_file(Path(first))} if of_before else of_first)


def test_a_file_that_is_there_means_itself_alone(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    first, other, _ = two_sources(own_mill)
    typed = Path(first).relative_to("images/pool").as_posix()
    withdraw([typed], own_mill.root / "images/pool", because="asked", copies=True, dry_run=False)
    assert hash_file(Path(first)) in listed()
    assert hash_file(Path(other)) not in listed()


def test_of_two_pictures_of_one_name_none_is_taken_unasked(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    first, other, _ = two_sources(own_mill)
    name = Path(first).relative_to("images/pool").as_posix()
    with pytest.raises(InputError, match="several images") as refused:
        take_out(name, capsys=capsys)
    assert first in str(refused.value.found) and other in str(refused.value.found)
    assert not listed()


def test_nothing_is_taken_back_where_one_name_is_not_on_the_list(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    row = kept(own_mill.root, path="a/1/0001.png")
    take_out(row["sha256"], capsys=capsys, copies=False)
    before = LIST.read_bytes()
    with pytest.raises(InputError, match=r"typo\.png is not withdrawn"):
        take_back([row["sha256"], "typo.png"], Path.cwd(), dry_run=False)
    assert LIST.read_bytes() == before


def test_near_copies_are_offered_and_nobody_decides_for_the_user(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    near = kept(own_mill.root, fate="near_duplicate")
    with pytest.raises(InputError, match="near copies, which are named above"):
        take_out(near["sha256"], capsys=capsys)
    assert near["duplicate_of"] in capsys.readouterr().out
    assert not len(WithdrawnList.read(LIST))
    take_out(near["sha256"], capsys=capsys, copies=False)
    assert [row.sha256 for row in WithdrawnList.read(LIST).rows] == [near["sha256"]]


def test_the_same_picture_in_another_file_goes_with_it_for_ever(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    from PIL import Image, PngImagePlugin

    row = kept(own_mill.root, path="a/1/0001.png")
    take_out(row["sha256"], capsys=capsys)
    assert WithdrawnList.read(LIST).rows[0].pixels
    # Saved again with a comment: other bytes, the same pixels.
    note = PngImagePlugin.PngInfo()
    note.add_text("comment", "again")
    buffer = io.BytesIO()
    Image.open(own_mill.root / "images/pool" / row["path"]).save(buffer, "PNG", pnginfo=note)
    (own_mill.root / "images/pool/again.png").write_bytes(buffer.getvalue())
    curate_here()
    fates = {one["path"]: one["fate"] for one in rows(own_mill.root)}
    assert fates["again.png"] == fates[row["path"]] == "withdrawn"


def test_dry_run_changes_nothing_twice_adds_nothing_and_undo_gives_all_back(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    near, empty = kept(own_mill.root, fate="near_duplicate"), LIST.read_bytes()
    assert "Nothing was changed" in take_out(near["sha256"], capsys=capsys, dry_run=True)
    assert LIST.read_bytes() == empty
    take_out(near["sha256"], capsys=capsys, copies=True)
    full = LIST.read_bytes()
    assert "stand on conf/withdrawn.csv already" in take_out(near["sha256"], capsys=capsys, copies=True, because="x")
    assert LIST.read_bytes() == full
    take_back([near["sha256"][:10]], Path.cwd(), dry_run=True)
    assert LIST.read_bytes() == full
    take_back([near["sha256"][:10]], Path.cwd(), dry_run=False)
    assert LIST.read_bytes() == empty
    assert "(copy)" in capsys.readouterr().out
    with pytest.raises(InputError, match="is not withdrawn"):
        take_back([near["sha256"]], Path.cwd(), dry_run=False)
    dataset = curate_here()
    assert dataset.manifest_sha256 == own_mill.dataset.manifest_sha256


def test_what_cannot_be_withdrawn_is_refused(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="is no image"):
        take_out("1", capsys=capsys)
    with pytest.raises(InputError, match="names nothing"):
        take_out("images/pool/none.png", capsys=capsys)
    row = kept(own_mill.root)
    with (
        held(Path("data/work/locks/curation.lock"), InputError("busy")),
        pytest.raises(InputError, match="Curation is running"),
    ):
        take_out(row["sha256"], capsys=capsys, copies=True)
    LIST.unlink()
    with pytest.raises(InputError, match="list of withdrawn images"):
        take_out(row["sha256"], capsys=capsys, copies=True)
    shutil.copy(own_mill.root / CURATED / "handle.json", LIST)
    with pytest.raises(InputError, match="is no list of withdrawn images"):
        take_out(row["sha256"], capsys=capsys, copies=True)


def test_an_image_that_nobody_knows_yet_is_withdrawn_beforehand(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    take_out("f" * 64, capsys=capsys)
    assert [row.sha256 for row in WithdrawnList.read(LIST).rows] == ["f" * 64]


def test_a_labelled_image_is_named_as_what_has_to_be_removed(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next((own_mill.root / "images/labelled").rglob("400.png"))
    said = take_out(hash_file(file), capsys=capsys)
    assert f"labelled images are read where they lie: {file.relative_to(own_mill.root)}" in said
    assert "in the pool" not in said


def test_what_was_fitted_on_a_labelled_image_is_to_be_made_again(
    own_mill: Mill, capsys: pytest.CaptureFixture[str]
) -> None:
    """It touched nothing, while servers answered with class scores that were learnt from it."""
    fit_probes(own_mill)
    file = labelled(own_mill.root, "train")
    said = take_out(file.as_posix(), capsys=capsys, dry_run=True)
    assert "1 image touched 1 probe, 1 archive" in said
    done = said[said.index("To be done") :]
    again = "data/07_model_output/evaluation/probes: what evaluation fitted on labelled images"
    assert f"{again}, and the class scores of dinomill-backbone.mar" in done
    assert done.index(file.as_posix()) < done.index(again) < done.index("make run")
    assert "in the pool" not in said
    assert "probe" not in take_out(labelled(own_mill.root, "test").as_posix(), capsys=capsys, dry_run=True)


def test_a_picture_that_is_cut_into_tiles_leaves_as_a_whole(own_mill: Mill, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml
    from PIL import Image
    from skimage import data

    for name in ("astronaut", "coffee"):
        (own_mill.root / "images/scenes").mkdir(exist_ok=True)
        Image.fromarray(getattr(data, name)()[:192, :192]).save(own_mill.root / f"images/scenes/{name}.png")
    local = own_mill.root / "conf/local/globals.yml"
    values = yaml.safe_load(local.read_text()) | {"seeds": None, "labelled": None}
    values["pool"] = [{"path": "images/scenes", "tiles": {"side": 48}}]
    local.write_text(yaml.safe_dump(values))
    curate_here()
    tiles = [row for row in rows(own_mill.root) if row["tile_of"] == "coffee.png"]
    assert len(tiles) > 4
    said = take_out("images/scenes/coffee.png", capsys=capsys, copies=False)
    assert "tiles" in said
    [row] = WithdrawnList.read(LIST).rows
    assert row.picture == "images/scenes/coffee.png"
    assert row.sha256 == hash_file(own_mill.root / "images/scenes/coffee.png")
    values["pool"][0]["tiles"]["side"] = 40  # other tiles, with other hashes
    local.write_text(yaml.safe_dump(values))
    curate_here()
    fates = {row["fate"] for row in rows(own_mill.root) if row["tile_of"] == "coffee.png"}
    assert fates == {"withdrawn"}
    capsys.readouterr()
    take_back(["images/scenes/coffee.png"], Path.cwd(), dry_run=False)
    assert not len(WithdrawnList.read(LIST))
