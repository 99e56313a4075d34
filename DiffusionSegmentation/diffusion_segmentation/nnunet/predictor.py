"""nnU-Net's predictor with windows that can end early; only importable with nnunetv2."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from .watched import Watch, WatchedWindows

STEP_SIZE = 0.5  # of the windows, as a share of their edges; nnU-Net's default


class Predictor(nnUNetPredictor):
    """nnU-Net's predictor for a watched network."""

    def __init__(self, watch: Watch, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        super().__init__(STEP_SIZE, perform_everything_on_device=on_gpu, device=device, allow_tqdm=False)
        self._watch = watch

    def _internal_get_sliding_window_slicers(self, image_size: tuple[int, ...]) -> list[Any]:
        """Windows of a volume. A version of nnU-Net without this method ends later."""
        windows = super()._internal_get_sliding_window_slicers(image_size)
        self._watch.passes = len(windows) * 2 ** len(self.allowed_mirroring_axes or ())
        return WatchedWindows(windows, self._watch)
