"""A run as data: what a person chose for it, and what is known of it."""

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
