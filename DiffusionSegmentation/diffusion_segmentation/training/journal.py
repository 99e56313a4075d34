"""Progress and loss record of a training."""

from __future__ import annotations

import logging
import math
from typing import Any

import lightning
import numpy as np

from .loop import Budget
from .loss import BINS, bin_numbers

logger = logging.getLogger(__name__)

ROWS = 60  # rows of the record: enough for a smooth curve in a readable file
PRINT_SECONDS = 10


class Journal(Budget):
    """Budget of a training with a record of its losses.

    A row of the record has the mean losses of one sixtieth of the training: {"iteration", "direct", "denoised" [BINS]}
    in nats a voxel, None for bins of log-SNR without draws.
    """

    def __init__(self, iterations: int, minutes: float | None) -> None:
        super().__init__(iterations, minutes)
        self.record: list[dict[str, Any]] = []
        self._clear()

    def _clear(self) -> None:
        self._direct: list[float] = []
        self._sum, self._count = np.zeros(BINS), np.zeros(BINS)

    def on_train_start(self, trainer: lightning.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        self._last_print = self._last_step

    def on_train_batch_end(self, trainer: lightning.Trainer, task: Any, *_: object) -> None:
        super().on_train_batch_end(trainer, task)
        self._direct.append(task.step_losses["direct"])
        bins = bin_numbers(task.step_losses["log_snr"])
        self._sum += np.bincount(bins, task.step_losses["denoised"], BINS)
        self._count += np.bincount(bins, minlength=BINS)
        if len(self.record) < math.floor(ROWS * self.done()):
            self._write_row()
        if self._last_step - self._last_print > PRINT_SECONDS and trainer.is_global_zero:
            self._last_print = self._last_step
            left = self.spent * (1 - self.done()) / max(self.done(), 1e-9)
            recent = np.mean(self._direct or [self.record[-1]["direct"]])
            logger.info(
                f"iteration {self.done_iterations}, cross-entropy {recent:.4f} nats (direct head), "
                f"{left / 60:.0f} min left"
            )

    def _write_row(self) -> None:
        with np.errstate(invalid="ignore"):
            means = self._sum / self._count
        denoised = [None if math.isnan(v) else float(f"{v:.5g}") for v in means]
        direct = float(np.mean(self._direct))
        self.record.append({"iteration": self.done_iterations, "direct": direct, "denoised": denoised})
        self._clear()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "record": self.record}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.record = list(state["record"])
