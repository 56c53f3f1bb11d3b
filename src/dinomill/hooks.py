"""What happens around every Kedro run: configuration is checked first, and each stage gets one MLflow run."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kedro.framework.hooks import hook_impl

from dinomill.config import Config
from dinomill.datasets import HandleDataset, SourceDataset
from dinomill.errors import ConfigError, InputError
from dinomill.stage_runs import StageRuns, stage_of
from dinomill.stages import STAGES
from dinomill.started import name_of_run, started
from dinomill.storage.lock import held

if TYPE_CHECKING:
    from dinomill.layers import Layers
    from dinomill.planning.checks import Request
    from dinomill.planning.measured import Stopwatch

# The sample is the demo's input, not an experiment; registration looks at the registry every time, and opens a run when
# something changes there.
UNTRACKED = frozenset({"sample", "registration"})


class ProjectHooks:
    """Checks parameters when Kedro has read them, refuses runners that lose hooks, keeps one MLflow run a stage.

    The stages find their run with ``dinomill.tracking.attach()``, as their worker processes do.
    """

    def __init__(self) -> None:
        self._parameters: dict[str, Any] = {}
        self._globals: dict[str, Any] = {}
        self._origin: Callable[[str], str] = "the configuration of {}".format
        self._layers: Layers | None = None
        self._runs = StageRuns()
        self._held = ExitStack()
        self._at_root = ExitStack()
        self._root = Path()
        self._stage: str | None = None
        self._watch: Stopwatch | None = None
        self._began = 0.0

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Validate every stage's parameters into its configuration, with our messages instead of pydantic's."""
        from kedro.framework.project import pipelines
        from kedro.validation.type_extractor import TypeExtractor

        loader = context.config_loader
        self._root = Path(context.project_path)
        self._globals = loader["globals"]
        self._parameters = loader["parameters"]
        types = TypeExtractor(dict(pipelines)).extract_types_from_pipelines()
        self._layers = loader.layers
        self._origin = loader.layers.origin
        check_parameters(self._parameters, types, self._origin)

    @hook_impl
    def after_catalog_created(self, catalog: Any) -> None:
        """Tell the datasets where the project begins, and the sources which file they were read from."""
        for name in catalog:
            if name.startswith("params:") or not isinstance(one := catalog.get(name), SourceDataset | HandleDataset):
                continue
            if self._root.absolute() != Path.cwd():
                one.root = self._root
            if isinstance(one, SourceDataset):
                one.said_in = self._origin(one.name)

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Any) -> None:
        """Refuse the runners in which hooks would be lost or stages would run at once, then check everything.

        Raises:
            ConfigError: For any runner but the sequential one.
            ChecksFailed: With everything that has to be put right before anything runs.
        """
        check_runner(str(run_params.get("runner")))
        # Every path of the configuration starts at the project's root: a notebook in a sub-folder and Airflow stand
        # elsewhere.
        self._at_root.close()
        self._at_root.enter_context(contextlib.chdir(self._root))
        stages = cast("set[str]", {stage_of(node) for node in pipeline.nodes} - {None})
        try:
            self._check(stages)
            self._at_root.enter_context(started(stages, run_params, self._layers, self._parameters))
        except BaseException:
            self._at_root.close()  # Kedro tells nobody of an error before the first node
            raise

    def _check(self, stages: set[str]) -> None:
        if stages:
            from dinomill.distillation.config import PIPELINE
            from dinomill.planning.checks import Request
            from dinomill.planning.checks.scope import scope

            teacher = self._parameters.get("distillation", {}).get("teacher")
            wanted = scope(stages, given_teacher=teacher not in (None, PIPELINE))
            check_all(Request(wanted, self._parameters, self._globals, self._origin, self._layers))

    @hook_impl
    def before_node_run(self, node: Any) -> None:
        """Open the stage's MLflow run when its first node starts, and end the stage's before it."""
        stage = stage_of(node)
        if stage != self._stage:
            self._end()
            self._begin(stage)
            if stage is not None and stage not in UNTRACKED:
                self._runs.begin(
                    stage,
                    name=name_of_run(stage, self._parameters.get(stage, {})),
                    tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or self._globals["tracking_uri"],
                    experiment=self._globals["experiment"],
                    artifact_root=self._globals.get("artifact_root"),
                    params={stage: self._parameters.get(stage, {})},
                )

    @hook_impl
    def after_pipeline_run(self) -> None:
        """End the last stage's run."""
        self._end()
        self._at_root.close()

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Mark the current stage's run as failed."""
        self._end(error)
        self._at_root.close()

    def interrupted(self, error: BaseException) -> None:
        """Mark the current stage's run as killed: Kedro calls no hook for Ctrl-C."""
        self._end(error)
        self._at_root.close()

    def _begin(self, stage: str | None) -> None:
        from dinomill.planning.measured import Stopwatch

        self._stage = stage
        if stage is not None:
            self._hold(stage)
            self._watch = Stopwatch(self._globals.get("folders") or {})
            self._watch.begin(stage)
            self._began = time.monotonic()

    def _end(self, error: BaseException | None = None) -> None:
        if self._watch is not None:
            self._watch.end(finished=error is None)
            if error is None and self._stage is not None:
                print(self._ended(self._stage), flush=True)
        self._watch = self._stage = None
        self._held.close()
        self._runs.end(error)

    def _hold(self, stage: str) -> None:
        """Let no other process run the same stage in the same place: each would empty what the other writes."""
        work = (self._globals.get("folders") or {}).get("work")
        if work is None:
            return
        busy = InputError(
            f"Another process is running the stage {stage} of this environment.",
            found=f"it works in {work}",
            action="wait for its end; a second environment (`dinomill init NAME`) may run beside it",
        )
        self._held.enter_context(held(Path(work, "locks", f"{stage}.lock"), busy))
        if self._layers is not None:
            from dinomill.planning.running import refuse_conflicts

            refuse_conflicts(stage, {name: Path(place) for name, place in self._globals["folders"].items()})

    def _ended(self, stage: str) -> str:
        """What is said when a stage has finished."""
        from dinomill.planning.checks.others import WRITES
        from dinomill.planning.outlook import duration

        place = (self._globals.get("folders") or {}).get(WRITES[stage][0])
        return f"{stage}: {duration(time.monotonic() - self._began)}" + (f", results in {place}" if place else "")


def check_runner(runner: str | None) -> None:
    """Refuse any runner but the sequential one.

    Args:
        runner: Its name, or what Kedro prints of it.

    Raises:
        ConfigError: For another.
    """
    if runner and "None" not in runner and "SequentialRunner" not in runner:
        raise ConfigError(
            "Stages run one after the other: this project takes no other runner than SequentialRunner.",
            found=runner.strip("<>").split(" ")[0].rsplit(".", 1)[-1],
            action="leave out --runner; each stage uses all processors by itself. "
            "(ParallelRunner runs no hooks: tracking and checks would vanish without a word.)",
        )


def check_all(request: Request) -> None:
    """Check all that will run, together and with the facts of images and machine; warnings are only said.

    Raises:
        ChecksFailed: With everything that has to be put right.
    """
    from dinomill.planning.checks import check, failure
    from dinomill.planning.checks.scope import unsaid

    problems = check(request)
    warnings = [problem.text(request.origin) for problem in problems if problem.warning]
    for sentence in unsaid(warnings, request.work / "checks" / "said.json"):
        print(f"warning: {sentence}", file=sys.stderr)
    if error := failure(problems, request.origin):
        raise error


def check_parameters(parameters: dict[str, Any], types: dict[str, Any], origin: Callable[[str], str]) -> None:
    """Validate the parameters that nodes take as a `Config`.

    Args:
        parameters: As Kedro merged them, ``--params`` included.
        types: Parameter name, dotted, to the type that a node declares for it.
        origin: From a dotted key to the file that set it, or ``--params``.

    Raises:
        ChecksFailed: With everything that is wrong: a key that no stage has, a stage without parameters, values that
            are refused; names the files.
        ConfigError: For a value that its configuration refuses.
    """
    from dinomill.planning.checks.problems import Problem, failure
    from dinomill.planning.checks.request import Request
    from dinomill.planning.checks.settings import missing, unknown

    wrong = [unknown(str(key)) for key in parameters if key not in STAGES]
    refused: list[ConfigError] = []
    for name, kind in types.items():
        if not (isinstance(kind, type) and issubclass(kind, Config)):
            continue
        stage, *rest = name.split(".")
        values: Any = parameters.get(stage)
        for part in rest:
            values = values.get(part) if isinstance(values, dict) else None
        if values is None:
            wrong.append(missing(name))
            continue
        try:
            kind.parse(values, where=origin, prefix=name)
        except ConfigError as error:
            refused.append(error)
    if not wrong and not refused:
        return
    # Where anything is wrong, all of it is said: what is wrong with stages that do not run now, too.
    given = Request((), parameters, {}, origin)
    others = set(parameters) & set(STAGES) - {name.split(".")[0] for name in types}
    said = [config for stage in STAGES if stage in others and isinstance(config := given.config_of(stage), ConfigError)]
    if len(refused) == 1 and not wrong and not said:
        raise refused[0]
    if found := failure([*wrong, *(Problem.of(one, "") for one in [*refused, *said])], origin):
        raise found
