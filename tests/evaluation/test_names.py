from __future__ import annotations

import pytest

from dinomill.evaluation.names import told_apart


@pytest.mark.parametrize(
    ("addresses", "names"),
    [
        (("a/net.onnx", "other.onnx"), ["net", "other"]),
        (("a/net.onnx", "b/net.onnx"), ["a-net", "b-net"]),
        (("a/x/net.onnx", "b/x/net.onnx", "/c/y/net.onnx"), ["a-x-net", "b-x-net", "c-y-net"]),
        (("../net.onnx", "b/net.onnx"), ["net", "b-net"]),
        (("a/net.onnx", "a/net.onnx"), ["net-1", "net-2"]),
        (("a/net.onnx", "b/net.onnx", "a-net.onnx"), ["net-1", "net-2", "a-net"]),
        (("models:/mill/3", "models:/other/3"), ["mill-3", "other-3"]),
    ],
)
def test_names_differ_by_as_few_folders_as_it_takes(addresses: tuple[str, ...], names: list[str]) -> None:
    stems = [address.rsplit("/", 1)[-1].removesuffix(".onnx") for address in addresses]
    assert told_apart(stems, addresses) == names
