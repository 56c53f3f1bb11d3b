"""What a network costs on this machine: images a second, megabytes of weights, energy of an image.

Timed are forward passes of preprocessed images, decoding left out, after warming up; the median of the passes is what
counts, for other work on the machine only ever slows some. Figures are kept by network and machine: a second evaluation
shows the same ones. They are no part of an evaluation's results: see ``write``.

<work>/cost/<key>.json      images a second by batch size, joules of an image; remove it to time anew

Energy is that of the processor's own counter (RAPL) where it may be read; otherwise CPU-seconds x `watts` of a core,
if that was configured; otherwise it is left out, for a guess would be shown as a measurement.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, get_args

import torch

from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config import CostConfig
from dinomill.evaluation.sets.base import EvaluationSet
from dinomill.evaluation.sets.config import Kind
from dinomill.evaluation.statistics import Exact
from dinomill.evaluation.wanted import NOTHING, Needs
from dinomill.scores import Measure
from dinomill.storage.atomic import write_text
from dinomill.storage.hashing import hash_json

if TYPE_CHECKING:
    from dinomill.evaluation.networks import Network
    from dinomill.evaluation.split_features import NetworkFeatures

_COUNTER = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_MB = 4 / 1e6  # of a parameter, in float32
_WARM = 2  # passes before the first that is timed
_VERSION = 1  # of what is kept


@dataclass(frozen=True)
class Speed:
    """Forward passes of one network."""

    images_per_second: dict[int, float]
    joules_per_image: float | None


class Cost(Protocol[CostConfig, EvaluationSet[Any]]):
    """Speed, size and energy."""

    name = "cost"
    kinds = get_args(Kind)
    source = "measured here"

    @property
    def needs(self) -> Needs:
        """No embeddings: it times forward passes of its own."""
        return Needs(NOTHING, NOTHING)

    def measures(self, data: EvaluationSet[Any]) -> tuple[Measure, ...]:
        """Images a second for each batch size, megabytes, and joules where they can be known."""
        del data
        where = machine()
        found = [
            Measure(
                name=f"images_per_second_{size}",
                title=f"speed, batch {size}",
                percent=False,
                unit="images/s",
                high=None,
                note=where,
                timed=True,
            )
            for size in self.config.batch_sizes
        ]
        found.append(Measure(name="size", title="size", percent=False, unit="MB", higher_is_better=False, high=None))
        if source := self._energy():
            found.append(
                Measure(
                    name="energy",
                    title="energy of an image",
                    percent=False,
                    unit="J",
                    higher_is_better=False,
                    high=None,
                    note=f"{source}; {where}",
                    timed=True,
                )
            )
        return tuple(found)

    def measure(
        self, features: NetworkFeatures, data: EvaluationSet[Any], settings: Settings
    ) -> Mapping[str, Measured]:
        """Time it, unless it was timed on this machine before."""
        speed = self._speed(features.network, settings)
        found = {
            f"images_per_second_{size}": Measured(Exact(speed.images_per_second[size]))
            for size in self.config.batch_sizes
        }
        found["size"] = Measured(Exact(features.network.parameters * _MB))
        if speed.joules_per_image is not None and any(one.name == "energy" for one in self.measures(data)):
            found["energy"] = Measured(Exact(speed.joules_per_image))
        return found

    def _energy(self) -> str | None:
        """How energy is known here; None: it is not."""
        if _energy_counter() is not None:
            return "the processor's counter (RAPL), whole package"
        watts = self.config.watts
        return None if watts is None else f"CPU-seconds x {watts:g} W of a core, as configured"

    def _speed(self, network: Network, settings: Settings) -> Speed:
        preprocessing = network.preprocessing.model_dump(mode="json")
        asked = [self.config.model_dump(mode="json"), machine(), settings.device.type, self._energy()]
        key = hash_json([_VERSION, network.kind, network.identity, preprocessing, *asked])[:32]
        path = settings.work / "cost" / f"{key}.json"
        if path.exists():
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                return Speed({int(size): value for size, value in kept["speed"].items()}, kept["energy"])
            except (ValueError, KeyError, AttributeError):
                path.unlink()  # damaged: timed anew
        speed = self._time(network, settings.device)
        write_text(path, json.dumps({"speed": speed.images_per_second, "energy": speed.joules_per_image}) + "\n")
        return speed

    def _time(self, network: Network, device: torch.device) -> Speed:
        forward = network.build(device)
        side, channels = network.preprocessing.image_size, network.preprocessing.channels
        speed: dict[int, float] = {}
        joules: float | None = None
        with torch.inference_mode():
            for size in self.config.batch_sizes:
                batch = torch.randn(size, channels, side, side, generator=torch.Generator().manual_seed(0)).to(device)
                seconds, spent = _passes(lambda batch=batch: forward(batch), self.config, device)  # type: ignore[misc]
                speed[size] = round(size / seconds, 3)
                joules = None if spent is None else round(spent / size, 6)  # of the largest batch, which stands last
        return Speed(speed, joules)


def _passes(run: Callable[[], Any], config: CostConfig, device: torch.device) -> tuple[float, float | None]:
    """The median pass in seconds, and the joules of one pass."""

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(_WARM):
        run()
    finish()
    taken: list[float] = []
    began, busy, counter = time.perf_counter(), time.process_time(), _energy_counter()
    while time.perf_counter() - began < config.seconds or len(taken) < 3:
        start = time.perf_counter()
        run()
        finish()
        taken.append(time.perf_counter() - start)
    after = _energy_counter()
    joules: float | None = None
    if counter is not None and after is not None:
        joules = (after - counter) / len(taken) if after >= counter else None  # it starts again at its end
    elif config.watts is not None:
        joules = (time.process_time() - busy) * config.watts / len(taken)
    return median(taken), joules


def _energy_counter() -> float | None:
    """Joules that the processor has used, or None where that may not be read."""
    try:
        return int(_COUNTER.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):
        return None


def machine() -> str:
    """The processor or accelerator that is timed, and its threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"
