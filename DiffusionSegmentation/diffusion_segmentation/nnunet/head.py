"""The folds of an nnU-Net as the direct head of a sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..segmentation.foreign_head import ForeignHead
from ..segmentation.run_control import RunControl
from .library import require_nnunetv2
from .model import read_model
from .prediction import Case, Prediction
from .run import required_bytes


class NnunetHead(ForeignHead):
    """Runs the folds with nnU-Net's own preprocessing, sliding window and resampling."""

    def __init__(self, folder: Path) -> None:
        require_nnunetv2()
        self._model = read_model(folder)
        self._model.require_weights()
        super().__init__(folder, self._model.section)

    @property
    def members(self) -> list[str]:
        return [fold["name"] for fold in self._model.folds]

    def required_bytes(self, images: Sequence[sitk.Image], on_cpu: bool) -> int:
        return required_bytes(self._model, images, on_cpu)

    def each(
        self,
        images: Sequence[sitk.Image],
        device: torch.device,
        control: RunControl,
        members: Sequence[str],
        on_pass: Callable[[int, int], None],
    ) -> Sequence[Callable[[], np.ndarray]]:
        prediction = Prediction(self._model, device, control, on_pass)
        case = prediction.preprocessed(images)
        folds = [fold for fold in self._model.folds if fold["name"] in members]
        return [partial(_probabilities, prediction, case, fold) for fold in folds]


def _probabilities(prediction: Prediction, case: Case, fold: dict[str, Any]) -> np.ndarray:
    return prediction.probabilities(case, prediction.logits(case, fold))
