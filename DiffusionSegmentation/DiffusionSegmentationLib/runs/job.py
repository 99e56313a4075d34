"""Settings and state of a run."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import vtk

from diffusion_segmentation.worker import protocol

from ..i18n import tr as _
from .handover import HandoverError


def _isWhole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < protocol.INTEGER_LIMIT


@dataclass(frozen=True)
class Choices:
    """Settings of a run: `model` is a name or folder, `samples` a number or "auto".

    None for `samples` or `steps` stands for the model's default. `regionMm` (5 to 100 mm) is the minimum
    distance between the centers of uncertain regions.
    """

    model: str = "brain-structures"
    samples: int | str | None = None
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    regionMm: int = 15

    def __post_init__(self) -> None:
        """Raises HandoverError, one sentence, for an invalid setting."""
        if not self.model:
            raise HandoverError(_("Select a model."))
        if not self.device:
            raise HandoverError(_("Select a device."))
        if not (self.samples in (None, "auto") or _isWhole(self.samples, 1)):
            raise HandoverError(_("The number of samples must be 1 or more."))
        if not (self.steps is None or _isWhole(self.steps, 2)):
            raise HandoverError(_("The number of steps must be 2 or more; with one step all samples are equal."))
        if not _isWhole(self.seed, 0):
            raise HandoverError(_("The seed must be 0 or more."))
        if not (isinstance(self.regionMm, int | float) and 5 <= self.regionMm <= 100):
            raise HandoverError(_("The region spacing must be 5 to 100 mm."))

    def asMessage(self) -> dict[str, Any]:
        """The fields of a message `run`."""
        return asdict(self)


@dataclass
class Job:
    """One run.

    state: queued (volume or worker not ready yet), running, done, partial, cancelled or failed.
    masks: files that take the place of samples; empty if a model is run.
    inputs: files by the names of the model's inputs; empty for a model of one input.
    update: further fields of a message `update`, if a result is drawn again given facts; empty for other runs.
    message: one plain sentence. note: which settings had to be changed, and how; one sentence.
    fraction: elapsed part of the estimated time (0 to 1); None without an estimate.
    finishedSamples: number of samples known to be finished; a stop keeps at least these.
    preview: files of segmentation and entropy so far, and the number of samples in them.
    result: what the importer returned.
    recoverable: number of samples of a failed run that `Runner.recover` can show.
    tryDevice: device on which a failed run could succeed, or None.
    """

    volumeName: str
    choices: Choices
    folder: Path
    started: float
    masks: tuple[str, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    update: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = "queued"
    message: str = ""
    fraction: float | None = None
    secondsLeft: float | None = None
    finishedSamples: int = 0
    preview: tuple[tuple[Path, Path], int] | None = None
    report: dict | None = None
    result: Any = None
    note: str = ""
    recoverable: int = 0
    tryDevice: str | None = None

    @property
    def active(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def warnings(self) -> list[str]:
        return (self.report or {}).get("warnings", [])

    def request(self, volume: Path, source: str | None, devices: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """The message that starts the job in the worker, which has `devices`.

        `volume` is the NRRD file, `source` the file the volume was loaded from.
        """
        folders = {"folder": str(self.folder), "volume": str(volume), "source": source}
        if self.masks:
            parameters = {"masks": list(self.masks), "regionMm": self.choices.regionMm}
            return {"type": "import", "job": self.id, **folders, **parameters}
        kind = "update" if self.update else "run"
        parameters = {"inputs": self.inputs or None, **self.choices.asMessage(), **self.update}
        if self.update:  # the device is that of the first run, which may have been on another computer
            parameters["device"] = usableDevice(self.choices.device, devices)
        return {"type": kind, "job": self.id, **folders, **parameters}

    def applyProgress(self, message: dict[str, Any], now: float) -> None:
        """Update the numbers from a `progress` message; `now` and `started` are values of time.monotonic."""
        if message["stage"] == "sampling":  # `sample` is the one being drawn
            self.finishedSamples = max(self.finishedSamples, message["sample"] - 1)
        self.secondsLeft = message["secondsLeft"]
        self.note = message.get("note") or ""
        if self.secondsLeft is not None and message["stage"] != "sending":  # the run comes after it
            elapsed = now - self.started
            # Never decreasing, also if the estimate grows.
            self.fraction = max(self.fraction or 0.0, elapsed / max(elapsed + self.secondsLeft, 1e-3))


def usableDevice(device: str, devices: Sequence[Mapping[str, Any]]) -> str:
    """The device of an earlier run, or "auto" if it is not among `devices`, those of the worker that is to run now."""
    return device if device in {one["id"] for one in devices} else "auto"


class FinishedSamples:
    """The samples that a failed run has finished: a folder with a complete result, its report, and the volume."""

    def __init__(self, folder: Path, report: dict, volumeNode: Any) -> None:
        self.folder, self.report = folder, report
        self._volume = vtk.vtkWeakReference()
        self._volume.Set(volumeNode)

    def volumeNode(self) -> Any:
        """The volume, or None if it was removed from its scene."""
        volumeNode = self._volume.Get()
        return None if volumeNode is None or volumeNode.GetScene() is None else volumeNode
