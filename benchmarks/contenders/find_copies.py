"""One peer, in the peers' environment: reads a line, looks for copies in a folder, prints one line of JSON; and again.

python find_copies.py {imagededup-phash | imagededup-dhash | cleanvision | fastdup} FOLDER
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

Pairs = set[frozenset[str]]
Find = Callable[[str], Pairs]

for variable in ("DO_NOT_TRACK", "SENTRY_OPT_OUT"):
    os.environ[variable] = "1"


def imagededup(kind: str) -> Find:
    """PHash or DHash, with the library's own defaults, on two processes."""
    from imagededup.methods import DHash, PHash

    method = PHash(verbose=False) if kind == "phash" else DHash(verbose=False)

    def find(folder: str) -> Pairs:
        hashes = method.encode_images(image_dir=folder, num_enc_workers=2)
        found = method.find_duplicates(encoding_map=hashes, num_dist_workers=2)
        return {frozenset((name, other)) for name, others in found.items() for other in others}

    return find


def cleanvision() -> Find:
    """Its two duplicate checks."""
    from cleanvision import Imagelab

    def find(folder: str) -> Pairs:
        lab = Imagelab(data_path=folder)
        lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=2, verbose=False)
        pairs: Pairs = set()
        for kind in ("exact_duplicates", "near_duplicates"):
            for group in lab.info.get(kind, {}).get("sets", ()):
                pairs |= {frozenset(pair) for pair in combinations((Path(path).name for path in group), 2)}
        return pairs

    return find


def fastdup() -> Find:
    """Similar pairs at its default threshold."""
    import fastdup as package

    def find(folder: str) -> Pairs:
        with tempfile.TemporaryDirectory() as work:
            run = package.create(work_dir=work, input_dir=folder)
            run.run(ccthreshold=0.9, num_threads=2, print_summary=False, overwrite=True)
            rows = run.similarity()
        rows = rows[rows["distance"] >= 0.9]
        names = zip(rows["filename_from"], rows["filename_to"], strict=True)
        return {frozenset((Path(a).name, Path(b).name)) for a, b in names if a != b}

    return find


def used() -> float:
    """CPU-seconds of this process and its children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> None:
    peer, folder = sys.argv[1:]
    name, _, kind = peer.partition("-")
    known: dict[str, Callable[[], Find]] = {"cleanvision": cleanvision, "fastdup": fastdup}
    find = imagededup(kind) if name == "imagededup" else known[name]()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the libraries print, from Python and from C++
    print(json.dumps({"ready": peer}), file=answers, flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), used()
        pairs = sorted(sorted(pair) for pair in find(folder) if len(pair) == 2)
        answer = {"seconds": time.perf_counter() - start, "cpu": used() - cpu, "pairs": pairs}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
