"""A run as data: what a person chose for it, and what is known of it."""

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_segmentation.worker import protocol as messages

from ..i18n import tr as _
from .handover import HandoverError


class ChoiceError(HandoverError, ValueError):
    """A choice that no run can be asked for; the text is one plain sentence."""


def _isWhole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < messages.INTEGER_LIMIT


@dataclass(frozen=True)
class Choices:
    """What a person chose: `model` a name or folder, `samples` a number or "auto".

    Where `samples` or `steps` is None the model's advice is taken. `regionMm`, 5 to 100, is how far uncertain regions
    lie apart.
    """

    model: str = "brain-structures"
    samples: int | str | None = None
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    regionMm: int = 15

    def __post_init__(self) -> None:
        """Raises ChoiceError, one sentence, for what no run can be asked for."""
        if not self.model:
            raise ChoiceError(_("Select a model."))
        if not self.device:
            raise ChoiceError(_("Select a device."))
        if not (self.samples in (None, "auto") or _isWhole(self.samples, 1)):
            raise ChoiceError(_("The number of samples must be 1 or more."))
        if not (self.steps is None or _isWhole(self.steps, 2)):
            raise ChoiceError(_("The number of steps must be 2 or more: one step draws equal samples."))
        if not _isWhole(self.seed, 0):
            raise ChoiceError(_("The seed must be 0 or more."))
        if not (isinstance(self.regionMm, int | float) and 5 <= self.regionMm <= 100):
            raise ChoiceError(_("The distance of uncertain regions must be 5 to 100 mm."))


@dataclass
class Job:
    """One run. `state`: queued (volume or worker not ready yet), running, done, partial, cancelled or failed.

    `message` is one plain sentence, `fraction` (0 to 1) the share of the estimated time that has passed, None while
    there is no estimate, `finishedSamples` how many samples are known to be drawn, which a stop would keep with what is
    finished meanwhile, `preview` the files of segmentation and entropy so far and of how many samples, `result` what
    the importer made. `note` is a sentence on how the run had to be changed, `recoverable` how many samples of a failed
    run `Runner.recover` can still show, and `tryDevice` a device on which a failed run could succeed, or None.
    """

    volumeName: str
    choices: Choices
    folder: Path
    started: float
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
        """Sentences on what to mind of the result."""
        return (self.report or {}).get("warnings", [])
