from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.images import check_images, look_at_pool
from tests.planning.checks.conftest import picture, stopping, write_pool

Ask = Callable[..., Request]
Found = Callable[..., list[Problem]]

GREY: dict[str, Any] = {
    "pretraining": {"model": {"in_channels": 1}},
    "distillation": {"students": {"small": {"in_channels": 1}}},
}


def replace_pool(root: Path, images: int, **look: object) -> None:
    shutil.rmtree(root / "raw/pool")
    write_pool(root / "raw/pool", images, **look)


def test_colour_against_a_grey_model(root: Path, found: Found) -> None:
    replace_pool(root, 80, colour=True)
    assert found(settings={"seeds": None}) == []
    problems = found(settings={"seeds": None}, **GREY)
    assert {problem.key for problem in stopping(problems)} == {
        "pretraining.model.in_channels",
        "distillation.students.small.in_channels",
    }
    assert "1; the dataset has 3 (100% of 80 looked at have colour)" in [problem.found for problem in problems]
    assert not stopping(found(settings={"seeds": None}, curation={"write": {"channels": 1}}, **GREY))


def test_seeds_of_another_kind_make_it_a_guess(root: Path, found: Found) -> None:
    replace_pool(root, 80, colour=True)
    problems = found(**GREY)
    assert stopping(problems) == []  # what is kept looks like the grey seeds


def test_a_grey_pool_against_a_colour_model(found: Found) -> None:
    problems = found(
        pretraining={"model": {"in_channels": 3}}, distillation={"students": {"small": {"in_channels": 3}}}
    )
    assert {problem.key for problem in stopping(problems)} == {
        "pretraining.model.in_channels",
        "distillation.students.small.in_channels",
    }


def test_the_written_channels_are_what_counts(found: Found) -> None:
    problems = found(curation={"write": {"channels": 3}}, **GREY)
    assert len(stopping(problems)) == 2
    assert [problem.key for problem in problems if problem.warning] == ["curation.write.channels"]


def test_weights_that_take_colour_are_a_reason_to_write_it(found: Found) -> None:
    adapted = {"initial": "vits14.pth", "model": "from_weights"}
    problems = found(curation={"write": {"channels": 3}}, pretraining=adapted)
    assert "curation.write.channels" not in {problem.key for problem in problems}


def test_a_small_model_on_photographs(root: Path, found: Found) -> None:
    replace_pool(root, 40, side=256)
    problems = found(settings={"seeds": None})
    assert not stopping(problems)
    warned = {problem.key: problem for problem in problems}
    assert {"pretraining.crops.global_size", "distillation.crops.global_size"} <= set(warned)
    assert "256 pixels" in str(warned["pretraining.crops.global_size"].found)
    assert "64 pixels" in str(warned["curation.embedding.embedder.image_size"].found)
    assert "pretraining.crops.global_size" in {problem.key for problem in found()}  # with seeds of 28 pixels as well


def test_a_large_model_on_small_images(found: Found) -> None:
    crops = {"global_size": 224, "local_size": 96}
    problems = found(pretraining={"crops": crops, "model": {"image_size": 224}})
    assert [problem.key for problem in problems] == ["pretraining.crops.global_size"]
    assert "enlarged 8 times" in str(problems[0].found)


@pytest.mark.parametrize("images", [1, 2])
def test_too_few_images_to_train_on(root: Path, found: Found, images: int) -> None:
    replace_pool(root, images)
    assert [problem.key for problem in stopping(found())] == ["pool"]


def test_copies_of_one_picture_are_one(root: Path, found: Found) -> None:
    """They passed, and were refused by the training after the whole curation."""
    replace_pool(root, 1)
    (picture_file,) = (path for path in (root / "raw/pool").rglob("*") if path.is_file())
    for number in range(60):
        shutil.copy(picture_file, root / f"raw/pool/copy{number}{picture_file.suffix}")
    (problem,) = stopping(found())
    assert problem.key == "pool"
    assert "1 usable picture" in str(problem.found)


def test_no_image_at_all(root: Path, found: Found) -> None:
    replace_pool(root, 0)
    assert "is empty" in stopping(found())[0].problem
    (root / "raw/pool/notes").write_text("nothing here", encoding="utf-8")
    assert [problem.key for problem in stopping(found())] == ["pool"]


def test_more_is_taken_than_there_is(root: Path, found: Found) -> None:
    problems = found(pretraining={"batch_size": 512, "step": {"head": {"prototypes": 4096}}})
    assert [(problem.key, problem.warning) for problem in problems] == [
        ("pretraining.batch_size", True),
        ("pretraining.step.head.prototypes", True),
    ]
    assert problems[0].found == "512 images a step, about 200 in all"


def test_a_pool_of_something_else(root: Path, found: Found) -> None:
    for number in range(400):
        (root / "raw/pool" / f"{number}.doc").write_text("no picture", encoding="utf-8")
    (problem,) = stopping(found())
    assert "not_an_image" in str(problem.found)


def test_seeds_without_a_single_image(root: Path, found: Found) -> None:
    shutil.rmtree(root / "raw/seeds")
    (root / "raw/seeds").mkdir()
    (root / "raw/seeds/readme").write_text("# Seeds", encoding="utf-8")
    assert [problem.key for problem in stopping(found())] == ["seeds"]


def test_a_pool_is_looked_at_once(root: Path, ask: Ask) -> None:
    first = look_at_pool(ask())
    remembered = root / "data/work/checks/pool.json"
    before = remembered.stat().st_mtime_ns
    assert look_at_pool(ask()) == first
    assert remembered.stat().st_mtime_ns == before
    (root / "raw/pool/new.png").write_bytes(picture(9_999))
    second = look_at_pool(ask())
    assert not isinstance(second, Problem)
    assert second is not None
    assert second.files == 201


def test_a_stage_that_needs_no_pool_does_not_look_at_it(root: Path, ask: Ask) -> None:
    assert list(check_images(ask(("packaging",)))) == []
    assert not (root / "data").exists()


@pytest.mark.skipif(os.name != "posix", reason="pipes and links of POSIX")
def test_files_of_several_kinds_get_no_range_that_hides_one_of_them(root: Path, found: Found) -> None:
    import numpy as np
    import tifffile

    replace_pool(root, 40)
    generator = np.random.default_rng(0)
    for number in range(20):
        grey = generator.random((64, 64), dtype=np.float32)
        tifffile.imwrite(root / "raw/pool" / f"f{number}.tif", grey)
        tifffile.imwrite(root / "raw/pool" / f"i{number}.tif", (grey * 4000).astype(np.uint16))
    (said,) = [one for one in found() if one.key == "curation.scan.preflight.value_range"]
    assert said.warning and "16-bit integers from 0 to 4,095, floats from 0 to 1" in str(said.found)
    assert "one kind" in str(said.action)


def test_odd_things_in_a_pool_are_no_obstacle(root: Path, found: Found) -> None:
    os.mkfifo(root / "raw/pool/pipe.png")
    (root / "raw/pool/loop").symlink_to("loop")
    (root / "raw/pool/äußere Bilder").mkdir()
    (root / "raw/pool/äußere Bilder/ein Bild.png").write_bytes(picture(1))
    problems = found()
    from dinomill.planning.pool import survey

    print("SURVEY", survey(["raw/pool"], sample=96), survey(["raw/pool"]).unlike_kinds)
    assert not stopping(problems)
    assert [problem.key for problem in problems] == ["pool"]
    assert "1 × pipe, socket or device" in str(problems[0].found)


def test_networks_for_colour_that_are_given_see_grey_by_themselves(root: Path, found: Found) -> None:
    problems = found(distillation={"teacher": "efficientnet-lite0"})
    assert not stopping(problems)
    (said,) = [problem for problem in problems if problem.key == "distillation.teacher"]
    assert said.warning and "grey is repeated into three channels" in said.problem
    assert said.found == "3 channels; the dataset has 1 (0% of 40 looked at have colour)"
    # Their students see what they see.
    wrong = found(distillation={"teacher": "efficientnet-lite0", "students": {"small": {"in_channels": 1}}})
    (problem,) = stopping(wrong)  # said once, and what it says to do helps
    assert problem.key == "distillation.students.small.in_channels"
    assert problem.found == "1; the teacher efficientnet-lite0 has 3"
    assert "set it to auto or 3" in str(problem.action) and "curation.write" not in str(problem.action)
    replace_pool(root, 80, colour=True)
    problems = found(settings={"seeds": None}, distillation={"teacher": "efficientnet-lite0"})
    assert "distillation.teacher" not in {problem.key for problem in problems}
