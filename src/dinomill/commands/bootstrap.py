"""`dinomill bootstrap`: curate again with the features of one's own registered model.

The first curation embeds with a network that was trained on other images. Once a backbone was trained on the curated
images and registered, it may see more in them: this verb makes it curation's embedder, and curates again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from dinomill import tracking
from dinomill.commands.ahead import require_fit_for_dvc
from dinomill.commands.dvc_sync import dvc_file, synchronise
from dinomill.commands.project import read_globals
from dinomill.errors import ConfigError, DinomillError, InputError, MachineError
from dinomill.handles import DatasetHandle, RegistrationHandle
from dinomill.layers import Layers, env_option, make_run
from dinomill.storage.atomic import write_text

PARAMETERS = "curation/parameters.yml"
_NEW = """\
# Written by `dinomill bootstrap`: the features that curation compares images with.

curation:
  embedding:
    embedder:
      network: {address}
"""

# The one line `network: …` below `embedder:`; what stands behind it stays.
_NETWORK = re.compile(r"(\n(?P<indent> +)embedder:[^\n]*\n(?:(?P=indent) +[^\n]*\n)*?(?P=indent) +network: *)([^\s#]+)")


def bootstrap(root: Path, *, model: str | None = None, env: str | None = None) -> None:
    """Make a registered model curation's embedder, curate again, and say what that changed.

    The model is written down as ``models:/name/version`` in the parameter file, where git and DVC see it: an alias
    would move to the next model without either of them noticing.

    Args:
        root: The project's folder, which is the working directory.
        model: ``models:/name@alias`` or ``models:/name/version``; None runs what is stale up to the registration stage
            and takes what that registered.
        env: The Kedro environment that the stages run in.

    Raises:
        InputError: When there is no such model, or the one just registered did not pass its gate.
        ConfigError: When the parameter file does not have the setting.
        DinomillError: When a stage fails; the parameter file is then as it was.
    """
    settings = read_globals(env)
    places = {name: Path(place) for name, place in settings["folders"].items()}
    require_fit_for_dvc(env)
    synchronise(root, env=env, quiet=True)
    if model is None:
        _reproduce("registration", env)
        address = _registered(RegistrationHandle.load(places["registration"]), env)
    else:
        address = _pinned(model, os.environ.get("MLFLOW_TRACKING_URI") or settings["tracking_uri"])
    before = _kept(places["curated"])
    path = _parameter_file(env)
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    print(f"{path}: curation.embedding.embedder.network is now {address}.", flush=True)
    write_text(path, _NEW.format(address=address) if text is None else _with_network(text, address, path, env))
    try:
        synchronise(root, env=env, quiet=True)
        _reproduce("curation", env)
    except BaseException:
        if text is None:
            path.unlink()
        else:
            write_text(path, text)
        synchronise(root, env=env, quiet=True)
        raise
    _show(before, _kept(places["curated"]), address, env)


def _registered(handle: RegistrationHandle, env: str | None = None) -> str:
    if not handle.passed_gate:
        raise InputError(
            f"Version {handle.version} of {handle.model} did not pass its gate: its features may be worse.",
            found="; ".join(handle.gate),
            action=f"train longer, or use it all the same: `dinomill bootstrap --model models:/{handle.model}/"
            f"{handle.version}{env_option(env)}`",
        )
    return f"models:/{handle.model}/{handle.version}"


def _pinned(model: str, store: str) -> str:
    """The address by number of a model that is there."""
    tracking.download(model, store)
    name, _, alias = model.removeprefix("models:/").partition("@")
    version = tracking.version_by_alias(tracking.resolve_uri(store), name, alias) if alias else None
    return version.uri if version else model


def _parameter_file(env: str | None) -> Path:
    """The file to write the network to: the one that sets it, or for an environment a new one over the base's."""
    layers = Layers(env)
    found = Path(layers.origin("curation.embedding.embedder.network"))
    if layers.env is not None and found.is_relative_to(layers.conf / "base"):
        return layers.conf / layers.env / "curation" / "parameters_embedder.yml"
    return found if found.is_file() else layers.conf / "base" / PARAMETERS


def _with_network(text: str, address: str, path: Path, env: str | None = None) -> str:
    changed, count = _NETWORK.subn(lambda found: found[1] + address, text, count=1)
    if not count:
        raise ConfigError(
            f"{path} does not say which network curation embeds with.",
            expected="a line `network: …` below `embedder:`",
            action=f"set curation.embedding.embedder.network to {address} by hand, then make the dataset anew: "
            f"`{make_run(env)}`",
        )
    return changed


def _reproduce(stage: str, env: str | None) -> None:
    """Run a stage and what it waits for, where they are stale; they say themselves what goes wrong."""
    target = f"{dvc_file(env)}:{stage}" if dvc_file(env).parent != Path() else stage
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")])}
    try:
        code = subprocess.run([programs / "dvc", "repro", target], env=environment, check=False).returncode
    except FileNotFoundError:
        raise MachineError("There is no dvc beside this Python.", action="run `make setup`") from None
    if code:
        raise DinomillError(
            f"`dvc repro {target}` failed; its own message stands above.",
            action="when the cause is removed, run the same command again: what is finished is kept",
        )


def _kept(folder: Path) -> tuple[DatasetHandle, set[str]] | None:
    """The present dataset and the hashes of its images, or None when there is none yet."""
    import pyarrow.parquet as pq

    try:
        handle = DatasetHandle.load(folder)
    except InputError:
        return None
    rows = pq.read_table(handle.manifest, columns=["sha256", "fate"], filters=[("fate", "=", "kept")])
    return handle, set(rows["sha256"].to_pylist())


def _show(
    before: tuple[DatasetHandle, set[str]] | None,
    after: tuple[DatasetHandle, set[str]] | None,
    address: str,
    env: str | None,
) -> None:
    """A table of the fates before and after, and how much of the two datasets is the same."""
    from rich.table import Table

    from dinomill.printing import open_console

    assert after is not None, "the stage has just written it"
    old = before[0].fates if before else {}
    table = Table("fate", before[0].embedder if before else "before", address, box=None, pad_edge=False)
    for fate in sorted({*old, *after[0].fates}):
        table.add_row(fate.replace("_", " "), f"{old.get(fate, 0):,}", f"{after[0].fates.get(fate, 0):,}")
    console = open_console()
    console.print(table)
    if before:
        console.print(
            f"{len(after[1] - before[1]):,} images are new in the dataset, {len(before[1] - after[1]):,} left it, "
            f"{len(before[1] & after[1]):,} stayed."
        )
    run = make_run(env)
    console.print(f"Next: `{run}` trains on it. To take it back: git checkout the parameter file, then `{run}`.")
