"""What the page says beside the flow: what was done anew, what was passed over, what nearly left."""

from __future__ import annotations

from collections.abc import Mapping

from dinomill.curation.handles import EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.images.pixels import used_bits

_TAKEN_OVER = "taken_over"


def work_done(
    scan: ScanHandle, embeddings: EmbeddingsHandle, selection: SelectionHandle, *, files: int
) -> list[tuple[str, int, int]]:
    """Each kind of work, how many of ``files`` it was done for anew, and for how many it was known from before.

    A file of known content may have been read all the same, for its hash: under a new name, from another folder.
    """
    read = scan.work.get("read", 0)
    kinds: list[tuple[str, Mapping[str, int], str]] = [
        ("read", scan.work and {"read": read, _TAKEN_OVER: max(files - read, 0)}, "read"),
        ("decoded and measured", scan.work, "decoded"),
        ("embedded", embeddings.work, "embedded"),
        ("compared with all others", selection.compared, "compared"),
    ]
    return [(name, work[key], work.get(_TAKEN_OVER, 0)) for name, work, key in kinds if key in work]


def remarks(scan: ScanHandle, selection: SelectionHandle) -> list[str]:
    """What somebody who looks at the result should know, in sentences."""
    said = []
    if scan.skipped:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in _most(scan.skipped))
        said.append(f"{sum(scan.skipped.values()):,} files beside the images were passed over: {kinds}.")
    if scan.deep and scan.largest is not None:
        said.append(_depth(scan))
    if apart := selection.kept_apart:
        colour, chain = apart.get("colour", 0), apart.get("chain", 0)
        if colour:
            said.append(f"{colour:,} files stay although they agree with another in brightness: their colour differs.")
        if chain:
            said.append(
                f"{chain:,} files stay although a copy of theirs is a copy of another image: they do not agree with "
                "the one that stays themselves."
            )
    if selection.aligned:
        said.append(
            "The images show the same thing at the same place, and all look alike: only closer copies count as such."
        )
    return said


def _depth(scan: ScanHandle) -> str:
    assert scan.largest is not None
    kinds = " and ".join(f"{count:,} of {kind}" for kind, count in scan.deep_kinds.items())
    several = len(scan.deep_kinds) > 1
    found = f"{scan.deep:,} files have more than 8 bits{f', {kinds}' if several else ''}"
    found += f"; their largest value is {scan.largest:,.6g}"
    if scan.value_range is not None:
        return f"{found}. {scan.value_range[0]:,.6g} is shown as black, {scan.value_range[1]:,.6g} as white."
    if several:
        return f"{found}. Each kind is seen by its own range; values on one scale need one value_range."
    if set(scan.deep_kinds) == {"16-bit integers"} and (bits := used_bits(scan.largest)) is not None:
        return (
            f"{found}, which is {bits} bits: they are seen nearly black. "
            f"Set curation.scan.preflight.value_range to [0, {2**bits - 1}]."
        )
    return f"{found}."


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:6]
