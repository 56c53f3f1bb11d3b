from __future__ import annotations

import base64
import http.client
import json
import resource
import signal
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve import client
from tests.serving.gateway.served import Served


def test_it_embeds_as_the_model_does(served: Served, backbone: Path, photographs: list[bytes]) -> None:
    expected = Predictor(backbone)(photographs)
    assert np.allclose(client.embed(served.port, "mill", photographs[:1], token=served.token), expected[:1], atol=1e-4)
    assert np.allclose(client.embed(served.port, "mill", photographs[:4], token=served.token), expected[:4], atol=1e-4)
    assert served.post(photographs[0], "/predictions/mill/3").status == 200


@pytest.mark.parametrize("body", [b"garbage", b"\xff\xd8\xff\xe0 cut", b"", b'{"a": 1}', b"\x1f\x8b\x08\x00gzip"])
def test_what_is_no_image_is_refused_with_a_message(served: Served, body: bytes) -> None:
    answer = served.post(body)
    assert answer.status == 400
    assert answer.body["error"]
    assert "Traceback" not in answer.message()


def test_more_images_than_allowed_are_refused(served: Served) -> None:
    request = client.json_instances([b"x"] * 5)
    answer = served.post(request["body"], content_type=request["content_type"])
    assert answer.status == 400
    assert "at most 4" in answer.message()


def test_a_token_is_needed_and_its_absence_costs_no_memory(served: Served, photographs: list[bytes]) -> None:
    for token in ("", "wrong", "\u00fc", served.keys()["admin"]["key"]):
        answer = served.post(photographs[0], token=token)
        assert answer.status == 401
        assert "Token" in answer.message()
    assert served.post(b"0" * (3 << 20), token="wrong").status == 401
    for path in ("/predictions/mill", "/v1/embeddings", "/v1/token"):
        assert client.request("POST", served.port, path, body=b"x").status == 401
    assert served.get("/v1/models").status == 401


def test_large_requests_are_refused(served: Served) -> None:
    answer = served.post(b"0" * (2 << 20))
    assert answer.status == 413
    assert "larger than 1 MB" in answer.message()


def test_a_body_without_a_length_is_bounded_too(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as link:
        link.sendall(_head(served, "Transfer-Encoding: chunked"))
        for _ in range(30):
            link.sendall(b"10000\r\n" + b"0" * 0x10000 + b"\r\n")
        link.sendall(b"0\r\n\r\n")
        assert b" 413 " in _read(link)


def test_nested_json_harms_no_other_request(served: Served, photographs: list[bytes]) -> None:
    deep = b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bodies = [(photographs[0], None), (deep, "application/json")] * 8
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: served.post(one[0], content_type=one[1]), bodies))
    assert [answer.status for answer in answers] == [200, 400] * 8
    assert all("nested too deeply" in answer.message() for answer in answers[1::2])
    assert served.post(deep, "/v1/embeddings").status == 400


def test_a_form_is_refused_and_not_written_down(served: Served, photographs: list[bytes]) -> None:
    for form in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        for body in (b"my=secret-one", b"secret-two%zz", photographs[0]):
            answer = served.post(body, content_type=form)
            assert answer.status == 400
            assert "sent as a form" in answer.message()
            assert "secret" not in answer.message()
    for file in served.run.rglob("*.log"):
        assert "secret-" not in file.read_text(errors="replace")
    assert served.post(photographs[0]).status == 200


def test_compressed_bodies_are_refused(served: Served, photographs: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as link:
        link.sendall(_head(served, f"Content-Encoding: gzip\r\nContent-Length: {len(photographs[0])}") + photographs[0])
        answer = _read(link)
    assert b" 400 " in answer
    assert b"compressed" in answer


def test_json_may_begin_with_a_byte_order_mark(served: Served, photographs: list[bytes]) -> None:
    mark, many = b"\xef\xbb\xbf", client.json_instances(photographs[:2])["body"]
    answer = served.post(mark + many)
    assert (answer.status, len(answer.body["embeddings"])) == (200, 2)
    text = json.dumps({"input": base64.b64encode(photographs[0]).decode()}).encode()
    assert served.post(mark + text, "/v1/embeddings").status == 200
    # A request's line is written once its answer was sent: the first one's is there when the second is answered.
    assert 2 in [row["images"] for row in served.log()]


def test_lying_content_types_do_not_matter(served: Served, photographs: list[bytes]) -> None:
    for kind in ("application/json", "text/html", "image/gif; charset=\u00fc", "x"):
        assert served.post(photographs[0], content_type=kind).status == 200


def test_slow_clients_are_cut_off(served: Served, photographs: list[bytes]) -> None:
    """Silent ones, those that drip headers, and those that drip a body; nobody else notices."""
    links = [socket.create_connection(("127.0.0.1", served.port), timeout=10) for _ in range(3)]
    start = time.monotonic()
    links[1].sendall(b"POST /predictions/mill HTTP/1.1\r\nX-A: ")
    links[2].sendall(_head(served, "Content-Length: 1000") + b"only this")
    assert served.post(photographs[0]).status == 200
    assert _read(links[0]) == b""
    assert _read(links[1]) == b""
    assert b" 408 " in _read(links[2])
    assert time.monotonic() - start < 6
    for link in links:
        link.close()


def test_endless_headers_are_cut_off(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as link:
        link.sendall(b"GET / HTTP/1.1\r\n")
        answer = b""
        for _ in range(100):
            try:
                link.sendall(b"X-A: " + b"a" * 1000 + b"\r\n")
            except OSError:
                break
        try:
            answer = _read(link)
        except ConnectionResetError:
            return
    assert b" 431 " in answer or answer == b""


def test_a_client_that_does_not_read_is_cut_off(served: Served, photographs: list[bytes]) -> None:
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        link.connect(("127.0.0.1", served.port))
        request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
        link.settimeout(8)
        start = time.monotonic()
        with pytest.raises(OSError):  # reset, or a broken pipe
            while time.monotonic() - start < 20:
                link.sendall(request)
        assert time.monotonic() - start < 10
    assert served.post(photographs[0]).status == 200


def test_dropped_clients_harm_nobody(served: Served, photographs: list[bytes]) -> None:
    for cut in (20, 200, 5000):
        with socket.create_connection(("127.0.0.1", served.port)) as link:
            link.sendall((_head(served, f"Content-Length: {len(photographs[0])}") + photographs[0])[:cut])
    with socket.create_connection(("127.0.0.1", served.port)) as link:  # all sent, nobody waits
        link.sendall(_head(served, f"Content-Length: {len(photographs[0])}") + photographs[0])
    assert served.post(photographs[0]).status == 200
    assert served.get("/readyz").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/predictions/other",
        "/predictions/mill/9",
        "/predictions/..%2f..%2fetc%2fpasswd",
        "/../../etc/passwd",
        "/predictions/",
        "//predictions/mill",
        "/models",
        "/page.html",
        "/%00",
    ],
)
def test_what_is_not_there_is_not_found(served: Served, path: str) -> None:
    for method in ("GET", "POST"):
        answer = client.request(method, served.port, path, token=served.token, body=b"x" if method == "POST" else None)
        assert answer.status in (404, 405)
        assert answer.body["error"]


def test_garbage_instead_of_http_is_refused(served: Served) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", served.port)) as link:
            link.sendall(garbage + b"\r\n\r\n")
            answer = _read(link)
        assert b" 400 " in answer
        assert b"Traceback" not in answer


def test_what_is_no_request_is_answered_counted_and_written_down_as_every_other(served: Served) -> None:
    def counted(status: int) -> int:
        rows = str(served.get("/metrics").body).splitlines()
        return sum(
            int(row.split()[1]) for row in rows if row.startswith(f'dinomill_requests_total{{status="{status}"}}')
        )

    large = b"GET / HTTP/1.1\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n"
    broken = _head(served, "Transfer-Encoding: chunked") + b"zz\r\n"
    for sent, status in ((b"GET\r\n\r\n", 400), (large, 431), (broken, 400)):
        before = counted(status)
        with socket.create_connection(("127.0.0.1", served.port)) as link:
            link.sendall(sent)
            head, _, body = _read(link).decode().partition("\r\n\r\n")
        assert f" {status} " in head.splitlines()[0]
        assert json.loads(body)["error"]
        assert "application/json" in head
        number = head.lower().split("x-request-id: ")[1].split("\r\n")[0]
        assert counted(status) == before + 1
        (row,) = (row for row in served.log() if row["id"] == number)
        assert row["status"] == status


def test_a_strange_host_is_answered_as_every_other(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as link:
        link.sendall(b"GET /healthz HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n")
        answer = _read(link)
    assert b"HTTP/1.1 200 OK" in answer
    assert b"x-request-id" in answer


def test_who_has_sent_all_and_says_so_is_answered(served: Served, photographs: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as link:
        link.sendall(_head(served, f"Content-Length: {len(photographs[0])}") + photographs[0])
        link.shutdown(socket.SHUT_WR)
        assert b'"embedding"' in _read(link)


def test_request_ids_are_in_answers_and_in_the_log(served: Served, photographs: list[bytes]) -> None:
    sent = {"mine-1:a.B_2": True, "x" * 129: False, 'a" b': False, "": False}
    for given, kept in sent.items():
        with socket.create_connection(("127.0.0.1", served.port)) as link:
            head = _head(served, f"X-Request-Id: {given}\r\nContent-Length: {len(photographs[0])}")
            link.sendall(head + photographs[0])
            answer = _read(link).decode(errors="replace").lower()
        number = answer.split("x-request-id: ")[1].split("\r\n")[0]
        assert (number == given.lower()) is kept
        row = next(row for row in served.log() if str(row["id"]).lower() == number)
        assert (row["status"], row["version"], row["images"], row["bytes"]) == (200, "3", 1, len(photographs[0]))
        assert len(str(row["archive"])) == 64


def test_the_probes_need_no_token(served: Served) -> None:
    assert served.get("/healthz").body == {"alive": True}
    ready = served.get("/readyz")
    assert ready.status == 200
    assert ready.body["workers"] == {"ready": 1, "wanted": 1}
    metrics = served.get("/metrics").body
    assert "ts_inference_requests_total" in metrics
    assert 'dinomill_model_info{model="mill",version="3"} 1' in metrics
    assert {"dinomill_workers_ready 1", "dinomill_workers_wanted 1"} <= set(metrics.splitlines())


def test_the_server_behind_and_the_gateway_listen_on_loopback_only_and_keep_secrets(served: Served) -> None:
    family = [psutil.Process(served.process.pid)]
    family += family[0].children(recursive=True)
    listening = [c.laddr for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert served.port in {address.port for address in listening}
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    for file in (served.run / "tokens.json", served.run / "open.html", *served.run.glob("*/key_file.json")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.run.stat().st_mode) == 0o700
    words = "".join("".join(process.cmdline()) for process in family)
    assert served.token not in words
    written = "".join(file.read_text(errors="replace") for file in served.run.rglob("*.log"))
    assert served.token not in written


def test_tokens_are_renewed_with_an_overlap(served: Served, photographs: list[bytes]) -> None:
    old = served.token
    answer = client.request("POST", served.port, "/v1/token", token=served.keys()["admin"]["key"])
    assert answer.status == 200
    assert answer.body["token"] == served.token != old
    assert served.token in (served.run / "open.html").read_text()
    assert served.post(photographs[0], token=old).status == 200
    assert served.post(photographs[0]).status == 200


def test_a_token_that_cannot_be_written_down_is_not_taken(served: Served, photographs: list[bytes]) -> None:
    """It was, so that nobody knew the only valid one. The limit on files is as a full disk is to the gateway."""
    old, pid = served.token, served.process.pid
    opener = (served.run / "open.html").read_text()
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
    try:
        for _ in range(2):  # twice would end the old one
            answer = client.request("POST", served.port, "/v1/token", token=served.keys()["admin"]["key"])
            assert answer.status == 507
            assert "stays valid" in answer.message() and "File too large" in answer.message()
        served.process.send_signal(signal.SIGUSR1)
        served.wait_said("was not renewed, and the one before it stays valid", 10)
        assert served.post(photographs[0], token=old).status == 200
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    assert served.token == old
    assert (served.run / "open.html").read_text() == opener
    served.process.send_signal(signal.SIGUSR1)
    served.wait_said("token was renewed", 10)
    assert served.token != old
    assert served.token in (served.run / "open.html").read_text()


def test_what_is_wanted_has_to_be_offered_and_no_word_of_it_comes_back(
    served: Served, photographs: list[bytes]
) -> None:
    """An answer with a client's own words in it was taken for TorchServe's, and made the gateway renew its tokens."""

    def renewals() -> int:
        return sum(file.read_text().count("/token?type=") for file in served.run.glob("server-*/logs/access.log"))

    before, word = renewals(), "InvalidKeyException"
    for want in (word, f"cls,{word}", "binary", ",", f"cls,{'cls,' * 1000}cls"):
        link = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        headers = {"Authorization": f"Bearer {served.token}", "X-Want": want}
        link.request("POST", "/predictions/mill", photographs[0], headers)
        answer = link.getresponse()
        said = answer.read().decode()
        assert answer.status == 400, want
        assert "not offered" in said and word not in said
        link.close()
    instances = {"instances": [{"b64": base64.b64encode(photographs[0]).decode()}]}
    for told in ({"want": word}, {"want": [word]}, {word: 1}):
        answer = served.post(json.dumps(instances | told).encode())
        assert word not in str(answer.body)
    time.sleep(1)  # the log is written behind the requests
    assert renewals() == before


def test_embeddings_in_the_shape_of_text_clients(served: Served, backbone: Path, photographs: list[bytes]) -> None:
    expected = Predictor(backbone)(photographs[:3])
    plain = [base64.b64encode(image).decode() for image in photographs[:2]]
    given = [*plain, "data:image/png;base64," + base64.b64encode(photographs[2]).decode()]
    for encoding in ("float", "base64"):
        body = json.dumps({"model": "mill", "input": given, "encoding_format": encoding}).encode()
        answer = served.post(body, "/v1/embeddings", content_type="application/json").body
        assert answer["object"] == "list"
        assert answer["model"] == "mill"
        assert answer["usage"]["images"] == 3
        assert [row["index"] for row in answer["data"]] == [0, 1, 2]
        rows = [row["embedding"] for row in answer["data"]]
        if encoding == "base64":
            rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
        assert np.allclose(rows, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "JSON"),
        (b"[]", "not a JSON object"),
        (b'{"input": []}', "no input"),
        (b'{"input": [1]}', "Input 0 is not a text"),
        (b'{"input": "http://127.0.0.1/a.jpg"}', "not fetched"),
        (b'{"input": "file:///etc/passwd"}', "not fetched"),
        (b'{"input": "YWJj", "model": "gpt"}', "no such model"),
        (b'{"input": "YWJj", "dimensions": 7}', "shortened"),
        (b'{"input": "YWJj", "encoding_format": "hex"}', "encoding_format"),
        (b'{"input": ["a","a","a","a","a"]}', "at most 4"),
        (b'{"input": "YWJj", "inputs": 7}', "inputs"),
        (b'{"input": "?"}', "Instance 0"),
        (b'{"input": [' + b"0," * 1000 + b"0]}", "more values"),
    ],
)
def test_embeddings_that_are_refused_say_why(served: Served, body: bytes, reason: str) -> None:
    answer = served.post(body, "/v1/embeddings")
    assert answer.status == 400
    assert reason in answer.body["error"]["message"]
    assert answer.body["error"]["type"] == "invalid_request_error"


def _head(served: Served, headers: str) -> bytes:
    return (
        f"POST /predictions/mill HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        f"Authorization: Bearer {served.token}\r\n{headers}\r\n\r\n"
    ).encode()


def _read(link: socket.socket) -> bytes:
    link.settimeout(10)
    answer = b""
    try:
        while part := link.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer
