"""What a name means: a version, an archive, an export, an image, a hash of anything, a run, a commit, a request."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from dinomill.errors import InputError
from dinomill.layers import env_option
from dinomill.lineage.archives import add_archive, find_request
from dinomill.lineage.exported import find_exported, of_unknown_weights
from dinomill.lineage.gather import Gathered, not_in_any
from dinomill.lineage.images import Wanted
from dinomill.lineage.thread import Kind, Thing, Thread
from dinomill.storage.hashing import hash_file
from dinomill.storage.typed import expanded, is_there

_VERSION = re.compile(r"(?:models:/+)?(?P<name>[^/@:]+)(?:@(?P<alias>[^/@\s]+)|/(?P<version>\d+))")
_HEX = re.compile(r"(?P<hash>[0-9a-f]{6,64})(?:\.dir|\+)?", re.I)
_REQUEST = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_NAMED_REQUEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}")  # ids that clients gave their requests themselves
_MOST = 10  # candidates that are named


def find(gathered: Gathered, text: str, here: Path, env: str | None = None) -> list[Thing]:
    """The things that a name means; mostly one.

    Args:
        gathered: The project's thread; what the name leads to (images, a request, an archive elsewhere) is added.
        text: What was typed.
        here: Where it was typed: relative paths start there, or at the project's root.
        env: The environment whose model a bare number means a version of.

    Raises:
        InputError: When it means nothing, or several different things.
    """
    text = text.strip()
    for attempt in (_version, _archive, _exported, _request, _hash, _image, _named_request):
        if found := attempt(gathered, text, here, env):
            return found
    missing = gathered.thread.missing
    unknown = next(
        (said for path in _places(text, here) if is_there(path) and (said := of_unknown_weights(path))), None
    )
    raise InputError(
        f"{text!r} names nothing that is known here.",
        found=(unknown or not_in_any(gathered.results.manifests))
        + ("".join(f"\n    not at hand: {one.what}: {one.command}" for one in missing) if missing else ""),
        expected="a registered version (models:/name@alias, name/3, 3, an alias), an archive (.mar), an exported file, "
        "an image (path or sha256), the hash of a dataset, of weights or of DVC, the id of an MLflow run or of a "
        "request, or a commit",
        action=f"see what there is: `dinomill lineage{env_option(env)}`",
    )


def _version(gathered: Gathered, text: str, here: Path, env: str | None) -> list[Thing]:
    thread = gathered.thread
    model = next((place.model for place in gathered.places if place.env == env), "")
    if text.isdecimal() and len(text) < 6:
        text = f"{model}/{text}"
    elif _is_alias(thread, model, text) and not any(is_there(path) for path in _places(text, here)):
        text = f"{model}@{text.removeprefix('@')}"
    match = _VERSION.fullmatch(text)
    if match is None or (is_there(text) and not text.startswith("models:")):
        return []
    known = [one for one in thread.of_kind(Kind.VERSION) if one.id.rpartition("/")[0] == match["name"]]
    for one in known:
        aliases = one.facts.get("aliases", "").split(", ")
        if one.id == f"{match['name']}/{match['version']}" or (match["alias"] and match["alias"] in aliases):
            return [one]
    if text.startswith("models:") or match["alias"] or known:
        shown = [_shown(one) for one in thread.of_kind(Kind.VERSION)]
        places = [place for place in gathered.places if place.model == match["name"]]
        registered = any("registered" in one.facts for one in known)
        raise InputError(
            f"There is no registered version {text}.",
            found=", ".join(shown[:_MOST]) or "no version at all",
            action=gathered.results.brings_version(places[0]) if places and not registered else "name one of them",
        )
    return []


def _is_alias(thread: Thread, model: str, text: str) -> bool:
    """Whether it is what a version of a model is called, as `dinomill promote` and `reproduce` take it."""
    own = [one for one in thread.of_kind(Kind.VERSION) if one.id.rpartition("/")[0] == model]
    return any(text.removeprefix("@") in one.facts.get("aliases", "").split(", ") for one in own)


def _shown(version: Thing) -> str:
    aliases = version.facts.get("aliases")
    return version.title + (f" ({aliases})" if aliases else "")


def _archive(gathered: Gathered, text: str, here: Path, env: str | None) -> list[Thing]:
    del env
    if not text.endswith(".mar"):
        return []
    for path in _places(text, here):
        if is_there(path) and path.is_file():
            return [add_archive(gathered.thread, path)]
    raise InputError(
        f"There is no archive {text}.", action="correct the path, or `dvc checkout` and `dvc pull` bring it"
    )


def _exported(gathered: Gathered, text: str, here: Path, env: str | None) -> list[Thing]:
    del env
    path = next((path for path in _places(text, here) if is_there(path)), None)
    return [] if path is None else find_exported(gathered.thread, path)


def _places(text: str, here: Path) -> Iterator[Path]:
    """Where a path may mean: below where it was typed, then below the project; as short as it can be said."""
    for base in (here, Path.cwd()):
        path = Path(os.path.normpath(base / expanded(text)))
        yield path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _request(gathered: Gathered, text: str, here: Path, env: str | None) -> list[Thing]:
    if not _REQUEST.fullmatch(text):
        return []
    for written in dict.fromkeys((text, text.lower())):
        if found := _named_request(gathered, written, here, env):
            return found
    folders = ", ".join(path.as_posix() for path in gathered.servers)
    raise InputError(
        f"No log at hand knows the request {text}.",
        found=f"logs of {folders}"
        if folders
        else "no server that ran in this project (`dinomill serve`, `dinomill package --target litserve`)",
        expected="the id that the answer carried in its header x-request-id, in logs/requests.log of a server",
        action="ask where that server ran: the line of its log says under `archive` what answered, which `dinomill "
        f"lineage SHA256{env_option(env)}` knows; logs of more than 48 MB are overwritten, the oldest first",
    )


def _named_request(gathered: Gathered, text: str, here: Path, env: str | None) -> list[Thing]:
    del here, env
    if not _NAMED_REQUEST.fullmatch(text):
        return []
    thread = gathered.thread
    for run, time, model, version in find_request(gathered.servers, text):
        request = thread.add(Kind.REQUEST, text, text, answered=time, by=f"{model}, version {version}")
        endpoint = thread.things[f"{Kind.ENDPOINT}:{run.as_posix()}"]
        archives = [above for above, _ in thread.above(endpoint)]
        served = thread.add(Kind.VERSION, f"{model}/{version}", f"models:/{model}/{version}")
        made = {above.id for archive in archives for above, _ in thread.above(archive)}
        if made and served.id not in made:
            # The server was started again with another archive since.
            request.facts["beware"] = f"{run} serves another archive now; this one was answered by version {version}"
            thread.link(served, request, "answered it")
        else:
            thread.link(endpoint, request, "answered it")
            if not made:
                thread.link(served, endpoint, "served by it")
        return [request]
    return []


def _hash(gathered: Gathered, text: str, here: Path, env: str | None) -> list[Thing]:
    del env
    match = _HEX.fullmatch(text)
    if match is None or any(is_there(path) for path in _places(text, here)):
        return []
    wanted = match["hash"].lower()
    things = [one for one in gathered.thread.things.values() if _has(one, wanted)]
    exact = [one for one in things if one.id == wanted]
    commits = [one for one in things if not one.id.startswith(wanted)]
    # Of a commit or a hash of DVC's there may be several results: all of them are meant.
    named = exact or [one for one in things if one not in commits]
    if not named and not commits:
        named = gathered.images(Wanted(hashes=[wanted]) if len(wanted) == 64 else Wanted(prefix=wanted))
    if len(named) > 1:
        shown = [f"{one.kind} {one.title} ({one.id[:16]}…)" for one in named]
        more = f", and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
        raise InputError(
            f"{text} is the beginning of several hashes.",
            found=", ".join(shown[:_MOST]) + more,
            action="type more of its digits",
        )
    return named or commits


def _has(thing: Thing, wanted: str) -> bool:
    commits = (re.split(r"[ ,+]", thing.facts.get(name, ""))[0] for name in ("commit", "registered at"))
    facts = (thing.facts.get("dvc", ""), *commits)
    if thing.kind in (Kind.IMAGE, Kind.VERSION, Kind.ENDPOINT):
        return len(wanted) >= 7 and any(fact and _same(fact, wanted) for fact in facts)
    return thing.id.startswith(wanted) or (len(wanted) >= 7 and any(fact and _same(fact, wanted) for fact in facts))


def _same(fact: str, wanted: str) -> bool:
    """Whether one is the beginning of the other: of commits, as they are shown, only the first digits are kept."""
    fact = fact.removesuffix(".dir")
    return fact.startswith(wanted) or (len(fact) >= 7 and wanted.startswith(fact))


def _image(gathered: Gathered, text: str, here: Path, env: str | None) -> list[Thing]:
    del env
    return images_at(gathered, text, here)


def images_at(gathered: Gathered, text: str, here: Path) -> list[Thing]:
    """The images that a path means: by what the file holds, where there is one, and by where it lay.

    What is no file here may be the path of an image below any source; a file that is here means itself.
    """
    file = next((path for path in _places(text, here) if is_there(path) and path.is_file()), None)
    paths = {text, *(path.as_posix() for path in _places(text, here))} if file is None else {file.as_posix()}
    digest = None if file is None else hash_file(file)
    if (found := gathered.images(Wanted(paths=paths))) and digest:
        same = [one for one in found if digest == one.id or not re.fullmatch(r"[0-9a-f]{64}", one.id)]
        for one in found:
            if one not in same:
                one.facts["beware"] = f"the file at {file} holds something else now ({digest[:12]})"
    if digest and not any(one.id == digest for one in found):
        found += gathered.images(Wanted(hashes=[digest]))
    if file is not None and digest is not None and not found and _is_picture(file):
        said = not_in_any(gathered.results.manifests)
        found = [gathered.thread.add(Kind.IMAGE, digest, file.as_posix(), sha256=digest, known=said)]
    return found


def _is_picture(file: Path) -> bool:
    """Whether a file that no dataset knows may be an image: only then is it said that no dataset has it."""
    from dinomill.images.decode import probe_image

    try:
        probe_image(file.read_bytes())
    except Exception:  # whatever it is, it is none
        return False
    return True
