"""Predictions of the folds of an nnU-Net by nnU-Net's own preprocessing, sliding window and resampling."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import is_out_of_memory
from ..runtime.devices import empty_cache
from ..runtime.interrupts import held_back
from ..segmentation.predicted_run import no_numbers
from ..segmentation.run_control import RunControl
from .library import quiet
from .model import NnunetModel
from .network import FoldNetwork
from .orientation import Turn
from .regions import class_probabilities
from .watched import Watch, WatchedNetwork

SUMS_IN_MAIN_MEMORY = (
    "The memory of the GPU did not suffice for the logits of the volume; they are kept in main memory."
)


@dataclass(frozen=True)
class Case:
    """A preprocessed volume.

    Attributes:
        data: float32 [inputs, z, y, x] on the network's grid.
        properties: of nnU-Net, with which logits return to the grid of the volume.
        turn: of the axes of the volume by nnU-Net's reader.
        shape: of the volume as it was read, [k, j, i].
    """

    data: torch.Tensor
    properties: dict[str, Any]
    turn: Turn
    shape: tuple[int, ...]


class Prediction:
    """Predicts one volume after another with each fold of a model on a device.

    `on_pass` is called after each pass of the network with the number of passes so far and of all, for one fold.
    Cancelling raises Cancelled, or SamplingStopped, as `control` says, before the next layer of the network.
    `differing` has, for each prediction of nested regions, the share of voxels whose most probable class is not the
    label that nnU-Net gives them.
    """

    def __init__(
        self, model: NnunetModel, device: torch.device, control: RunControl, on_pass: Callable[[int, int], None]
    ) -> None:
        with quiet():
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

            from .predictor import Predictor

            self._model, self._device, self._control = model, device, control
            self.differing: list[float] = []
            self._plans, self._dataset = PlansManager(model.plans()), model.dataset()
            self._configuration = self._plans.get_configuration(model.settings["configuration"])
            self._network, self._watch = FoldNetwork(model), Watch(control, on_pass)
            watched = WatchedNetwork(self._network.module, model.heads, self._watch)
            # nnU-Net switches the convolutions of the whole process, and prints about a GPU's option on a CPU.
            with _benchmarked_convolutions(device), contextlib.redirect_stdout(io.StringIO()):
                self._predictor = Predictor(self._watch, device)
            arguments = self._plans, self._configuration, None, self._dataset, model.settings["trainer"]
            self._predictor.manual_initialization(watched, *arguments, model.settings["mirror_axes"] or None)

    def preprocessed(self, images: Sequence[sitk.Image]) -> Case:
        """Crop, normalise and resample the inputs of a case, all on one grid, as nnU-Net does."""
        turn = self._model.turn(images[0])
        values = turn.array(np.stack([sitk.GetArrayFromImage(image) for image in images]))
        properties: dict[str, Any] = {"spacing": turn.sizes(images[0].GetSpacing()[::-1])}
        with quiet():
            preprocessor = self._configuration.preprocessor_class(verbose=False)
            settings = self._plans, self._configuration, self._dataset
            # It adds to the properties; whether it also returns them depends on the version.
            data = preprocessor.run_case_npy(values, None, properties, *settings)[0]
        return Case(torch.from_numpy(np.ascontiguousarray(data)), properties, turn, images[0].GetSize()[::-1])

    def logits(self, case: Case, fold: dict[str, Any]) -> torch.Tensor:
        """Logits [C, z, y, x] on the network's grid of a fold, by its entry in the metadata. Raises ModelError."""
        self._network.load(fold)
        try:
            return self._logits(case)
        except RuntimeError as error:
            if not (self._predictor.perform_everything_on_device and is_out_of_memory(error)):
                raise
        self._predictor.perform_everything_on_device = False
        self._control.notify(SUMS_IN_MAIN_MEMORY)
        empty_cache(self._device)
        return self._logits(case)

    def _logits(self, case: Case) -> torch.Tensor:
        self._watch.restart()
        try:
            with held_back() as self._watch.interrupted, quiet(), _benchmarked_convolutions(self._device):
                logits = self._predictor.predict_sliding_window_return_logits(case.data)
        except RuntimeError as error:
            if "Encountered inf" not in str(error):
                raise
            raise no_numbers(self._model.section) from None
        if self._watch.error is not None:
            raise self._watch.error
        return logits.to("cpu")

    def probabilities(self, case: Case, logits: torch.Tensor) -> np.ndarray:
        """Class probabilities float32 [C, k, j, i] of logits on the grid of the volume as it was read."""
        with quiet():
            from nnunetv2.inference import export_prediction as export

            settings = self._plans, self._configuration, self._plans.get_label_manager(self._dataset), case.properties
            mask, p = export.convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, *settings, return_probabilities=True, num_threads_torch=torch.get_num_threads()
            )
        if self._model.regions is not None:
            p = class_probabilities(p, self._model.regions)
            self.differing.append(float(np.mean(p.argmax(0) != mask)))
        p = np.ascontiguousarray(case.turn.undone(p), np.float32)
        assert p.shape[1:] == case.shape, "the probabilities do not lie on the grid of the volume"
        return p


@contextlib.contextmanager
def _benchmarked_convolutions(device: torch.device) -> Iterator[None]:
    """Context in which cuDNN chooses the fastest convolutions, as nnU-Net wants; other models run without it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
