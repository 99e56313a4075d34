"""Memory of a run: estimated before it starts, and reduced step by step when it is exhausted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..diffusion.copula import field_bytes
from ..images.volume import WORKING_BYTES
from ..model.folder import Model
from ..runtime import devices, memory
from .ensemble import MAX_MASKS
from .folded_image import odds_bytes
from .tiling import Tiling

STATES_PER_SAMPLE = 12
"""Peak memory of drawing a sample and adding it to the statistics, as multiples of the state; measured."""
FEATURES_PER_PASS, STATES_PER_PASS = 6, 2
"""Peak memory of the encoder on a window: multiples of its finest features and of the state; measured."""
RESULT_BYTES = 13  # per voxel of the input: labels, entropy, the copies that are written, and blocks; measured
KEPT_BYTES = 3 * 2**27
"""Largest memory of the noise that is kept for an update, and of the maps. Of 16 samples of a head it is up to 370 MB,
and the maps take 130 MB."""
KEPT_MAP_BYTES = 10  # per voxel of the input: labels and entropy of the map and of the votes
NEAREST_BYTES = 4  # the same: indices of the nearest voxels, by which copula masks are projected
ONE_FOLD = "the features of one fold are kept at a time and computed again for every sample, which takes longer"
SMALLER_WINDOWS = "the model uses smaller windows; with more memory the result can differ"
MIN_WINDOW_SHARE = 0.5
"""Smallest window edge as a share of the model's. The networks need context: masks of the shipped model from the same
seeds have a Dice of 0.95 with those of the full window if the edge is halved, and of 0.44 if it is quartered."""


def max_group_size(device: torch.device) -> int:
    """Largest number of samples to draw together: one on a CPU, where two take at least twice as long."""
    return 1 if device.type == "cpu" else 8


class MemoryPlan:
    """Number of samples drawn together and size of the windows; `shrink` makes them smaller."""

    def __init__(self, model: Model, device: torch.device, keeps: bool = False) -> None:
        """`keeps`: whether noise and maps are kept for an update."""
        self.model, self.device, self._keeps = model, device, keeps
        self.window: tuple[int, ...] = tuple(model.section["window"])  # voxels [z, y, x]
        self.store = device  # holds the features of all windows
        self.notes: list[str] = []  # one sentence for each reduction
        self.slices = 1  # of a stack whose slices are encoded one by one
        self.folds = 0  # of the network that others trained whose log-odds are channels of the image
        self.holds_all_folds = True  # whether the features of all of them are kept
        self.frame: tuple[int, ...] | None = None  # the whole working grid, once known; correlated starts fill it
        self._max_group = max_group_size(device)

    def group_size(self, tiling: Tiling) -> int:
        """Number of samples to draw together: what fits into half of a GPU's free memory, halved by each `shrink`."""
        free = devices.free_bytes(self.device)
        fitting = (
            math.inf
            if free is None
            else 0.5 * free / (self.slices * STATES_PER_SAMPLE * self._state_bytes(tiling.cells))
        )
        return max(1, int(min(self._max_group, fitting)))

    def require(self, tiling: Callable[[], Tiling], voxels: int, box_voxels: int) -> None:
        """Raise OutOfMemoryError, with both figures, if the run cannot fit into this computer's memory.

        `tiling` returns the tiling of the current plan; `voxels` is the size of the input, `box_voxels` that of the
        part that the working grid covers. Where memory is short, nothing is kept for an update. On a CPU the windows
        are shrunk until the encoder fits, because the system would kill the process instead of failing an allocation.
        The memory of a GPU is not checked here: there an allocation fails, and `shrink` follows.
        """
        result = RESULT_BYTES * voxels + self.model.classes * box_voxels
        result += NEAREST_BYTES * box_voxels if self.model.is_copula_only else 0
        maps = KEPT_MAP_BYTES // 2 * voxels if self.keeps_maps(voxels) else 0  # the votes stay beside the map
        free = memory.available_memory()
        if free is not None and self.sampling_bytes(tiling()) + result + maps > free:
            self._keeps, maps = False, 0
        result += maps
        needed = self.sampling_bytes(tiling()) + result
        if self.device.type == "cpu":
            most = max(needed, self.encoding_bytes(tiling()))
            if free is not None and most > free and self._hold_one_fold():
                self._note(ONE_FOLD)
            while free is not None and self.encoding_bytes(tiling()) > free and self._halve(tiling()):
                self._note(SMALLER_WINDOWS)
            needed = max(self.sampling_bytes(tiling()) + result, self.encoding_bytes(tiling()))
        memory.require(needed, "Segmenting this volume", "crop it, or close other programs")

    @staticmethod
    def upper_bound(
        model: Model,
        device: torch.device,
        size: Sequence[int],
        spacing: Sequence[float],
        direction: Sequence[float],
    ) -> int:
        """Main memory (bytes) that a run on `device` without an update asks for at most, from the header of its volume.

        `size` (voxels) and `spacing` (mm) are those along i, j, k, `direction` as in SimpleITK. All counts as body.
        """
        plan, voxels, inputs = MemoryPlan(model, device), math.prod(size), model.section["network"].get("inputs", 1)
        extent = np.multiply(size, spacing)
        if model.dims == 2:
            plan.slices = size[2]
        else:
            extent = np.abs(np.reshape(direction, (3, 3))) @ extent  # of the box around the volume
        shape = tuple(math.ceil(mm / model.spacing) for mm in extent[: model.dims][::-1])
        plan.frame = shape
        tiling = Tiling(shape, plan.window, model.multiple)
        result = (RESULT_BYTES + NEAREST_BYTES + model.classes) * voxels
        encoding = plan.encoding_bytes(tiling) if device.type == "cpu" else 0
        return WORKING_BYTES * inputs * voxels + max(plan.sampling_bytes(tiling) + result, encoding)

    def encoding_bytes(self, tiling: Tiling) -> int:
        """Peak memory (bytes) of encoding: a pass over the largest window, and the features of all windows."""
        size = [n // 2 for n in _largest_window(tiling)]
        features = 4 * self.model.encoder.width * math.prod(size)
        passes = FEATURES_PER_PASS * features + STATES_PER_PASS * self._state_bytes(size)
        return passes + self._stored_bytes(tiling) + self._odds_bytes(tiling)

    def sampling_bytes(self, tiling: Tiling) -> int:
        """Peak memory (bytes) of drawing one sample and adding it to the statistics, whatever their number."""
        start, frame = self.model.start, self.frame or tiling.padded
        fields = 0 if start is None else field_bytes(start.covariance, self.model.spacing, frame)
        slice_bytes = STATES_PER_SAMPLE * self._state_bytes(tiling.cells) + self._held_folds * fields
        slice_bytes += self.kept_bytes
        return self.slices * slice_bytes + self._stored_bytes(tiling) + self._odds_bytes(tiling)

    @property
    def kept_bytes(self) -> int:
        """Most bytes of the noise of copula masks that an update needs again: an index for each class, and a label."""
        if not (self._keeps and self.model.is_copula_only and self.model.dims == 3) or self.folds or self.frame is None:
            return 0
        return min(KEPT_BYTES, MAX_MASKS * (2 * self.model.classes + 1) * math.prod(self.frame))

    def keeps_maps(self, voxels: int) -> bool:
        """Whether the maps of an input of this many voxels are kept for an update, of copula masks within a bound.

        A denoiser that is given facts changes all probabilities, so that maps could not be used again.
        """
        return bool(self.kept_bytes) and KEPT_MAP_BYTES * voxels + self.model.classes * voxels <= KEPT_BYTES

    @property
    def _held_folds(self) -> int:
        return self.folds if self.folds and self.holds_all_folds else 1

    def _odds_bytes(self, tiling: Tiling) -> int:
        """Bytes of the log-odds, float16 for each fold, and of those of one fold as channels of the image, padded."""
        if not self.folds:
            return 0
        channels = self.model.section["network"].get("inputs", 1) + self.model.classes - 1
        voxels = self.slices * math.prod(tiling.shape)
        stored = self.folds * odds_bytes(self.model.classes - 1, voxels)
        return stored + 4 * channels * (voxels + math.prod(tiling.padded))

    def _stored_bytes(self, tiling: Tiling) -> int:
        """Bytes of the denoiser's features and the direct head's logits of all windows, for each fold that is held.

        A model that can be given facts also stores the encoder's features, and the others once more given facts.
        """
        denoiser = self.model.section["network"]["denoiser"]
        pooled = 2 * self.model.classes if denoiser.get("pools") else 0
        prepared = 4 * (denoiser["channels"][0] + denoiser.get("strata", 0) + pooled)
        features, times = (4 * self.model.encoder.width, 2) if denoiser.get("facts") else (0, 1)
        sizes = [[s.stop - s.start for s in window] for window in tiling.windows]
        windows = sum(times * (prepared * math.prod(n) + self._state_bytes(n)) + features * math.prod(n) for n in sizes)
        marginals = 2 * self._state_bytes(tiling.cells)  # with their logarithms in the copula; the first has room
        return self.slices * (self._held_folds * windows + (self._held_folds - 1) * marginals)

    def _state_bytes(self, cells: tuple[int, ...] | list[int]) -> int:
        """Bytes of the state, float32 [2^dims * C, *cells]."""
        return 4 * 2**self.model.dims * self.model.classes * math.prod(cells)

    def shrink(self, group: int, tiling: Tiling) -> str:
        """Reduce the plan after drawing `group` samples together (1: or encoding) failed; returns a sentence about it.

        A smaller group changes samples by rounding errors only. Smaller windows change them more, because the networks
        see less context. Raises OutOfMemoryError if the plan cannot be reduced.
        """
        if group > 1:
            self._max_group = group // 2
            return self._note("fewer samples are drawn at a time")
        if self._hold_one_fold():
            return self._note(ONE_FOLD)
        if not self._halve(tiling):
            raise devices.out_of_memory_error(self.device)
        return self._note(SMALLER_WINDOWS)

    def _hold_one_fold(self) -> bool:
        """Keep the features of one fold at a time; False if there are none of others."""
        held, self.holds_all_folds = self._held_folds, False
        return held > 1

    def _halve(self, tiling: Tiling) -> bool:
        """Halve the windows and store their features in main memory; False if they are at their minimum size."""
        size, multiple = _largest_window(tiling), self.model.multiple
        halves = tuple(
            math.ceil(min(n, max(n / 2, MIN_WINDOW_SHARE * full)) / multiple) * multiple
            for n, full in zip(size, self.model.section["window"], strict=True)
        )
        if math.prod(halves) >= math.prod(size):
            return False
        self._max_group, self.window, self.store = 1, halves, torch.device("cpu")
        return True

    def _note(self, change: str) -> str:
        sentence = f"The memory of '{self.device}' is short, so {change}."
        if sentence not in self.notes:
            self.notes.append(sentence)
        return sentence


def _largest_window(tiling: Tiling) -> list[int]:
    """Edges (voxels) of the largest window."""
    return [2 * max(s.stop - s.start for s in axis) for axis in zip(*tiling.windows, strict=True)]
