"""Nothing that a request says makes a worker open a file, ask another machine or start a program."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

# Loads the model, answers once (what is imported lazily is then there), and from then on writes down what it does.
_WATCHED = """
import json, sys
import numpy, PIL.Image
from dinomill.serving.torchserve.handler import EmbeddingHandler

class Context:
    manifest = {}
    metrics = None
    model_yaml_config = {"handler": {"threads": 1}}
    system_properties = {"model_dir": sys.argv[1], "gpu_id": None}
    def get_all_request_header(self, index): return {}
    def set_response_content_type(self, index, value): pass
    def set_response_status(self, **_): pass

served = EmbeddingHandler()
served.initialize(Context())
bodies = [open(name, "rb").read() for name in sys.argv[2:]]
seen, watching = [], False

def look(event, arguments):
    if not watching:
        return
    if event == "open":
        seen.append(str(arguments[0]))
    elif event.startswith(("socket.", "subprocess.", "os.exec", "os.system", "os.posix_spawn", "os.fork")):
        seen.append(event)

sys.addaudithook(look)
watching = True
answers = [json.loads(served.handle([{"body": body}], Context())[0]) for body in bodies]
watching = False
print(json.dumps({"answers": answers, "seen": seen}))
"""
_CODE = (".py", ".pyc", ".so", "entry_points.txt", "METADATA")  # what a first use of a reader imports


def _json(*instances: object) -> bytes:
    return json.dumps({"instances": list(instances)}).encode()


def _bodies(secret: Path) -> dict[str, bytes]:
    path, uri, url = str(secret), secret.as_uri(), "http://127.0.0.1:9/x.jpg"
    entity = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{uri}">]><svg xmlns="http://www.w3.org/2000/svg">&e;</svg>'
    page = io.BytesIO()
    with zipfile.ZipFile(page, "w") as file:
        file.writestr("../../x.jpg", b"")
        file.writestr("mimetype", uri)
    icon = io.BytesIO()
    Image.new("RGB", (16, 16)).save(icon, "ICO")
    return {
        "path": path.encode(),
        "uri": uri.encode(),
        "url": url.encode(),
        "link in text": f"@{path}".encode(),
        "json text": _json(path, uri, url),
        "json b64 is a path": _json({"b64": path}),
        "json b64 is base64 of a path": _json({"b64": base64.b64encode(path.encode()).decode()}),
        "json b64 is a link": _json({"b64": f"data:image/jpeg;base64,{uri}"}),
        "json url": _json({"url": url}, {"path": path}, {"image": uri}),
        "json reference": json.dumps({"$ref": uri, "instances": {"$ref": uri}}).encode(),
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{uri}"/></svg>'.encode(),
        "xml entity": b'<?xml version="1.0"?>' + entity.encode(),
        "postscript": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({path}) run\n".encode(),
        "playlist": f"#EXTM3U\n{uri}\n".encode(),
        "magick": f"push graphic-context\nimage over 0,0 0,0 '{uri}'\n".encode(),
        "archive": page.getvalue(),
        "pickle": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
        "npy with an object": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(
            128
        )
        + b"\x80\x04N.",
        "icon": icon.getvalue(),
    }


@pytest.fixture(scope="module")
def watched(
    backbone: Path, photographs: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, dict[str, object]], list[str], Path]:
    folder = tmp_path_factory.mktemp("bodies")
    secret = folder / "secret.jpg"
    secret.write_bytes(photographs[0])
    bodies = _bodies(secret)
    names = []
    for number, body in enumerate(bodies.values()):
        (folder / f"{number}.bin").write_bytes(body)
        names.append(str(folder / f"{number}.bin"))
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(backbone), *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(bodies, said["answers"], strict=True)), said["seen"], secret


def test_no_file_is_opened_and_nobody_asked(watched: tuple[dict[str, dict[str, object]], list[str], Path]) -> None:
    _answers, seen, secret = watched
    assert str(secret) not in " ".join(seen)
    assert [one for one in seen if not one.endswith(_CODE)] == []


def test_all_of_it_is_refused_and_nothing_repeated(
    watched: tuple[dict[str, dict[str, object]], list[str], Path],
) -> None:
    answers, _seen, secret = watched
    for name, answer in answers.items():
        if name == "icon":  # a picture
            continue
        assert set(answer) == {"error"}, name
        assert str(secret) not in str(answer["error"]), name
        assert secret.as_uri() not in str(answer["error"]), name
