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

from ..errors import Cancelled, ModelError
from ..segmentation.run_control import RunControl, SamplingStopped
from .library import quiet
from .model import NnunetModel
from .orientation import Turn

STEP_SIZE = 0.5  # of the windows, as a share of their edges; nnU-Net's default


@dataclass(frozen=True)
class Case:
    """A preprocessed volume.

    Attributes:
        data: float32 [inputs, z, y, x] on the network's grid.
        properties: of nnU-Net, with which logits return to the grid of `image`.
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
    """

    def __init__(
        self, model: NnunetModel, device: torch.device, control: RunControl, on_pass: Callable[[int, int], None]
    ) -> None:
        with quiet():
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

            self._model = model
            self._plans, self._dataset = PlansManager(model.plans()), model.dataset()
            self._configuration = self._plans.get_configuration(model.settings["configuration"])
            self._watched = _Watched(model.network, model.classes, control, on_pass)
            self._predictor = _predictor(self._watched, device)
            arguments = self._plans, self._configuration, None, self._dataset, model.settings["trainer"]
            self._predictor.manual_initialization(self._watched, *arguments, model.settings["mirror_axes"] or None)

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
        return Case(torch.from_numpy(np.ascontiguousarray(data)), properties, turn, image.GetSize()[::-1])

    def logits(self, case: Case, fold: dict[str, Any]) -> torch.Tensor:
        """Logits [C, z, y, x] on the network's grid of a fold, by its entry in the metadata. Raises ModelError."""
        self._model.load_fold(fold)
        self._watched.start()
        try:
            with quiet(), _benchmarked_convolutions(self._predictor.device):
                logits = self._predictor.predict_sliding_window_return_logits(case.data)
        except RuntimeError as error:
            if "Encountered inf" not in str(error):
                raise
            raise no_numbers(self._model) from None
        if self._watched.stopped is not None:
            raise self._watched.stopped
        return logits.to("cpu")

    def probabilities(self, case: Case, logits: torch.Tensor) -> np.ndarray:
        """Class probabilities float32 [C, k, j, i] of logits on the grid of the volume as it was read."""
        with quiet():
            from nnunetv2.inference import export_prediction as export

            settings = self._plans, self._configuration, self._plans.get_label_manager(self._dataset), case.properties
            _, p = export.convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, *settings, return_probabilities=True, num_threads_torch=torch.get_num_threads()
            )
        p = np.ascontiguousarray(case.turn.undone(p), np.float32)
        assert p.shape[1:] == case.shape, "the probabilities do not lie on the grid of the volume"
        return p


class _Watched(torch.nn.Module):
    """A network whose passes are counted and can be cancelled.

    An exception in nnU-Net's loop over the windows would leave its thread waiting forever, with the volume. So after a
    cancel the passes return zeros until the loop has ended, and `_Windows` end it after the windows that are queued.
    """

    def __init__(
        self, network: torch.nn.Module, heads: int, control: RunControl, on_pass: Callable[[int, int], None]
    ) -> None:
        super().__init__()
        self.network, self.windows = network, _Windows(self)
        self._heads, self._control, self._on_pass = heads, control, on_pass
        self.start()

    def start(self) -> None:
        """Begin with another fold."""
        self.stopped: Cancelled | SamplingStopped | None = None
        self._passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stopped is None:
            try:
                with self._control.checked_layers():
                    output = self.network(x)
                self._passes += 1
                self._on_pass(self._passes, self.windows.passes)
                return output
            except (Cancelled, SamplingStopped) as stopped:
                self.stopped = stopped
        return x.new_zeros((len(x), self._heads, *x.shape[2:]))


class _Windows(list[Any]):
    """Windows of a volume, which end once the network is stopped."""

    def __init__(self, network: _Watched) -> None:
        super().__init__()
        self._network, self.passes = network, 0

    def __iter__(self) -> Iterator[Any]:
        for window in super().__iter__():
            if self._network.stopped is not None:
                return
            yield window


def _predictor(watched: _Watched, device: torch.device) -> Any:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    class Predictor(nnUNetPredictor):
        """nnU-Net's predictor with windows that can end early. A version without this method ends later."""

        def _internal_get_sliding_window_slicers(self, image_size: tuple[int, ...]) -> list[Any]:
            watched.windows[:] = super()._internal_get_sliding_window_slicers(image_size)
            watched.windows.passes = len(watched.windows) * 2 ** len(self.allowed_mirroring_axes or ())
            return watched.windows

    # nnU-Net switches the convolutions of the whole process, and prints about an option that it does not use on a CPU.
    with _benchmarked_convolutions(device), contextlib.redirect_stdout(io.StringIO()):
        return Predictor(STEP_SIZE, device=device, allow_tqdm=False)


@contextlib.contextmanager
def _benchmarked_convolutions(device: torch.device) -> Iterator[None]:
    """Context in which cuDNN chooses the fastest convolutions, as nnU-Net wants; other models run without it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def no_numbers(model: NnunetModel) -> ModelError:
    """The error for a model that gives NaN or infinite values, as very large weights can."""
    title = model.section["title"]
    return ModelError(f"The model '{title}' gives no numbers for this volume; choose another model.")
