"""The table at the end of `make run`: what a run kept, learnt, registered and served, and where to look next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from dinomill import tracking
from dinomill.handles import (
    DatasetHandle,
    EvaluationHandle,
    PackageHandle,
    RegistrationHandle,
)
from dinomill.images.manifest import Fate
from dinomill.licences import licence_in_words
from dinomill.printing import folded, open_console, show
from dinomill.reporting.curation import FATE_NAMES, FateCount, count_fates
from dinomill.reporting.lineage import Left
from dinomill.reporting.names import display_name
from dinomill.scores import ScoreTable

_REASONS = 4
_BAR = 24
_RULE = 100  # columns at most
_INDENT = 16  # before a sentence


def render(
    folders: Mapping[str, Path],
    console: Console | None = None,
    env: str | None = None,
    *,
    store: str | None = None,
    remote: bool = False,
) -> None:
    """Print what the stages left, what is of an earlier run as such; what a stage has not made yet is left out.

    Args:
        folders: The folders of globals.yml by name: ``curated``, ``teacher``, …
        console: Where to print; standard output by default.
        env: The environment that they belong to, for the commands that are shown.
        store: The registry, to say where it has not what the handle names; None: it is not asked.
        remote: Whether DVC has a place to push to.
    """
    console = console or open_console()
    left = Left.in_folders(folders)
    earlier = left.earlier()
    parts: list[Group | Padding] = []
    width = min(console.width, _RULE) - _INDENT
    if curated := left.curation:
        said = [folded(sentence, width) for sentence in curated.seeds.values()]
        told = Text("\n".join(("", *said)) if said else "")
        parts.append(_section("Images", Group(_curation(curated), told)))
    if left.evaluation and left.evaluation.scores:
        kind = _registered_kind(left)
        parts.append(_section("Accuracy of frozen features", _scores(left.evaluation, kind), earlier.get("evaluation")))
    facts = _facts(left.registration, left.packaging, store, env, max(width, 20))
    if facts.row_count:
        of = "registration" if left.registration else "packaging"
        parts.append(_section("Model", facts, earlier.get(of) or earlier.get("packaging")))
    if not parts:
        console.print(f"No stage has run yet. `make run{f' ENV={env}' if env else ''}` runs all of them.")
        return
    parts.append(_section("Where to look next", _next_steps(left, earlier, env, remote=remote)))
    show(console, Group(*parts))


def _registered_kind(left: Left) -> str:
    """Kind of the row of the network that is registered; before that, of the one that pretraining made."""
    if left.registration is None or left.pretraining is None:
        return "student" if left.distillation and left.distillation.given_teacher else "teacher"
    return "teacher" if left.registration.weights_sha256 == left.pretraining.weights_sha256 else "student"


def _section(title: str, content: Table | Group, earlier: str | None = None) -> Padding:
    """A heading with what belongs to it; ``earlier`` says why it is of an earlier run."""
    heading = Constrain(Rule(Text(title, style="bold"), align="left", style="dim"), _RULE)
    if earlier:
        content = Group(Text(f"Of an earlier run: {earlier}.", style="bold yellow"), content)
    return Padding(Group(heading, Padding(content, (0, 0, 0, 2), expand=False)), (1, 0, 0, 0), expand=False)


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=any(c[0] for c in columns)
    )
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    return table


def _curation(curated: DatasetHandle) -> Table:
    from dinomill.images.manifest import read_manifest

    fates = count_fates(read_manifest(curated.manifest, ["fate", "reason"]))
    # An empty last column would be measured too narrow, and all others folded.
    columns = 4 if any(fate.reasons for fate in fates) else 3
    table = _table(*(("", "left"), ("files", "right"), ("", "right"), ("", "left"))[:columns])
    table.add_row(*("pool", f"{curated.pool_images:,}", "", "")[:columns])
    for fate in fates:
        style = "bold green" if fate.fate == Fate.KEPT.value else ""
        row = (FATE_NAMES[Fate(fate.fate)], f"{fate.count:,}", f"{fate.share:.1%}", _reasons(fate))
        table.add_row(*(Text(row[0], style), Text(row[1], style), *row[2:])[:columns])
    return table


def _reasons(fate: FateCount) -> Text:
    shown = [f"{reason} {count:,}" for reason, count in fate.reasons[:_REASONS]]
    if len(fate.reasons) > _REASONS:
        shown.append(f"{len(fate.reasons) - _REASONS} more")
    return Text(", ".join(shown), "dim")


def _scores(evaluation: EvaluationHandle, kind: str) -> Group:
    """The tables, and what the registered network, of this kind, has over random weights."""
    parts: list[RenderableType] = []
    for name, table in evaluation.tables().items():
        parts += [] if name is None else [Text(f"on {name}", "dim")]
        parts.append(_score_table(table))
    own, random = evaluation.score(kind), evaluation.score("random")
    lines = Text()
    if helped := evaluation.helped():
        lines.append(helped + "\n", "bold")
    if behind := evaluation.behind_pixels(kind):
        lines.append(behind + "\n", "bold yellow")
    # Of what was timed or counted there is no difference that these images decide.
    name = own.model if own and kind == "student" else kind
    judged = evaluation.gains.get(f"{name}_over_random")
    measures = [one for one in evaluation.measures if judged is None or one.name in judged]
    if own and random and measures:
        gains = [
            f"{one.signed(own.value(one.name) - random.value(one.name))} {one.step} {one.title}" for one in measures
        ]
        of = "" if random.parameters == own.parameters else f" of {random.parameters / 1e6:.1f} M parameters"
        lines += Text.assemble(
            f"{display_name(own)} minus random weights{of}: ",
            (gains[0], "bold"),
            "".join(f", {gain}" for gain in gains[1:]),
            (f"   on {evaluation.query_images:,} images never trained on", "dim"),
        )
    return Group(*parts, lines)


def _has_interval(evaluation: ScoreTable, name: str) -> bool:
    figures = [score.scores[name] for score in evaluation.scores if name in score.scores]
    return any(figure.high > figure.low for figure in figures)


def _score_table(evaluation: ScoreTable) -> Table:
    """The bar is the first measure's, where more is better; what was timed or counted is here where there is room."""
    measures = [one for one in evaluation.measures if _has_interval(evaluation, one.name)] or [*evaluation.measures]
    names = max(len(display_name(score)) for score in evaluation.scores)
    if sum(len(one.head) + 2 for one in evaluation.measures) + names + len("parameters") + _BAR <= _RULE:
        measures = [*evaluation.measures]
    heads = [(one.head, "right") for one in measures]
    table = _table(("", "left"), ("parameters", "right"), *heads, ("", "left"))
    first = measures[0]
    best = max(abs(score.value(first.name)) for score in evaluation.scores) or 1.0
    for score in evaluation.scores:
        size = f"{score.parameters / 1e6:.1f} M" if score.parameters else ""
        style = "bold" if score.kind == "teacher" else ""
        shown = [
            one.show(score.value(one.name)) if one.percent else one.bare(score.value(one.name)) for one in measures
        ]
        length = round(_BAR * abs(score.value(first.name)) / best)
        bar = Text("━" * max(1, length), "green" if score.kind == "teacher" else "dim")
        cells = [Text(value, style if index == 0 else "") for index, value in enumerate(shown)]
        table.add_row(Text(display_name(score), style), size, *cells, bar if first.higher_is_better else "")
    return table


def _facts(
    registration: RegistrationHandle | None,
    package: PackageHandle | None,
    store: str | None,
    env: str | None,
    width: int,
) -> Table:
    table = _table(("", "left"), ("", "left"))
    if registration:
        aliases = ", ".join(registration.aliases)
        table.add_row(
            "registered", f"{registration.model} version {registration.version}" + (f" ({aliases})" if aliases else "")
        )
        if store and tracking.holds(store, registration.model, registration.version) is False:
            run = f"kedro run{f' --env {env}' if env else ''} --pipelines registration"
            missing = f"not in the registry of this machine, {tracking.redact(store)}: `{run}` brings it there"
            table.add_row("", Text(missing, "bold yellow"))
        known = registration.licence is not None
        table.add_row("licence", Text(licence_in_words(registration.licence), "" if known else "bold yellow"))
        gate = Text("passed", "green") if registration.passed_gate else Text("not passed", "red")
        table.add_row("gate", gate)
        for sentence in registration.gate:
            table.add_row("", Text(folded(sentence, width), "dim"))
        if means := registration.not_passed():
            table.add_row("", folded(means, width))
    if package:
        smoke = package.smoke
        table.add_row(
            "served",
            f"{smoke['latency_ms']:.0f} ms an image by TorchServe, cosine {smoke['cosine']:.5f} to the program alone",
        )
        table.add_row("archive", str(package.archive))
    return table


def _next_steps(left: Left, earlier: Mapping[str, str], env: str | None, *, remote: bool) -> Table:
    option = f" ENV={env}" if env else ""
    table = _table(("", "left"), ("", "left"))
    if left.reporting:
        of = " (of an earlier run)" if "reporting" in earlier else ""
        table.add_row(f"the report{of}", Text(f"file://{left.reporting.page.absolute()}", "cyan"))
    table.add_row("runs, curves, registered models", Text(f"make ui{option}", "cyan"))
    if left.packaging:
        of = " (of an earlier run)" if "packaging" in earlier else ""
        table.add_row(f"serve the model{of}", Text(f"make serve{option}", "cyan"))
    place = f"conf/{env}" if env else "dvc.yaml dvc.lock conf"
    table.add_row("keep this run (data stays out)", Text(f"git add {place} && git commit", "cyan"))
    if remote:
        table.add_row("and its data", Text("dvc push", "cyan"))
    if earlier or not (left.packaging and left.reporting):
        table.add_row("the stages that are still to run", Text(f"make run{option}", "cyan"))
    if earlier:
        table.add_row("which and why", Text(f"dinomill plan{f' --env {env}' if env else ''}", "cyan"))
    return table
