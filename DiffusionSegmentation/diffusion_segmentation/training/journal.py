"""What a training tells and writes down: where it stands, the time left, the losses over noise levels."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import lightning
import numpy as np

from .loss import BINS, bin_numbers

logger = logging.getLogger(__name__)

ROWS = 60
"""Rows of the record: enough for a smooth curve, few enough for a file that a person can read."""


class Journal(lightning.Callback):
    """Clock, record and voice of a training.

    Ends it after `iterations`, or after `minutes` of training time over all resumed runs. A row of the record holds the
    mean losses of one sixtieth of the training: {"iteration", "direct", "denoised" [BINS]} in nats a voxel, NaN where
    no draw fell into a bin of log-SNR.
    """

    def __init__(self, iterations: int, minutes: float | None) -> None:
        self.iterations = iterations
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.spent, self.done_iterations = 0.0, 0
        self.record: list[dict[str, Any]] = []
        self._direct: list[float] = []
        self._sum, self._count = np.zeros(BINS), np.zeros(BINS)
        self._since = self._told = time.monotonic()

    def done(self) -> float:
        """Share of the training that is over, by iterations or by the clock, whichever is further."""
        return min(1.0, max(self.done_iterations / self.iterations, self.spent / self.seconds))

    def on_train_start(self, trainer: lightning.Trainer, task: Any) -> None:
        self._since = self._told = time.monotonic()
        trainer.should_stop = self.done() >= 1

    def on_train_batch_end(self, trainer: lightning.Trainer, task: Any, *_: object) -> None:
        now = time.monotonic()
        self.spent += now - self._since
        self._since = now
        self.done_iterations = trainer.global_step
        self._take_in(task.latest)
        if len(self.record) < math.floor(ROWS * self.done()):
            self._write_row()
        if now - self._told > 10 and trainer.is_global_zero:
            self._told = now
            left = self.spent * (1 - self.done()) / max(self.done(), 1e-9)
            logger.info(
                f"iteration {self.done_iterations}, cross-entropy {np.mean(self._recent()):.4f} nats (direct head), "
                f"{left / 60:.0f} min left"
            )
        # Processes must stop at the same step, or those left would wait for the others.
        if trainer.strategy.reduce_boolean_decision(self.done() >= 1, all=False):
            trainer.should_stop = True

    def _recent(self) -> list[float]:
        return self._direct or [self.record[-1]["direct"]]

    def _take_in(self, latest: dict[str, Any]) -> None:
        self._direct.append(latest["direct"])
        where = bin_numbers(latest["log_snr"])
        self._sum += np.bincount(where, latest["denoised"], BINS)
        self._count += np.bincount(where, minlength=BINS)

    def _write_row(self) -> None:
        with np.errstate(invalid="ignore"):
            denoised = self._sum / self._count
        self.record.append(
            {
                "iteration": self.done_iterations,
                "direct": float(np.mean(self._direct)),
                "denoised": [None if math.isnan(v) else float(f"{v:.5g}") for v in denoised],
            }
        )
        self._direct = []
        self._sum, self._count = np.zeros(BINS), np.zeros(BINS)

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent, "iterations": self.done_iterations, "record": self.record}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent, self.done_iterations, self.record = state["spent"], state["iterations"], list(state["record"])
