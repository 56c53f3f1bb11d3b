"""`dinomill promote`, `dinomill rollback`, `dinomill versions`: who has which alias, decided on record.

A promotion measures the version and the one that has the alias side by side: on the environment's own labelled images,
paired, and by size, speed and neighbours. Features are kept by content: what evaluation has computed is not again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dinomill import tracking
from dinomill.commands.reason import reason
from dinomill.commands.registry import Registry
from dinomill.errors import ConfigError, DinomillError, InputError
from dinomill.registration.aliases import Move, history, move, one_at_a_time
from dinomill.registration.config import CHAMPION
from dinomill.registration.decision import said
from dinomill.registration.gate import Check

if TYPE_CHECKING:
    from dinomill.evaluation.config import EvaluationConfig
    from dinomill.evaluation.results import Results

log = logging.getLogger(__name__)

# What a gate may say of a version without knowing another one.
_FAILED = "Not promoted: {uri} does not meet what {alias} asks for."


def promote(version: str, *, alias: str | None, env: str | None, force: bool, because: str | None) -> int:
    """Point an alias at a version, if it is no worse than the one that has it.

    Returns:
        The exit code: 1 when it was refused.

    Raises:
        InputError: When there is no such version or alias, or ``force`` comes without a reason.
        ConfigError: When the gate asks for a measure that compares nothing.
        MachineError: When the store cannot be reached.
    """
    why = reason(because)
    if force and not why:
        raise InputError("--force needs a reason.", action='say it: --because "what the gate cannot know"')
    registry = Registry.of(env)
    named, new = registry.alias(alias), registry.version(version)
    with one_at_a_time(registry.store, registry.name):
        present = tracking.version_by_alias(registry.store, registry.name, named)
        if present is not None and present.version == new.version:
            print(f"{new.uri} has the alias {named} already: nothing was changed.")
            return 0
        checks = tuple(_judge_all_the_same(registry, new, present) if force else _judge(registry, new, present))
        for check in checks:
            print(f"  {check}")
        failed = [check.sentence for check in checks if not check.passed]
        if failed and not force:
            print(f"\n{_FAILED.format(uri=new.uri, alias=named)}")
            command = f'dinomill promote {new.version} --alias {named} --force --because "…"{registry.option}'
            print(f"To do it all the same: {command}")
            return 1
        made = move(
            registry.store,
            registry.name,
            named,
            new.version,
            before=None if present is None else present.version,
            because=why,
            forced=force,
            overruled=failed,
        )
    print(_done(registry, made))
    return 0


def rollback(*, alias: str | None, to: str | None, env: str | None, because: str | None) -> int:
    """Take back the last move of an alias, or give it to a version that it named before.

    Raises:
        InputError: When nothing was recorded, or the alias was moved by other means since.
    """
    why = reason(because)
    registry = Registry.of(env)
    named = registry.alias(alias)
    with one_at_a_time(registry.store, registry.name):
        present = tracking.version_by_alias(registry.store, registry.name, named)
        now = None if present is None else present.version
        moves = history(registry.store, registry.name, named)
        target = (
            _before(moves, now, named, registry.name, registry.option) if to is None else registry.version(to).version
        )
        if target == now:
            print(f"The alias {named} is at version {now} already: nothing was changed.")
            return 0
        if target is not None:
            tracking.resolve(f"models:/{registry.name}/{target}", registry.store)  # it may have been deleted since
        made = move(registry.store, registry.name, named, target, before=now, because=why or "rollback")
    print(_done(registry, made))
    return 0


def _before(moves: list[Move], now: int | None, alias: str, name: str, option: str) -> int | None:
    if not moves:
        raise InputError(
            f"No move of the alias {alias} of {name} is recorded.",
            action=f"name the version: dinomill rollback --alias {alias} --to VERSION{option}",
        )
    if moves[-1].after != now:
        raise InputError(
            f"The alias {alias} of {name} was moved by other means since the last recorded move.",
            found=f"version {now}" if now is not None else "nobody has it",
            expected=f"version {moves[-1].after}: {moves[-1].sentence}",
            action=f"name the version: dinomill rollback --alias {alias} --to VERSION{option}",
        )
    return moves[-1].before


def _done(registry: Registry, made: Move) -> str:
    if made.after is None:
        undo = f"dinomill rollback --alias {made.alias}{registry.option}"
        return f"Nobody has the alias {made.alias} of {registry.name} now, as before. `{undo}` takes this back."
    before = "nobody had it before" if made.before is None else f"it was at version {made.before}"
    undo = f"dinomill rollback --alias {made.alias}{registry.option}"
    return f"models:/{registry.name}@{made.alias} is version {made.after} now; {before}. `{undo}` takes it back."


def show_versions(env: str | None) -> None:
    """Print the versions of an environment's model, who has which alias, and the recorded moves."""
    registry = Registry.of(env)
    found = tracking.versions(registry.store, registry.name)
    if not found:
        print(f"There is no version of {registry.name} in {tracking.redact(registry.store)} yet.")
        return
    measure = registry.config.gate.measure
    rows = [("version", "aliases", "gate", measure, "network", "weights")]
    rows += [
        (
            str(one.version),
            ", ".join(one.aliases) or "–",
            one.tags.get("gate", "–"),
            one.tags.get(measure, "–")[:6],
            one.tags.get("model", "–"),
            one.tags.get(tracking.WEIGHTS_TAG, "–")[:12],
        )
        for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if moves := history(registry.store, registry.name):
        print("\nMoves of aliases, UTC:")
        for one in moves[-20:]:
            print(f"  {one.sentence}")


def _judge(
    registry: Registry, new: tracking.RegisteredVersion, present: tracking.RegisteredVersion | None
) -> Iterator[Check]:
    """What was decided when the version was registered, the champion's part of it anew."""
    own = said(new.tags)
    if own is None:
        yield Check(True, f"nothing is recorded of the gate of {new.uri}", "not compared")
    yield from (check for check in own or () if check.about != CHAMPION)
    if present is None:
        yield Check(True, "nobody has the alias", "not compared", CHAMPION)
        return
    if present.tags.get(tracking.WEIGHTS_TAG) == new.tags.get(tracking.WEIGHTS_TAG):
        yield Check(True, f"version {present.version}, which has the alias, has the same weights", "not compared")
        return
    yield from _on_own_images(registry, new, present)
    yield from _beside(registry, new, present)


def _judge_all_the_same(
    registry: Registry, new: tracking.RegisteredVersion, present: tracking.RegisteredVersion | None
) -> Iterator[Check]:
    """What is overruled, for the record; where it cannot be compared, nothing stands in the way."""
    try:
        yield from _judge(registry, new, present)
    except DinomillError as error:
        yield Check(True, str(error).splitlines()[0], "not compared")


def _beside(
    registry: Registry, new: tracking.RegisteredVersion, present: tracking.RegisteredVersion
) -> Iterator[Check]:
    from dinomill.handles import HANDLE_NAME, DatasetHandle
    from dinomill.registration.side_by_side import compare_with, curated_images, judge_beside

    place = Path(registry.layers.globals["folders"]["curated"])
    images: list[bytes] = []
    if (place / HANDLE_NAME).is_file():
        images = curated_images(DatasetHandle.load(place), registry.config.gate.compared_images)
    folder, other = (tracking.download(one.uri, registry.store) for one in (new, present))
    print(f"Comparing {new.uri} with version {present.version} on {len(images)} curated images …", flush=True)
    yield from judge_beside(compare_with(folder, other, images), present.version, registry.config.gate)


def _on_own_images(
    registry: Registry, new: tracking.RegisteredVersion, present: tracking.RegisteredVersion
) -> Iterator[Check]:
    """Every labelled set of the environment, both versions by the same protocols on the same images.

    Raises:
        ConfigError: When the gate's measure is not among what decides.
    """
    from dinomill.evaluation.config import EvaluationConfig

    layers, gate = registry.layers, registry.config.gate
    config = EvaluationConfig.parse(layers.parameters.get("evaluation", {}), where=layers.origin, prefix="evaluation")
    if gate.max_drop_from_champion is None:
        return
    sets = dict(_sets(registry, config))
    if not sets:
        yield Check(gate.without_labels == "promote", "there are no labelled images to compare on", "not measured")
    asked, _, measure = gate.measure.rpartition("/")
    if sets and (asked or "labelled") not in sets:
        raise _not_compared(gate.measure, f"labelled sets: {', '.join(sets)}")
    for name, labelled in sets.items():
        print(f"Measuring both on {name} …", flush=True)
        results = _measured(registry, config, labelled, new, present)
        gains = next(iter(results.gains.values()), {})
        if name == (asked or "labelled") and measure not in gains:
            raise _not_compared(gate.measure, f"measures of {name}: {', '.join(gains) or 'none'}")
        for one in results.measures:
            if one.name not in gains:
                continue
            gain = gains[one.name]
            required = one.name == measure and name == (asked or "labelled")
            worst = one.scale * one.sign * gain.value
            surely = one.scale * (gain.high if one.higher_is_better else -gain.low)
            passed = worst >= -gate.max_drop_from_champion if required else surely >= -gate.max_drop_from_champion
            limit = f"at most {gate.max_drop_from_champion:g} {'below' if one.higher_is_better else 'above'} is allowed"
            yield Check(
                passed,
                f"{one.title} on {name} is {gain.show(one)} from version {present.version}; {limit}"
                + ("" if required else ", where it is sure"),
                about=CHAMPION,
            )


def _not_compared(measure: str, found: str) -> ConfigError:
    """That nothing would decide: what a clock took, or what needs no image, has no difference to be sure of."""
    return ConfigError(
        f"registration.gate.measure asks for {measure}, by which no two versions are compared.",
        found=found,
        expected="what the images decide, by its name: knn, linear, …; of a further labelled set SET/MEASURE",
        action="name one of these, or add its protocol to `evaluation.measured` or to the set's `protocols`; for speed "
        "set registration.gate.max_slowdown_from_champion",
    )


def _sets(registry: Registry, config: EvaluationConfig) -> Iterator[tuple[str, object]]:
    from dinomill.evaluation.sets.config import SetConfig

    labelled = registry.layers.globals.get("labelled")
    if isinstance(labelled, str) and labelled:
        yield "labelled", SetConfig(labelled=labelled, protocols=tuple(config.measured))
    yield from config.sets.items()


def _measured(
    registry: Registry,
    config: EvaluationConfig,
    labelled: object,
    new: tracking.RegisteredVersion,
    present: tracking.RegisteredVersion,
) -> Results:
    from dinomill.evaluation.alone import Asked, evaluate_alone
    from dinomill.evaluation.sets.config import Limits, SetConfig
    from dinomill.evaluation.statistics import Bootstrap

    assert isinstance(labelled, SetConfig)
    limits = Limits(
        labelled.bank_split or config.bank_split,
        labelled.query_split or config.query_split,
        labelled.max_bank or config.max_bank,
        labelled.max_queries or config.max_queries,
    )
    asked = Asked(
        [present.uri, new.uri],
        labelled,
        limits,
        baselines=False,
        protocols=config.protocols,
        precision=config.precision,
        batch_size=config.batch_size,
        bootstrap=Bootstrap(config.bootstrap, config.confidence, config.seed),
        collapsed=True,  # the gate says what it costs, and away from one that is in use must always be possible
    )
    with tracking.store_at_work(uri=registry.store):
        return evaluate_alone(asked, config.work / "promotion")
