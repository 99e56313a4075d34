"""Progress, time limit and loss record of a training."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import lightning
import numpy as np

from .loss import BINS, bin_numbers

logger = logging.getLogger(__name__)

ROWS = 60  # rows of the record: enough for a smooth curve in a readable file
PRINT_SECONDS = 10


class Journal(lightning.Callback):
    """Ends a training after `iterations`, or after `minutes` of training time over all resumed runs, and records it.

    A row of the record has the mean losses of one sixtieth of the training: {"iteration", "direct", "denoised" [BINS]}
    in nats a voxel, None for bins of log-SNR without draws. Lightning stores the state in a checkpoint under the
    class's name.
    """

    def __init__(self, iterations: int, minutes: float | None) -> None:
        self.iterations = iterations
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.spent, self.done_iterations = 0.0, 0
        self.record: list[dict[str, Any]] = []
        self._clear()

    def _clear(self) -> None:
        self._direct: list[float] = []
        self._sum, self._count = np.zeros(BINS), np.zeros(BINS)

    def done(self) -> float:
        """Completed share of the training, by iterations or by time, whichever is further."""
        return min(1.0, max(self.done_iterations / self.iterations, self.spent / self.seconds))

    def on_train_start(self, trainer: lightning.Trainer, task: Any) -> None:
        self._last_step = self._last_print = time.monotonic()
        trainer.should_stop = self.done() >= 1

    def on_train_batch_end(self, trainer: lightning.Trainer, task: Any, *_: object) -> None:
        now = time.monotonic()
        self.spent += now - self._last_step
        self._last_step = now
        self.done_iterations = trainer.global_step
        self._direct.append(task.step_losses["direct"])
        bins = bin_numbers(task.step_losses["log_snr"])
        self._sum += np.bincount(bins, task.step_losses["denoised"], BINS)
        self._count += np.bincount(bins, minlength=BINS)
        if len(self.record) < math.floor(ROWS * self.done()):
            self._write_row()
        if now - self._last_print > PRINT_SECONDS and trainer.is_global_zero:
            self._last_print = now
            left = self.spent * (1 - self.done()) / max(self.done(), 1e-9)
            recent = np.mean(self._direct or [self.record[-1]["direct"]])
            logger.info(
                f"iteration {self.done_iterations}, cross-entropy {recent:.4f} nats (direct head), "
                f"{left / 60:.0f} min left"
            )
        # All processes must stop at the same step, or the others would wait for ever.
        if trainer.strategy.reduce_boolean_decision(self.done() >= 1, all=False):
            trainer.should_stop = True

    def _write_row(self) -> None:
        with np.errstate(invalid="ignore"):
            means = self._sum / self._count
        denoised = [None if math.isnan(v) else float(f"{v:.5g}") for v in means]
        direct = float(np.mean(self._direct))
        self.record.append({"iteration": self.done_iterations, "direct": direct, "denoised": denoised})
        self._clear()

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent, "iterations": self.done_iterations, "record": self.record}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent, self.done_iterations, self.record = state["spent"], state["iterations"], list(state["record"])
