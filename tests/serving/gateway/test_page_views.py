"""The page with a model that answers more than embeddings: every picture, score and line of lineage is on it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinomill.features.probe import Probe
from dinomill.packaging.along import thumbnail
from dinomill.serving.predictor import Predictor
from dinomill.serving.views import Index
from tests.serving.gateway.browser import Tab, tab
from tests.serving.gateway.served import Served, make_package, serving
from tests.serving.gateway.test_page import images, needs_browser

__all__ = ["images"]  # a fixture

pytestmark = needs_browser

LINEAGE = {
    "uri": "models:/mill/3",
    "weights_sha256": "a" * 64,
    "dataset_sha256": "d" * 64,
    "index_dataset_sha256": "e" * 64,
    "run": "76f750e38299486f93b6cedbca4bc03d",
    "registered": "2026-01-02T03:04:05Z",
    "licence": "own",
    "origin": "distilled from a teacher",
}
PROBE = {"classes": 2.0, "accuracy": 0.75, "scored_images": 40.0, "learnt_images": 1234.0}
CLASSES = ("<b>astronaut</b>", "coffee")  # names are text, whatever is in them


@pytest.fixture(scope="module")
def told(backbone: Path, photographs: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway with a probe of two classes, and an index of the photographs."""
    beside = tmp_path_factory.mktemp("beside")
    embeddings = Predictor(backbone)(photographs)
    rows: list[dict[str, Any]] = [
        {"path": f"some/{'long-' * 20}folder/{number}.jpg", "sha256": f"{number:064x}", "cluster": number}
        | thumbnail(image, 64)
        for number, image in enumerate(photographs)
    ]
    Index.build(embeddings, rows).save(beside)
    weight = np.stack([embeddings[0] - embeddings[1], embeddings[1] - embeddings[0]])
    Probe(weight, np.zeros(2, np.float32), CLASSES, about=PROBE).save(beside / "probe.safetensors")
    package = make_package(
        tmp_path_factory.mktemp("package") / "told",
        backbone,
        3,
        beside=beside,
        weights_sha256="a" * 64,
        lineage=LINEAGE,
        probe=PROBE,
        index={"images": float(len(rows)), "megabytes": 0.1, "thumbnails": 64.0},
    )
    with serving(package, tmp_path_factory.mktemp("run")) as running:
        yield running


@contextlib.asynccontextmanager
async def _page(served: Served) -> AsyncIterator[Tab]:
    async with tab(f"http://127.0.0.1:{served.port}/#token={served.token}") as page:
        await page.wait("!document.querySelector('#ask').hidden")
        yield page


async def _words(page: Tab, selector: str) -> str:
    return str(await page.see(f"document.querySelector('{selector}').innerText"))


async def _pixels(page: Tab, selector: str) -> Image.Image:
    source = str(await page.see(f"document.querySelector('{selector}').src"))
    head, _, data = source.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def _event(kind: str, file: Path, form: str = "image/jpeg") -> str:
    """JavaScript that drops or pastes a file, as a browser does for its user."""
    content = base64.b64encode(file.read_bytes()).decode()
    made, carried = {
        "drop": ("DragEvent", "dataTransfer"),
        "dragover": ("DragEvent", "dataTransfer"),
        "paste": ("ClipboardEvent", "clipboardData"),
    }[kind]
    return f"""(() => {{
        const carried = new DataTransfer();
        const bytes = Uint8Array.from(atob("{content}"), (one) => one.charCodeAt(0));
        carried.items.add(new File([bytes], "{file.name}", {{ type: "{form}" }}));
        const event = new {made}("{kind}", {{ bubbles: true, cancelable: true, {carried}: carried }});
        document.querySelector("#drop").dispatchEvent(event);
        return event.defaultPrevented;
    }})()"""


async def _shown(page: Tab, name: str) -> None:
    await page.wait(f"document.querySelector('#about').textContent.startsWith('{name}')")


def test_scores_neighbours_thumbnails_and_patches_are_shown(told: Served, images: list[Path]) -> None:
    async def visit() -> None:
        async with _page(told) as page:
            await page.choose("#file", images[0])
            await _shown(page, images[0].name)

            scores = await page.see("[...document.querySelectorAll('#score-list li')].map((one) => one.innerText)")
            assert len(scores) == 2
            assert scores[0].startswith(CLASSES[0])
            shares = [float(one.split()[-2]) for one in scores]
            assert shares[0] > 50
            assert sum(shares) == pytest.approx(100, abs=0.2)
            note = await _words(page, "#score-note")
            assert "1,234 labelled images" in note
            assert "75.0 % of 40" in note

            cosines = await page.see("[...document.querySelectorAll('#neighbour-list b')].map((one) => one.innerText)")
            assert cosines[0] == "1.000"
            assert [float(one) for one in cosines] == sorted((float(one) for one in cosines), reverse=True)
            assert len(cosines) == len(images)
            small = np.asarray((await _pixels(page, "#neighbour-list img")).convert("RGB"), np.float32)
            expected = Image.open(io.BytesIO(base64.b64decode(thumbnail(images[0].read_bytes(), 64)["thumbnail"])))
            np.testing.assert_array_equal(small, np.asarray(expected.convert("RGB"), np.float32))
            await page.wait("document.querySelector('#neighbour-list img').naturalWidth > 0")  # the policy lets it

            patches = await _pixels(page, "#pca-picture")
            assert patches.size == (224, 224)
            assert np.asarray(patches.convert("RGB")).std() > 10
            await page.wait("document.querySelector('#pca-picture').naturalWidth === 224")
            assert not await page.see("document.querySelector('#pca').hidden")
            assert page.console == []

    asyncio.run(visit())


def test_lineage_is_on_the_page_and_a_neighbours_is_a_press_away(told: Served, images: list[Path]) -> None:
    async def visit() -> None:
        async with _page(told) as page:
            await page.resize(390, 844, phone=True)
            await page.choose("#file", images[1])
            await _shown(page, images[1].name)
            origin = await _words(page, "#origin")
            assert "mill, version 3" in origin
            assert "2026-01-02 03:04:05 UTC" in origin
            for known in (LINEAGE["run"], LINEAGE["dataset_sha256"], LINEAGE["weights_sha256"], "your own"):
                assert known in origin
            assert told.log()[-1]["id"] in origin.split()

            assert await page.see("document.querySelector('#neighbour').hidden")
            await page.see("document.querySelectorAll('#neighbour-list button')[0].click()")
            facts = await _words(page, "#neighbour-facts")
            assert facts.split() == [
                *("path", f"some/{'long-' * 20}folder/1.jpg", "sha256", f"{1:064x}", "cluster", "1"),
                *("dataset", "e" * 64, "cosine", "1.0000"),
            ]
            assert await _words(page, "#neighbour-lineage") == f"dinomill lineage {1:064x}"
            await page.see("document.querySelectorAll('#neighbour-list button')[1].click()")
            assert f"{1:064x}" not in await _words(page, "#neighbour-facts")
            await page.see("document.querySelectorAll('#neighbour-list button')[1].click()")
            assert await page.see("document.querySelector('#neighbour').hidden")

            # Of one's own images there are no pictures by default: names then, one below the other.
            rows = [{"path": f"my/{name}.jpg", "sha256": name, "cosine": 0.5, "cluster": None} for name in "ab"]
            await page.see(f"neighbours({json.dumps(rows)})")
            assert (await _words(page, "#neighbour-list")).split() == ["0.500", "a.jpg", "0.500", "b.jpg"]
            boxes = (
                "[...document.querySelectorAll('#neighbour-list li')].map((one) => one.getBoundingClientRect().left)"
            )
            assert len(set(await page.see(boxes))) == 1
            assert await page.see("document.documentElement.scrollWidth") <= 390

    asyncio.run(visit())


def test_what_is_said_of_another_version_is_not_said_of_this_answer(told: Served, images: list[Path]) -> None:
    async def visit() -> None:
        async with _page(told) as page:
            await page.see("look = async () => {}; model.version = '2'; 0")  # as while version 3 takes over
            await page.choose("#file", images[0])
            await _shown(page, images[0].name)
            assert await _words(page, "#score-note") == "By the linear probe that was packaged."
            assert await _words(page, "#neighbour-note") == "Press one to see where it comes from."
            origin = await _words(page, "#origin")
            assert "mill, version 3" in origin
            assert str(LINEAGE["run"]) not in origin
            await page.see("document.querySelector('#neighbour-list button').click()")
            assert "dataset" not in (await _words(page, "#neighbour-facts")).split()
            assert page.console == []

    asyncio.run(visit())


def test_clusters_are_named_where_there_are_some(told: Served) -> None:
    async def visit() -> None:
        async with _page(told) as page:
            for cluster, expected in (
                (7, "dataset, of all its clusters."),
                (0, "clusters."),
                (None, "curated dataset."),
            ):
                row = {"path": "a.jpg", "sha256": "a", "cosine": 0.5, "cluster": cluster}
                await page.see("show(document.querySelector('#result'), true)")
                await page.see(f"neighbours({json.dumps([row])}, {{ index: {{ images: 2000 }} }})")
                note = await _words(page, "#neighbour-note")
                assert "among 2,000 images" in note
                assert note.endswith(expected)

    asyncio.run(visit())


def test_images_are_dropped_and_pasted(told: Served, images: list[Path]) -> None:
    async def visit() -> None:
        async with _page(told) as page:
            assert await page.see(_event("dragover", images[0]))  # else a browser would open the file instead
            assert await page.see("document.querySelector('#drop').classList.contains('over')")
            assert await page.see(_event("drop", images[0]))
            assert not await page.see("document.querySelector('#drop').classList.contains('over')")
            await _shown(page, images[0].name)
            assert await _words(page, "#neighbour-list b") == "1.000"
            assert await page.see(_event("paste", images[1]))
            await _shown(page, images[1].name)
            assert await _words(page, "#earlier-list b") != "1.000"  # another image than the first
            before = len(told.log())
            assert not await page.see(_event("paste", images[2], "text/plain"))  # words are left to the fields
            await asyncio.sleep(0.3)
            assert len(told.log()) == before
            assert page.console == []

    asyncio.run(visit())


_CONTROLS = """[...document.querySelectorAll("button, a, label.drop, input[type=password]")]
    .filter((one) => one.checkVisibility())
    .map((one) => {
        one.scrollIntoView({ block: "center" });
        const box = one.getBoundingClientRect();
        const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        return [one.id || one.className || one.innerText, box.left, box.right, box.height, one.contains(hit)];
    })"""


def test_a_phone_scrolls_down_alone_and_its_controls_can_be_pressed(told: Served, images: list[Path]) -> None:
    async def visit() -> None:
        async with _page(told) as page:
            await page.resize(390, 844, phone=True)
            await page.choose("#file", images[0])
            await _shown(page, images[0].name)
            await page.see("document.querySelector('#neighbour-list button').click()")  # all that can be open is
            for width in (390, 320):
                await page.resize(width, 844, phone=True)
                await _fits(page, width)

    asyncio.run(visit())


async def _fits(page: Tab, width: int) -> None:
    assert await page.see("document.documentElement.scrollWidth") <= width
    controls = await page.see(_CONTROLS)
    assert {"drop", "copy", "copy-lineage", "copy-neighbour", "tile", "API", "metrics"} <= {one[0] for one in controls}
    for name, left, right, height, reached in controls:
        assert left >= 0, name
        assert right <= width, name
        assert height >= 40, (name, height)  # of a finger
        assert reached, f"{name} is covered"
    # Text that is cut off at the side would be lost: only names of tiles are shortened, and said in full below.
    cut = await page.see(
        "[...document.querySelectorAll('dd, p, figcaption')].filter((one) => one.checkVisibility()"
        " && one.scrollWidth > one.clientWidth + 1).map((one) => one.id || one.innerText)"
    )
    assert cut == []


def test_what_the_package_says_is_for_clients_alone(told: Served) -> None:
    assert told.get("/v1/models").status == 401
    row = told.get("/v1/models", told.token).body["data"][0]
    assert {name: row["lineage"][name] for name in LINEAGE} == LINEAGE
    assert row["probe"] == PROBE
    for path in ("/readyz", "/openapi.json", "/"):
        said = told.get(path).body
        assert "d" * 64 not in json.dumps(said, default=str)
