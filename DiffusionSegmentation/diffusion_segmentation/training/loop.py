"""The training loop of a model and of a study's variants: time limit, record, averaged weights, Lightning's trainer."""

from __future__ import annotations

import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..errors import InputError
from .loss import BINS, bin_numbers
from .task import TrainingModule

logger = logging.getLogger(__name__)

ROWS = 60  # rows of the record: enough for a smooth curve in a readable file
PRINT_SECONDS = 10


class Journal(lightning.Callback):
    """Ends a training after `iterations`, or after `minutes` of `clock` (s) over all resumed runs, and records it.

    A row of the record has the mean losses of one sixtieth of the training: {"iteration", "direct", "denoised" [BINS]}
    in nats per voxel, None for bins of log-SNR without draws. Lightning stores the state in a checkpoint under the
    class's name.
    """

    def __init__(self, iterations: int, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.iterations, self.clock = iterations, clock
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
        self._last_step = self._last_print = self.clock()
        trainer.should_stop = self.done() >= 1

    def on_train_batch_end(self, trainer: lightning.Trainer, task: Any, *_: object) -> None:
        now = self.clock()
        self.spent += now - self._last_step
        self._last_step = now
        self.done_iterations = trainer.global_step
        if task.step_losses:
            self._record(task.step_losses, trainer.is_global_zero)
        # All processes must stop at the same step, or the others would wait forever.
        if trainer.strategy.reduce_boolean_decision(self.done() >= 1, all=False):
            trainer.should_stop = True

    def _record(self, losses: dict[str, Any], prints: bool) -> None:
        self._direct.append(losses["direct"])
        bins = bin_numbers(losses["log_snr"])
        self._sum += np.bincount(bins, losses["denoised"], BINS)
        self._count += np.bincount(bins, minlength=BINS)
        if len(self.record) < math.floor(ROWS * self.done()):
            with np.errstate(invalid="ignore"):
                means = self._sum / self._count
            denoised = [None if math.isnan(v) else float(f"{v:.5g}") for v in means]
            direct = float(np.mean(self._direct))
            self.record.append({"iteration": self.done_iterations, "direct": direct, "denoised": denoised})
            self._clear()
        if self._last_step - self._last_print > PRINT_SECONDS and prints:
            self._last_print = self._last_step
            left = self.spent * (1 - self.done()) / max(self.done(), 1e-9)
            recent = np.mean(self._direct or [self.record[-1]["direct"]])
            logger.info(
                f"iteration {self.done_iterations}, cross-entropy {recent:.4f} nats (direct head), "
                f"{left / 60:.0f} min left"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent, "iterations": self.done_iterations, "record": self.record}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent, self.done_iterations, self.record = state["spent"], state["iterations"], list(state["record"])


class Average(WeightAveraging):
    """Exponential moving average of the weights, whose decay rises to `decay`.

    Lightning stores its state in a checkpoint under the class's name.
    """

    def __init__(self, decay: float) -> None:
        def average(means: Any, current: Any, count: torch.Tensor | int) -> None:
            n = int(count)
            get_ema_multi_avg_fn(min(decay, (n + 1) / (n + 10)))(means, current, n)

        super().__init__(use_buffers=False, multi_avg_fn=average)


def fit(
    module: TrainingModule,
    journal: Journal,
    checkpoint: Path,
    interval: timedelta,
    gpus: Sequence[int],
    data: lightning.LightningDataModule | None = None,
    callbacks: Sequence[lightning.Callback] = (),
) -> bool:
    """Train to the end of `journal`, from `checkpoint` if it exists; the networks then hold the averaged weights.

    Writes `checkpoint`, a .ckpt file, at each `interval`, at Ctrl+C or an error, and at the end. Trains on the CPU
    where `gpus`, indices of devices, is empty; without `data` the module loads its own. Returns whether this is the
    first of the processes, one for each GPU. Raises InputError if the checkpoint is of other networks.
    """
    # Lightning's advice is for developers.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    checkpoints = ModelCheckpoint(
        checkpoint.parent,
        checkpoint.stem,
        save_on_exception=True,
        train_time_interval=interval,
        enable_version_counter=False,
    )
    optimisation = module.optimisation
    trainer = lightning.Trainer(
        accelerator="gpu" if gpus else "cpu",
        devices=list(gpus) or 1,
        strategy="ddp" if len(gpus) > 1 else "auto",
        precision="bf16-mixed" if optimisation.precision == "bf16" else "32-true",
        benchmark=bool(gpus),  # the windows have few shapes
        max_steps=optimisation.iterations,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[journal, Average(optimisation.average), *callbacks, checkpoints],
    )
    resumed = str(checkpoint) if checkpoint.exists() else None
    if resumed:
        _require_same_networks(module, checkpoint)
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    except SystemExit:
        # Lightning turns Ctrl+C into sys.exit(1) and leaves the signal ignored.
        if trainer.interrupted:
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from None
        raise
    trainer.save_checkpoint(checkpoint)
    return trainer.is_global_zero


def _require_same_networks(module: torch.nn.Module, checkpoint: Path) -> None:
    """Raise InputError, before anything is overwritten, unless a checkpoint has the weights of `module`."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    own = module.state_dict()
    if {name: tensor.shape for name, tensor in stored.items()} != {name: t.shape for name, t in own.items()}:
        raise InputError(
            "The unfinished training has other networks than this command describes; continue it with the options and "
            "the configuration that it began with."
        )
