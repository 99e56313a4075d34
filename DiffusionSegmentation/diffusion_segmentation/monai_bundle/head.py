"""A network of MONAI as the direct head of a sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from ..segmentation.foreign_head import ForeignHead
from ..segmentation.run_control import RunControl
from .model import read_model
from .prediction import Prediction
from .run import required_bytes


class MonaiHead(ForeignHead):
    """Runs the network of a converted bundle with MONAI's transforms and windows; it is its only member."""

    def __init__(self, folder: Path) -> None:
        self._model = read_model(folder)
        self._model.require_weights()
        super().__init__(folder, self._model.section)

    @property
    def members(self) -> list[str]:
        return ["network"]

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
        data = prediction.preprocessed(images)
        return [lambda: prediction.probabilities(prediction.logits(data))]
