"""Parameters of a run, its progress and its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..dicom.export import Kind
from ..images.case_files import CaseFiles, Volumes


@dataclass(frozen=True)
class Request:
    """Parameters of a run."""

    volume: Volumes  # file, files in the order of the model's inputs, or files by the names of inputs
    output: Path  # folder of the results
    model: str = "brain-structures"  # name of a shipped model, or path of a model folder
    # None for the model's default; "auto" draws until the result has converged, at least 8 and at most 32 (or the
    # model's default, if that is more).
    samples: int | Literal["auto"] | None = None
    steps: int | None = None  # nodes of the step grid; None for the model's default
    seed: int = 0
    device: str = "auto"
    # Minimum distance between the seeds of uncertain regions, 5 to 100 mm, None for 15; a region is at most twice as
    # wide.
    region_mm: float | None = None
    ask: tuple[str, ...] = ()  # questions that the report answers, such as "volume(ventricles) > 40"
    # Label maps on the grid of the volume, 255 where nothing is known: the samples are drawn given their labels, where
    # several have one given the last.
    facts: tuple[Path, ...] = ()
    rounds: int = 1  # updates of the result with facts, this one included
    sha256: str | None = None  # digest that the voxels of the first input must have
    keep_samples: bool = False  # also write samples, class probabilities and regions
    compress: bool = True
    previews: bool = False  # write previews and partial results while the run goes on
    spacing: tuple[float, float, float] | None = None  # mm along i, j and k, for a file that does not state it
    source: Path | None = (
        None  # file from which the first input was loaded; what its header leaves open becomes a warning
    )
    series: str | None = None  # UID of the DICOM series that is read from a folder with several
    dicom: Kind | None = None  # also write DICOM objects, with a segmentation of this kind
    called: str | None = None  # what messages call a volume whose file is temporary, such as "The volume"

    def files(self) -> CaseFiles:
        """The files of the volume, with valid headers. Raises as `CaseFiles`."""
        return CaseFiles(self.volume, self.spacing, self.called, self.series, self.dicom)


@dataclass(frozen=True)
class Progress:
    """Progress of a run in one of its stages: reading, model, encoding, sampling, writing."""

    stage: str
    sample: int = 0
    samples: int | None = None  # None while "auto" decides
    step: int = 0
    steps: int | None = None
    seconds_left: float | None = None  # None while it is unknown
    note: str = ""  # how the run was changed


@dataclass(frozen=True)
class Preview:
    """Maps of the first `samples` samples; with 0 samples, those of the direct head."""

    segmentation: Path
    entropy: Path
    samples: int


@dataclass(frozen=True)
class Outcome:
    """Content of report.json; `partial` if the run was stopped before all samples were drawn."""

    report: dict[str, Any]
    partial: bool
