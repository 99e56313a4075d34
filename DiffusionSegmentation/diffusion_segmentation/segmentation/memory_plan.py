"""How a run gets by with the memory there is: said before it starts, and made smaller step by step where it fails."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..diffusion.copula import field_bytes
from ..model.folder import Model
from ..runtime import devices, memory
from .tiling import Tiling

MOST_AT_ONCE = 8
STATES_A_SAMPLE = 12
"""Arrays as large as the state, float32, of one sample that is drawn and taken into the statistics; measured."""
FEATURES_A_PASS = 6
STATES_A_PASS = 2
"""Arrays as large as the finest features and as the state that the encoder's pass over a window holds; measured."""
RESULT_BYTES = 13
"""For a voxel of the input: labels and entropy, each a second time on the way into its file, and slabs; measured."""
SMALLER = "the model looks through smaller windows; with more memory the result can differ"
SMALLEST_SHARE = 0.5
"""Of the model's window along an axis. With less around them the networks do not know where they are: for the shipped
model, masks of the same seeds agree by a Dice of 0.95 with half the window and of 0.44 with a quarter of it."""


def most_at_once(device: torch.device) -> int:
    """How many samples are drawn together at most: on a CPU one, because two take twice as long or longer there.

    Their states no longer fit what the allocator reuses.
    """
    return 1 if device.type == "cpu" else MOST_AT_ONCE


class MemoryPlan:
    """How many samples are drawn at a time, and in windows of what size; `less` is the next smaller plan.

    Attributes:
        window: voxels [z, y, x], at first the model's.
        store: the device that keeps the features of windows whose turn it is not.
        notes: what was made smaller, one sentence each.
        frame: voxels of the whole working grid, for which a correlated start is drawn; None while it is not known.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.model, self.device = model, device
        self.window: tuple[int, ...] = tuple(model.section["window"])
        self.store = device
        self.notes: list[str] = []
        self.frame: tuple[int, ...] | None = None
        self._at_once = most_at_once(device)

    def group(self, tiling: Tiling) -> int:
        """How many samples are drawn together: as many as half of a GPU's free memory holds, or a failure has left."""
        free = devices.free_bytes(self.device)
        if free is None:
            return self._at_once
        return max(1, min(self._at_once, int(0.5 * free / (STATES_A_SAMPLE * self._state(tiling.cells)))))

    def require(self, tiling: Callable[[], Tiling], voxels: int, box_voxels: int) -> str:
        """Raise OutOfMemoryError, with the figures, where the run cannot fit into this computer's memory.

        Returns a sentence on what was made smaller for it to fit, or nothing.

        `tiling` tells how the volume is covered now; `voxels` are the input's, `box_voxels` those of them that the
        working grid covers. Where only the encoder's pass is too much for a CPU, the windows become smaller: there an
        allocation seldom fails, the system ends the process instead. On a GPU the networks' share is left out: there a
        failure is an answer, and `less` the next try.
        """
        sentence = ""
        result = RESULT_BYTES * voxels + self.model.classes * box_voxels
        needed = self.sampling_bytes(tiling()) + result
        if self.device.type == "cpu":
            free = memory.available_memory()
            while free is not None and self.encoding_bytes(tiling()) > free and self._halve(tiling()):
                sentence = self._noted(SMALLER)
            needed = max(self.sampling_bytes(tiling()) + result, self.encoding_bytes(tiling()))
        memory.require(needed, "Segmenting this volume", "crop it, or close other programs")
        return sentence

    def encoding_bytes(self, tiling: Tiling) -> int:
        """Most that the encoder's pass over the largest window takes, in bytes, beside what is kept of all windows."""
        size = [n // 2 for n in _largest(tiling)]
        features = 4 * self.model.section["network"]["encoder"]["channels"][0] * math.prod(size)
        return FEATURES_A_PASS * features + STATES_A_PASS * self._state(size) + self._kept(tiling)

    def sampling_bytes(self, tiling: Tiling) -> int:
        """Most that drawing one sample and taking it in takes, in bytes. It does not grow with their number."""
        start, fields = self.model.start, 0
        if start is not None:
            fields = field_bytes(start.covariance, self.model.spacing, self.frame or tiling.padded)
        return STATES_A_SAMPLE * self._state(tiling.cells) + self._kept(tiling) + fields

    def _kept(self, tiling: Tiling) -> int:
        """Bytes of what is kept of all windows: the features as the denoiser wants them, and the direct answer."""
        denoiser = self.model.section["network"]["denoiser"]
        expected = 2 * self.model.classes if denoiser.get("pools") else 0
        prepared = 4 * (denoiser["channels"][0] + denoiser.get("strata", 0) + expected)
        return sum(
            prepared * math.prod(size) + self._state(size)
            for size in ([s.stop - s.start for s in window] for window in tiling.windows)
        )

    def _state(self, cells: tuple[int, ...] | list[int]) -> int:
        return 4 * 2**self.model.dims * self.model.classes * math.prod(cells)

    def less(self, group: int, tiling: Tiling) -> str:
        """Make the next try smaller, after one of `group` samples at a time has failed; returns a sentence on that.

        Fewer samples at a time change no sample beyond rounding. Smaller windows do: a window's networks see less
        around each voxel, which the sentence says. Raises OutOfMemoryError where nothing is left to make smaller.
        """
        if group > 1:
            self._at_once = group // 2
            return self._noted("fewer samples are drawn at a time")
        if not self._halve(tiling):
            raise devices.out_of_memory_error(self.device)
        return self._noted(SMALLER)

    def _halve(self, tiling: Tiling) -> bool:
        """Halve the windows, and keep their features in main memory; False where they are as small as they may be."""
        size, multiple = _largest(tiling), self.model.multiple
        halves = tuple(
            math.ceil(min(n, max(n / 2, SMALLEST_SHARE * own)) / multiple) * multiple
            for n, own in zip(size, self.model.section["window"], strict=True)
        )
        if math.prod(halves) >= math.prod(size):
            return False
        self._at_once, self.window, self.store = 1, halves, torch.device("cpu")
        return True

    def _noted(self, change: str) -> str:
        sentence = f"The memory of '{self.device}' is short, so {change}."
        if sentence not in self.notes:
            self.notes.append(sentence)
        return sentence


def _largest(tiling: Tiling) -> list[int]:
    """Voxels along each axis of the largest window."""
    return [2 * max(s.stop - s.start for s in axis) for axis in zip(*tiling.windows, strict=True)]
