from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dinomill.commands.embed import embed_files
from dinomill.commands.embed_parts import Done, parts_of
from dinomill.commands.embed_sources import Candidate, candidates
from dinomill.commands.search import search
from dinomill.embeddings.file import Embeddings
from dinomill.errors import InputError, StorageError
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, load, save_backbone
from dinomill.serving.predictor import Predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    shape = {"image_size": 28, "patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 2}
    # No layer scale: an untrained one hides the image from the class token.
    config = VisionTransformerConfig.model_validate(shape | {"layerscale": None})
    preprocessing = PreprocessingConfig(image_size=28, resize=28)
    save_backbone(folder, VisionTransformer(config), {SECTION: preprocessing.model_dump(mode="json")})
    return str(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(5):
        picture = np.full((28, 28, 3), random.integers(0, 255, 3), dtype=np.uint8)
        picture[5:15, 3 * number : 3 * number + 9] = random.integers(0, 255, 3)
        (folder / "deep").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "deep" / f"{number}.png"), picture)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / ".hidden").write_bytes(b"not looked at")
    return folder


@pytest.mark.parametrize("name", ["all.parquet", "all.npy"])
def test_a_folder_becomes_a_file_that_can_be_searched(
    tmp_path: Path, images: Path, model: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / name
    embed_files([images], output, model=model, batch_size=4)
    printed = capsys.readouterr()
    assert "5 embeddings of width 32, 1 file left out" in printed.out
    assert "broken.png" in printed.err
    embeddings = Embeddings.load(output)
    assert [Path(path).name for path in embeddings.paths] == [f"{number}.png" for number in range(5)]
    assert embeddings.vectors.shape == (5, 32)
    assert embeddings.vectors.dtype == np.float32
    assert embeddings.model == model

    found = search(images / "deep" / "3.png", output, count=2, model=None)
    assert len(found) == 2
    assert found[0][0] == pytest.approx(1, abs=1e-5)
    assert found[0][1].endswith("3.png")
    assert found[1][0] <= found[0][0]


def test_a_folder_that_is_named_in_two_ways_is_looked_at_once(
    tmp_path: Path, images: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files were embedded twice, and counted so; `..` after a link is of the folder that the link leads to."""
    (tmp_path / "link").symlink_to(images / "deep", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    again = [images / "deep" / "..", Path("link/..")]
    assert candidates([images, *again]) == candidates([images])
    assert candidates(again[1:]) == candidates([images])
    embed_files([images, *again], tmp_path / "all.parquet", model=model, batch_size=4)
    paths = Embeddings.load(tmp_path / "all.parquet").paths
    assert len(paths) == 5
    assert all(".." not in path and Path(path).is_absolute() for path in paths)


def test_the_batch_size_changes_nothing(tmp_path: Path, images: Path, model: str) -> None:
    for size in (1, 3):
        embed_files([images], tmp_path / f"{size}.npy", model=model, batch_size=size)
    first, second = (Embeddings.load(tmp_path / f"{size}.npy").vectors for size in (1, 3))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_format_is_refused_before_any_work(tmp_path: Path, images: Path) -> None:
    with pytest.raises(InputError, match="no known format"):
        embed_files([images], tmp_path / "all.csv", model="models:/none@none", batch_size=4)


def test_no_image_at_all_is_an_error_and_writes_nothing(tmp_path: Path, images: Path, model: str) -> None:
    with pytest.raises(InputError, match="None of the 1 files"):
        embed_files([images / "broken.png"], tmp_path / "all.npy", model=model, batch_size=4)
    assert not list(tmp_path.iterdir())


def test_a_missing_source_is_named(tmp_path: Path, model: str) -> None:
    with pytest.raises(InputError, match="nowhere"):
        embed_files([tmp_path / "nowhere"], tmp_path / "all.npy", model=model, batch_size=4)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    with pytest.raises(InputError, match="There is no file"):
        Embeddings.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match="holds no embeddings"):
        Embeddings.load(path)


def test_a_model_of_another_width_is_refused(tmp_path: Path, images: Path, model: str) -> None:
    Embeddings(["a"], np.ones((1, 8), np.float32), model).save(tmp_path / "other.npy")
    with pytest.raises(InputError, match="does not fit"):
        search(images / "deep" / "0.png", tmp_path / "other.npy", count=1, model=None)


def test_weights_of_any_kind_embed(tmp_path: Path, images: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"image_size": 28, "patch_size": 7, "embed_dim": 64, "depth": 2, "num_heads": 1, "layerscale": None}
    torch.save(VisionTransformer(VisionTransformerConfig.model_validate(shape)).state_dict(), tmp_path / "vit.pth")
    config = transformers.DINOv3ViTConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, num_register_tokens=4
    )
    transformers.DINOv3ViTModel(config).save_pretrained(tmp_path / "huggingface")
    for name, width in (("vit.pth", 64), ("huggingface", 64), ("efficientnet-lite0", 1280)):
        address = name if name == "efficientnet-lite0" else str(tmp_path / name)
        embed_files([images], tmp_path / f"{name}.npy", model=address, batch_size=4)
        found = Embeddings.load(tmp_path / f"{name}.npy")
        assert (found.vectors.shape, found.model) == ((5, width), address)
        assert search(images / "deep" / "2.png", tmp_path / f"{name}.npy", count=1, model=None)[0][1].endswith("2.png")
    embed_files([images], tmp_path / "large.npy", model=str(tmp_path / "vit.pth"), batch_size=4, image_size=56)
    small, large = (Embeddings.load(tmp_path / f"{name}.npy").vectors for name in ("vit.pth", "large"))
    assert np.abs(small - large).max() > 1e-3
    for form in ("npy", "parquet"):
        index = tmp_path / f"large.{form}"
        embed_files([images], index, model=str(tmp_path / "vit.pth"), batch_size=4, image_size=56)
        assert Embeddings.load(index).image_size == 56
        assert search(images / "deep" / "2.png", index, count=1, model=None)[0][0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="patches of 7 pixels, and 30 is no multiple"):
        embed_files([images], tmp_path / "odd.npy", model=str(tmp_path / "vit.pth"), batch_size=4, image_size=30)


def test_another_network_than_the_one_that_made_the_file_is_refused(tmp_path: Path, images: Path, model: str) -> None:
    """Of the same width, it gave cosines that meant nothing, without a word."""
    other = tmp_path / "other"
    torch.manual_seed(1)
    section = {SECTION: PreprocessingConfig(image_size=28, resize=28).model_dump(mode="json")}
    save_backbone(other, VisionTransformer(load(model).config), section)
    for name in ("index.parquet", "index.npy"):
        embed_files([images], tmp_path / name, model=model, batch_size=4)
        query = images / "deep" / "0.png"
        assert search(query, tmp_path / name, count=1, model=None)[0][0] > 0.999
        assert search(query, tmp_path / name, count=1, model=model)[0][0] > 0.999
        with pytest.raises(InputError, match="is not the network that made") as refused:
            search(query, tmp_path / name, count=1, model=str(other), env="fashion")
        assert "`dinomill versions --env fashion`" in str(refused.value.action)


def test_the_query_that_is_no_image_is_named(tmp_path: Path, images: Path, model: str) -> None:
    embed_files([images], tmp_path / "index.parquet", model=model, batch_size=4)
    query = tmp_path / "query.png"
    query.write_text("no image", encoding="utf-8")
    with pytest.raises(InputError, match=r"query\.png cannot be used as an image"):
        search(query, tmp_path / "index.parquet", count=1, model=None)


def test_a_place_that_cannot_be_written_is_found_before_the_work(images: Path) -> None:
    with pytest.raises(StorageError, match=r"/proc/nothing\.parquet"):
        embed_files([images], Path("/proc/nothing.parquet"), model="nosuch", batch_size=4)


def _odd(folder: Path) -> Path:
    """Two pictures, and what else a folder may hold."""
    folder.mkdir()
    for name in ("a.png", "z.png"):
        cv2.imwrite(str(folder / name), np.full((28, 28, 3), len(name) * 20 + ord(name[0]), np.uint8))
    (folder / "line\nbreak 'quoted' ü.png").write_bytes((folder / "a.png").read_bytes())
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes((folder / "a.png").read_bytes())
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to("missing")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "up").symlink_to("..", target_is_directory=True)
    (folder / "link.png").symlink_to("z.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    (folder / "really.json").write_bytes((folder / "a.png").read_bytes())
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "b.png").write_bytes((folder / "a.png").read_bytes())
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path is short
        server.bind("socket.png")
        os.chdir(here)
    return folder


@pytest.mark.parametrize("name", ["all.parquet", "all.npy"])
def test_what_cannot_be_used_is_left_out_by_name_and_the_rest_is_kept(
    tmp_path: Path, model: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A name that is not UTF-8 lost everything at the end; a pipe or link to nothing was passed over unsaid."""
    folder, output = _odd(tmp_path / "odd"), tmp_path / name
    embed_files([folder, folder / "a.png"], output, model=model, batch_size=3)
    printed = capfd.readouterr()
    embeddings = Embeddings.load(output)
    assert sorted(Path(path).name for path in embeddings.paths) == [
        "a.png",
        "line\nbreak 'quoted' ü.png",
        "link.png",
        "really.json",  # an image by its content
        "z.png",
    ]
    with (tmp_path / f"{name}.left_out.csv").open(encoding="utf-8", newline="") as file:
        listed = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert listed == {
        "caf\\xe9.png": "name_not_utf8",
        "cut.png": "truncated",
        "empty.jpg": "empty",
        "loop.png": "broken_link",
        "nowhere.png": "broken_link",
        "pipe.png": "not_a_file",
        "socket.png": "not_a_file",
        "up": "link_to_folder",
    }
    assert "5 embeddings of width 32, 8 files left out (see all." in printed.out
    assert "2 broken_link" in printed.err
    assert "passed over, being no images: 1 " in printed.err and "1 .txt" in printed.err and "notes" not in printed.err
    assert not list(tmp_path.glob(".*unfinished*"))
    # Without them the list goes too.
    embed_files([folder / "a.png"], output, model=model, batch_size=3)
    assert not (tmp_path / f"{name}.left_out.csv").exists()


def test_a_killed_run_continues(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed without a word in the middle; the next computes only what is missing, and the file is the same."""
    folder = tmp_path / "many"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        cv2.imwrite(str(folder / f"{number:02d}.png"), random.integers(0, 255, (28, 28, 3), dtype=np.uint8))
    (folder / "30.png").write_bytes(b"no image")
    embed_files([folder], tmp_path / "whole.npy", model=model, batch_size=4)
    code = f"""
import os, signal
from pathlib import Path
from dinomill.commands import embed_parts
from dinomill.commands.embed import embed_files
embed_parts._ROWS = 4
write = embed_parts._write
def killed(path, done):
    write(path, done)
    if path.name == "000009.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
embed_parts._write = killed
embed_files([Path({str(folder)!r})], Path({str(tmp_path / "all.npy")!r}), model={model!r}, batch_size=4)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == -9
    assert not (tmp_path / "all.npy").exists()
    cv2.imwrite(str(folder / "05.png"), np.zeros((28, 28, 3), np.uint8))  # changed since
    (folder / "07.png").unlink()
    seen: list[int] = []
    monkeypatch.setattr(Predictor, "each", _counting(Predictor.each, seen))
    embed_files([folder], tmp_path / "all.npy", model=model, batch_size=4)
    assert sum(seen) == 60 - 40 + 1
    whole, continued = Embeddings.load(tmp_path / "whole.npy"), Embeddings.load(tmp_path / "all.npy")
    kept = [row for row, path in enumerate(whole.paths) if Path(path).name != "07.png"]
    assert continued.paths == [whole.paths[row] for row in kept]
    same = [row for row, path in enumerate(continued.paths) if Path(path).name != "05.png"]
    np.testing.assert_allclose(continued.vectors[same], whole.vectors[kept][same], atol=1e-5)
    assert not list(tmp_path.glob(".*unfinished*"))


def test_other_weights_do_not_continue(tmp_path: Path, images: Path, model: str) -> None:
    output = tmp_path / "all.npy"
    with pytest.raises(RuntimeError, match="stopped"), parts_of(output, "one") as parts:
        parts.begin()
        parts.add([Done(Candidate("a", 1, 1), np.ones(3, np.float32))])
        raise RuntimeError("stopped")
    assert list(tmp_path.glob(".all.npy.unfinished/one/*.parquet"))
    with parts_of(output, "one") as parts:
        assert [one.file.path for one in parts.begin()] == ["a"]
        with parts_of(tmp_path / "other.npy", "one"):
            pass
        with pytest.raises(InputError, match="Another `dinomill embed`"), parts_of(output, "one"):
            pass
    embed_files([images], output, model=model, batch_size=4)
    assert Embeddings.load(output).vectors.shape == (5, 32)


def test_a_damaged_part_is_computed_again(tmp_path: Path) -> None:
    output = tmp_path / "all.npy"
    with pytest.raises(RuntimeError), parts_of(output, "one") as parts:
        parts.begin()
        parts.add([Done(Candidate("a", 1, 1), np.ones(3, np.float32))])
        raise RuntimeError
    part = next(tmp_path.glob(".all.npy.unfinished/one/*.parquet"))
    part.write_bytes(part.read_bytes()[:50])
    with parts_of(output, "one") as parts:
        assert parts.begin() == []


def test_a_full_disk_loses_nothing_that_was_kept(
    tmp_path: Path, images: Path, model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for a disk that is full."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(400):
        shutil.copy(images / "deep" / f"{number % 5}.png", many / f"{number:03d}.png")
    code = f"""
import resource, signal
from pathlib import Path
from dinomill.commands.app import run
from dinomill.commands import embed_parts
import sys
embed_parts._ROWS = 64
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
sys.argv = ["dinomill", "embed", {str(many)!r}, "-o", {str(tmp_path / "all.npy")!r}, "-m", {model!r}]
run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"Cannot write {tmp_path / 'all.npy'}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "all.npy").exists()
    embed_files([many], tmp_path / "all.npy", model=model, batch_size=64)
    assert len(Embeddings.load(tmp_path / "all.npy").paths) == 400
    assert "continued: 400 of 400 files were done before" in capfd.readouterr().err


def test_embeddings_that_are_no_numbers_are_refused_by_name(tmp_path: Path, images: Path, model: str) -> None:
    vectors = np.ones((3, 32), np.float32)
    vectors[1, 4] = np.nan
    for name in ("index.npy", "index.parquet"):
        Embeddings(["a.png", "b.png", "c.png"], vectors, model).save(tmp_path / name)
        with pytest.raises(InputError, match="no numbers") as caught:
            search(images / "deep" / "0.png", tmp_path / name, count=1, model=None)
        assert "1 of 3, the first of b.png" in str(caught.value)


def test_a_list_of_another_array_is_refused(tmp_path: Path) -> None:
    """Two files cannot be replaced at once: a kill between them left the paths of one run with the array of another."""
    for name, value in (("one.npy", 1), ("two.npy", 2)):
        Embeddings(["a", "b"], np.full((2, 4), value, np.float32), "model").save(tmp_path / name)
    (tmp_path / "two.txt").replace(tmp_path / "one.txt")
    with pytest.raises(InputError, match="holds no embeddings") as caught:
        Embeddings.load(tmp_path / "one.npy")
    assert "list of another array" in str(caught.value)


def test_an_index_of_another_size_or_pooling_is_refused(tmp_path: Path, images: Path, model: str) -> None:
    """The same weights, put to use otherwise: cosines would mean nothing."""
    query = images / "deep" / "0.png"
    other = tmp_path / "other"
    shutil.copytree(model, other)
    for change in ({"resize": 40}, {"mean": [0.1, 0.1, 0.1]}):
        config = json.loads((other / "config.json").read_text(encoding="utf-8"))
        config[SECTION] |= change
        (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
        embed_files([images], tmp_path / "index.npy", model=str(other), batch_size=4)
        with pytest.raises(InputError, match="is not the network that made"):
            search(query, tmp_path / "index.npy", count=1, model=model)
    embed_files([images], tmp_path / "large.npy", model=model, batch_size=4, image_size=56)
    known = Embeddings.load(tmp_path / "large.npy")
    assert search(query, tmp_path / "large.npy", count=1, model=model)[0][0] > 0.999
    # As if it had been made at the model's own size.
    Embeddings(known.paths, known.vectors, model, None, known.identity).save(tmp_path / "large.npy")
    with pytest.raises(InputError, match="is not the network that made"):
        search(query, tmp_path / "large.npy", count=1, model=model)


def _counting(each: Any, seen: list[int]) -> Any:
    def counted(self: Predictor, contents: Any) -> Any:
        def one_more() -> Any:
            for content in contents:
                seen.append(1)
                yield content

        return each(self, one_more())

    return counted


def test_grey_images_for_a_network_that_takes_colour_are_said_once(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "grey").mkdir()
    for number in range(6):
        cv2.imwrite(str(tmp_path / "grey" / f"{number}.png"), np.full((28, 28), 40 * number, dtype=np.uint8))
    embed_files([tmp_path / "grey"], tmp_path / "all.npy", model=model, batch_size=2)
    said = " ".join(capsys.readouterr().err.split())  # lines are folded by the path's length
    assert said.count("grey is repeated into three channels") == 1 and "grey are grey" in said
    predictor = Predictor(model)
    with caplog.at_level("INFO", "dinomill.serving.predictor"):
        for _ in range(2):
            predictor([(tmp_path / "grey" / "1.png").read_bytes()] * 2)
    assert sum("grey is repeated" in record.message for record in caplog.records) == 1


def test_what_is_no_image_or_elsewhere_is_refused_with_what_to_do(tmp_path: Path, model: str) -> None:
    (tmp_path / "paths.csv").write_text("path\na.png\n")
    (tmp_path / "empty").mkdir()
    for source, said in (
        (Path("s3://bucket/photos"), "aws s3 cp"),
        (tmp_path / "nowhere", "correct it"),
        (tmp_path / "empty", "folders that hold images"),
        (tmp_path / "paths.csv", "a list of paths is not read"),
    ):
        with pytest.raises(InputError) as caught:
            embed_files([source], tmp_path / "all.npy", model=model, batch_size=4)
        assert said in (caught.value.action or "")
