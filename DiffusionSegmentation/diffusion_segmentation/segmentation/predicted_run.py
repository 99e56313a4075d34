"""A run of networks that give class probabilities, such as the folds of a network that others trained.

The mean of their class probabilities is the map and their most probable masks take the place of samples, as for an
import of several files of class probabilities.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from ..errors import ModelError
from ..images.input_names import inputs_of
from ..images.resampling import Projection
from ..runtime import memory
from ..runtime.devices import choose_device, empty_cache, explained_gpu_errors
from ..runtime.versions import versions
from . import result_folder
from .asked import questions
from .ensemble import Ensemble
from .input_volume import read_unchanged
from .members import ProbabilityMean, WriteOptions, write_members
from .model_source import peak_memory
from .outputs import ResultSource, ResultWriter, finish
from .partial_results import PartialResults, output_folder
from .request import Outcome, Preview, Progress, Request
from .run_control import RunControl, SamplingStopped


class PredictedRun(ABC):
    """One run; its methods are in the order in which they are called.

    Samples, steps and seed of the request have no meaning here, which a warning says if they were set. With "keep" the
    finished members become the result. `run` raises as `segmentation.pipeline.segment`.
    """

    source: ClassVar[str]
    """What the class probabilities are from, as in the report's `map_source`."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Further packages whose versions the report states."""

    def __init__(
        self,
        request: Request,
        progress: Callable[[Progress], None],
        preview: Callable[[Preview], None],
        cancel: Callable[[], Literal["keep", "drop"] | None],
    ) -> None:
        self.request, self.control, self.preview = request, RunControl(progress, cancel), preview
        self.device = torch.device("cpu")

    def run(self, folder: Path) -> Outcome:
        """Segment the volume of the request with the model in `folder`. Call once."""
        try:
            with explained_gpu_errors(lambda: self.device), result_folder.new_folder(self.request.output):
                return self._run(folder)
        finally:
            device = self.device
            vars(self).clear()  # its parts refer to it, so that its networks and volumes would stay for a while
            empty_cache(device)

    def _run(self, folder: Path) -> Outcome:
        stage = self.control.stage
        result_folder.require_replaceable(self.request.output)
        with stage("reading"):
            files = self.request.files()
        with stage("model"):
            self.metadata = self.read_model(folder)
            self.device = choose_device(self.request.device)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            self.prepare()
        with stage("reading"):
            if not self.takes_slices:
                files.first.require_volume()
            self.volume = read_unchanged(files, self.request.source, inputs_of(self.section))
            self.questions = questions(self.request.ask, self.section["labels"], self.volume.image)
            memory.require(self.required_bytes(), "Segmenting this volume", "crop it, or close other programs")
        self._prepare_results()
        with stage("encoding"):
            self.preprocess()
        with stage("sampling"):
            stopped = self._predict()
        return self._write_results(stopped)

    @abstractmethod
    def read_model(self, folder: Path) -> dict[str, Any]:
        """Read the model in a folder; returns its metadata. Raises ModelError, also if files of weights are missing."""

    @property
    def section(self) -> dict[str, Any]:
        """Our section of the model's metadata."""
        return self.metadata["diffusion_segmentation"]

    @property
    def takes_slices(self) -> bool:
        """Whether the model can segment a single slice."""
        return False

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of members."""

    @abstractmethod
    def prepare(self) -> None:
        """Prepare predictions on `device`."""

    @abstractmethod
    def required_bytes(self) -> int:
        """Peak memory (bytes) of a run on `volume`. Raises GeometryError if the model cannot segment it."""

    def _prepare_results(self) -> None:
        """Set `mean` and `partial`, which writes previews and finished members while the run goes on."""
        image = self.volume.image
        self.mean = ProbabilityMean(image.GetSize()[::-1])
        source = ResultSource(self.section["labels"], image.GetSpacing()[::-1], self._report_entries)
        writer = ResultWriter(self.volume, source, Projection(image, image), self.request.compress)
        self.partial = PartialResults(self.request, self.control, writer, self.preview)

    @abstractmethod
    def preprocess(self) -> None:
        """Bring the channels of `volume` into the form that the networks see."""

    @abstractmethod
    def probabilities(self, number: int) -> np.ndarray:
        """Class probabilities float32 [C, k, j, i] of a member, 0 for the first, on the grid of the volume.

        Raises SamplingStopped or Cancelled as `control` says.
        """

    def _predict(self) -> bool:
        """Add the prediction of each member to `mean`; returns whether the run was stopped early."""
        for number in range(self.count):
            try:
                self.control.check()
                p = self.probabilities(number)
            except SamplingStopped:
                return True
            if not np.isfinite(p.sum(dtype=np.float64)):
                raise no_numbers(self.section)
            self.control.check_dropped()
            self.mean.add(p)
            del p  # a volume of all classes, beside the next member's
            self.control.samples = len(self.mean)
            empty_cache(self.device)
            if len(self.mean) < self.count:
                self.partial.preview(self.mean.mean, len(self.mean))
                self.partial.save(len(self.mean), self._write)
        return False

    def on_pass(self, done: int, passes: int) -> None:
        """Report that `done` of `passes` passes of the current member are finished."""
        finished = len(self.mean)
        share = (finished + done / max(passes, done)) / self.count
        left = (time.monotonic() - self.control.stage_start) * (1 - share) / share
        self.control.progress(
            Progress("sampling", finished + 1, self.count, done, max(passes, done), left, self.control.note)
        )

    @abstractmethod
    def meaning(self, count: int) -> str:
        """Sentence on what the uncertainty of `count` members contains."""

    @abstractmethod
    def warnings(self) -> list[str]:
        """Warnings about what the run assumes and what it does not do."""

    @abstractmethod
    def model_spacing_mm(self) -> float:
        """Smallest edge of a voxel of the network."""

    @abstractmethod
    def report(self, count: int) -> dict[str, Any]:
        """Entries of the report on the first `count` members."""

    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the results of the members so far into `folder`; returns their report."""
        request = self.request
        warnings = [*self.warnings(), *unused_settings(request), *self.volume.warnings]
        report = write_members(
            folder,
            self.volume,
            self.mean.members(),
            self.section["labels"],
            self._report_entries,
            WriteOptions(request.compress, request.keep_samples, request.region_mm, self.questions),
            [self.meaning(len(self.mean)), *warnings],
            model_spacing_mm=self.model_spacing_mm(),
            are_draws=False,
        )
        return report | {"versions": versions(*self.packages)}

    def _report_entries(self, ensemble: Ensemble) -> dict[str, Any]:
        return {
            "model": {
                **{key: self.section[key] for key in ("name", "title", "sha256")},
                "version": self.metadata["version"],
                **{key: self.metadata.get(key, "") for key in ("description", "intended_use")},
                "card": {},
            },
            **self.report(len(self.mean)),
            "map_source": self.source,
            "map_prior": None,
            "start": {"kind": self.source, "log_snr": None},
            "seed": None,
            "steps": 0,
            "requested_samples": self.count,
            "denoiser_passes": 0,
            "device": self.device.type if self.device.type == "cpu" else str(self.device),
            "memory_bytes": peak_memory(self.device),
        }

    def _write_results(self, stopped: bool) -> Outcome:
        with result_folder.replacing(output_folder(self.request, self.control)) as folder:
            with self.control.stage("writing"):
                report = self._write(folder)
            self.control.check_dropped()
            finish(folder, report, self.control.timings, stopped)
        self.partial.remove()
        return Outcome(report, stopped)


def no_numbers(section: dict[str, Any]) -> ModelError:
    """The error for a model that gives NaN or infinite values, as very large weights can."""
    return ModelError(f"The model '{section['title']}' gives no numbers for this volume; choose another model.")


def unused_settings(request: Request) -> list[str]:
    """A warning about settings of the request that differ from their defaults and have no effect."""
    names = {"samples": "number of samples", "steps": "number of steps", "seed": "seed"}
    given = [f"the {text}" for name, text in names.items() if getattr(request, name) != getattr(Request, name)]
    if not given:
        return []
    listed = " and ".join(filter(None, [", ".join(given[:-1]), given[-1]]))
    return [f"This model draws no samples, so {listed} that {'were' if given[1:] else 'was'} set had no effect."]
