"""A network whose passes are counted and can fail within nnU-Net's loop over the windows of a volume.

nnU-Net cuts out the windows in a thread of its own. An exception in the loop would leave this thread waiting forever,
with the volume. So the first exception of a pass is kept, later passes return zeros, and the windows end after those
that are queued; then the loop ends, and the exception is raised. Ctrl+C ends the windows in the same way.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from ..segmentation.run_control import RunControl


class Watch:
    """Passes and first exception of the prediction of one fold.

    `on_pass` is called after each pass with the number of passes so far and of all.
    """

    def __init__(self, control: RunControl, on_pass: Callable[[int, int], None]) -> None:
        self.control = control
        self._on_pass = on_pass
        self.restart()

    def restart(self) -> None:
        """Begin with a fold."""
        self.error: Exception | None = None
        self.interrupted: Callable[[], bool] = lambda: False
        self.done = self.passes = 0

    @property
    def ends(self) -> bool:
        """Whether no more windows are needed."""
        return self.error is not None or self.interrupted()

    def count(self) -> None:
        """Report one more pass."""
        self.done += 1
        self._on_pass(self.done, self.passes)


class WatchedNetwork(torch.nn.Module):
    """A network with `heads` logits for each voxel whose passes are counted, and can be cancelled at each layer."""

    def __init__(self, network: torch.nn.Module, heads: int, watch: Watch) -> None:
        super().__init__()
        self.network, self._heads, self._watch = network, heads, watch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        watch = self._watch
        if not watch.ends:
            try:
                with watch.control.checked_layers():
                    output = self.network(x)
                watch.count()
                return output
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # they hold the features of the failed pass
                watch.error = error
        return x.new_zeros((len(x), self._heads, *x.shape[2:]))


class WatchedWindows(list[Any]):
    """Windows of a volume, which end after the first exception."""

    def __init__(self, windows: Iterable[Any], watch: Watch) -> None:
        super().__init__(windows)
        self._watch = watch

    def __iter__(self) -> Iterator[Any]:
        return itertools.takewhile(lambda _: not self._watch.ends, super().__iter__())
