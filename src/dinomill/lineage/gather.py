"""All that is known of a project, put together: handles of now and before, MLflow, archives, servers, images."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dinomill.errors import InputError
from dinomill.images.manifest import Fate
from dinomill.images.withdrawn import Withdrawal, WithdrawnList
from dinomill.lineage.archives import add_endpoints
from dinomill.lineage.images import Row, Wanted, image_key, rows_of, said_of
from dinomill.lineage.labelled import Labelled
from dinomill.lineage.places import FOLDERS, everywhere, places
from dinomill.lineage.recorded import add_recorded
from dinomill.lineage.results import Results
from dinomill.lineage.thread import Kind, Thing, Thread
from dinomill.tracking.dvc_history import History

_MOST = 3


class Gathered:
    """A project's thread.

    Args:
        root: The project's folder, which is the working directory.
        env: The environment that was named.

    Raises:
        ConfigError: When its configuration cannot be read.
    """

    def __init__(self, root: Path, env: str | None = None) -> None:
        self.places = places(root, env)
        self.asked = next((place for place in self.places if place.env == env), self.places[0])
        self.labelled = Labelled(self.places)
        self.thread = Thread()
        watched = [place for name in FOLDERS[:5] for place in everywhere(self.places, name)]
        self.history = History(root, watched)
        self.results = Results(self.thread, self.places, self.history)
        self.store_asked = add_recorded(self.thread, self.places, self.results.brings_version)
        self._versions_by_their_handle()
        self.servers = add_endpoints(self.thread, self.places)
        _teach_in_runs(self.thread)
        self.thread.shorten()
        self._say_what_is_missing()

    def withdrawn(self) -> WithdrawnList:
        """All lists of withdrawn images together; a list that cannot be read is said to be missing."""
        rows: list[Withdrawal] = []
        for path in {place.withdrawn for place in self.places if place.withdrawn}:
            try:
                rows += WithdrawnList.read(path).rows
            except InputError as error:
                self.thread.lack(f"which images are withdrawn: {error.problem}", error.action or "")
        return WithdrawnList(rows)

    def images(self, wanted: Wanted) -> list[Thing]:
        """Add the images that are wanted, with every dataset at hand that knows them."""
        by_image: dict[str, dict[str, list[Row]]] = {}
        for digest, manifest in self.results.manifests.items():
            try:
                found = rows_of(manifest, wanted, self.results.sources.get(digest, ()))
            except InputError as error:
                self.thread.lack(f"{error.problem} {error.found or ''}", error.action or "")
                continue
            for row in found:
                key = image_key(row, wanted.paths)
                by_image.setdefault(key, {}).setdefault(digest, []).append(row)
        listed = {row.key: row for row in self.withdrawn().rows}
        things: list[Thing] = []
        for key, datasets in by_image.items():
            thing = self._image(key, datasets)
            if (out := listed.get(key)) is not None:
                thing.facts["withdrawn"] = f"on {out.date}: {out.because}"
            things.append(thing)
        return things + self._labelled(wanted, things)

    def _labelled(self, wanted: Wanted, known: list[Thing]) -> list[Thing]:
        """The labelled images among those that are wanted which no dataset has."""
        things = [one for one in self.labelled.add(self.thread, wanted) if one not in known]
        for one in things:
            one.facts.setdefault("known", not_in_any(self.results.manifests))
        return things

    def _image(self, key: str, datasets: dict[str, list[Row]]) -> Thing:
        row = next(iter(datasets.values()))[0]
        whole = row["tile_of"] if key != row["sha256"] and row["tile_of"] else row["path"]
        size = f"{row['width']}×{row['height']}" if row["width"] and whole == row["path"] else ""
        thing = self.thread.add(
            Kind.IMAGE,
            key,
            f"{row['source']}/{whole}",
            sha256=row["sha256"] if whole == row["path"] else None,
            file=" ".join(filter(None, (row["format"], size, f"{row['bytes']:,} bytes" if row["bytes"] else ""))),
        )
        for digest, rows in datasets.items():
            dataset = self.thread.things[f"{Kind.DATASET}:{digest}"]
            if any(one["fate"] == Fate.KEPT.value for one in rows):
                self.thread.link(thing, dataset, said_of(rows))
            else:
                thing.facts[f"dataset {digest[:12]}"] = said_of(rows)
        return thing

    def _versions_by_their_handle(self) -> None:
        """What registration said of a version counts where its registry does not know it: in a clone."""
        for key, aliases in self.results.said_aliases.items():
            thing = self.thread.things[key]
            if "registered" in thing.facts:
                continue
            thing.facts |= {"aliases": aliases} if aliases else {}
            thing.facts["registered"] = "not in the registry here: this is what its handle says"
            model = thing.id.rpartition("/")[0]
            if self.store_asked:
                place = next((one for one in self.places if one.model == model), self.places[0])
                self.thread.lack(
                    f"the registry here has no {thing.title}", self.results.brings_version(place), about=(key,)
                )

    def _say_what_is_missing(self) -> None:
        thread = self.thread
        if not self.history.in_git:
            thread.lack(
                "earlier versions are not known: this project is not in git", "git init && git add -A && git commit"
            )
        elif self.history.trouble:
            thread.lack(
                f"earlier versions are not known: git says: {self.history.trouble}", "git log   (says it in full)"
            )
        if not thread.of_kind(Kind.DATASET):
            thread.lack(
                "no dataset is at hand",
                f"{self.asked.run}   (or `git checkout` of a commit with dvc.lock, and `dvc pull`)",
            )
        unread = [one for one in thread.of_kind(Kind.DATASET) if one.id not in self.results.manifests]
        if len(unread) > _MOST:  # of many, which nobody reads one by one, the newest are named
            titles = ", ".join(one.title for one in unread[-_MOST:])
            thread.lack(
                f"the manifests of {len(unread)} datasets are not here ({titles} …): what is in them is not known",
                "dvc fetch --all-commits; datasets that were never committed with their dvc.lock are lost",
                about=(Kind.IMAGE, *(one.key for one in unread)),
            )
            unread = []
        for one in unread:
            thread.lack(
                f"the manifest of the dataset {one.title} is not here: whether an image is in it is not known",
                _brings(one),
                about=(Kind.IMAGE, one.key),
            )
        if not thread.of_kind(Kind.ARCHIVE):
            thread.lack(
                "no archive is at hand", f"kedro run --pipelines packaging{self.asked.option}   (or `dvc pull`)"
            )


def _teach_in_runs(thread: Thread) -> None:
    """A teacher taught in the runs that made its student: they stand between the two."""
    for teacher, student, _ in list(thread.links()):
        if teacher.kind is student.kind is Kind.NETWORK:
            for run, _ in thread.above(student):
                if run.kind is Kind.RUN:
                    thread.link(teacher, run, "taught in it")


def _brings(dataset: Thing) -> str:
    commit = dataset.facts.get("commit", "").split(" ")[0].rstrip("+,")
    if commit:
        return f"git checkout {commit} -- dvc.lock conf && dvc fetch, or dvc fetch --all-commits"
    return "dvc fetch --all-commits; a dataset that was never committed with its dvc.lock is lost"


def not_in_any(datasets: Collection[str]) -> str:
    """What is said where no dataset knows an image."""
    count = len(datasets)
    return (
        f"in none of the {count} dataset{'s' * (count != 1)} whose manifest is at hand"
        if count
        else "no manifest is at hand"
    )
