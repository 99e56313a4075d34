"""The training loop of a model and of a study's variants: optimisation, budget and Lightning's trainer."""

from __future__ import annotations

import logging
import math
import signal
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

from .density import Density
from .settings import Optimisation

MAX_WARM_UP = 0.1  # longest warm-up, as a share of the training: a time limit may leave few steps


class TrainingModule(lightning.LightningModule):
    """Networks in training: optimiser, learning rate, gradient clipping, seeds, and the density of noise levels.

    The names of submodules are those of checkpoints.
    """

    def __init__(self, optimisation: Optimisation, input_scale: float, done: Callable[[], float]) -> None:
        """`done` returns the completed share of the training, 0 to 1, which sets the learning rate."""
        super().__init__()
        self.optimisation, self.done = optimisation, done
        self.density = Density(input_scale, optimisation.density == "adapted", optimisation.lowest_log_snr)
        self._rng = np.random.default_rng(optimisation.seed)

    @abstractmethod
    def handle_infinite_gradient(self, optimizer: torch.optim.Optimizer) -> None:
        """Called for a gradient that is not finite, before the weights change."""

    def on_fit_start(self) -> None:
        """Seed the noise levels, differently for each device and after each resume."""
        self._rng = np.random.default_rng([self.optimisation.seed, self.global_rank, self.global_step])
        torch.manual_seed(int(self._rng.integers(2**62)))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate: a linear warm-up, and a cosine to 2 % of the peak."""
        done, o = self.done(), self.optimisation
        warm = min(1.0, max((self.global_step + 1) / o.warm_up, done / MAX_WARM_UP))
        for group in optimizer.param_groups:
            group["lr"] = o.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm to 1."""
        if not torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0).isfinite():
            self.handle_infinite_gradient(optimizer)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on the parameters that require a gradient."""
        # Fused: on a small network a step takes 1.3 ms instead of 9 (180 tensors, one CPU thread).
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trainable, lr=self.optimisation.learning_rate, weight_decay=1e-2, fused=True)


class Average(WeightAveraging):
    """Exponential moving average of the weights, whose decay rises to `decay`.

    Lightning stores its state in a checkpoint under the class's name.
    """

    def __init__(self, decay: float) -> None:
        def average(means: Any, current: Any, count: torch.Tensor | int) -> None:
            n = int(count)
            torch._foreach_lerp_(means, current, 1 - min(decay, (n + 1) / (n + 10)))

        super().__init__(use_buffers=False, multi_avg_fn=average)


class Budget(lightning.Callback):
    """Ends a training after `iterations`, or after `minutes` of `clock` (s) over all resumed runs.

    Lightning stores the state in a checkpoint under the class's name.
    """

    def __init__(self, iterations: int, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.iterations, self.clock = iterations, clock
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.spent, self.done_iterations = 0.0, 0

    def done(self) -> float:
        """Completed share of the training, by iterations or by time, whichever is further."""
        return min(1.0, max(self.done_iterations / self.iterations, self.spent / self.seconds))

    def on_train_start(self, trainer: lightning.Trainer, task: Any) -> None:
        self._last_step = self.clock()
        trainer.should_stop = self.done() >= 1

    def on_train_batch_end(self, trainer: lightning.Trainer, task: Any, *_: object) -> None:
        now = self.clock()
        self.spent += now - self._last_step
        self._last_step = now
        self.done_iterations = trainer.global_step
        # All processes must stop at the same step, or the others would wait for ever.
        if trainer.strategy.reduce_boolean_decision(self.done() >= 1, all=False):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent, "iterations": self.done_iterations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent, self.done_iterations = state["spent"], state["iterations"]


def fit(
    module: TrainingModule,
    data: lightning.LightningDataModule | Iterable[Any],
    budget: Budget,
    checkpoint: Path,
    interval: timedelta,
    gpus: Sequence[int],
    callbacks: Sequence[lightning.Callback] = (),
) -> bool:
    """Train to the end of `budget`, from `checkpoint` if it exists; the networks then hold the averaged weights.

    Writes `checkpoint`, a .ckpt file, at each `interval`, at Ctrl+C or an error, and at the end. Trains on the CPU
    where `gpus`, indices of devices, is empty. Returns whether this is the first of the processes, one for each GPU.
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
        max_steps=optimisation.iterations,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[budget, Average(optimisation.average), *callbacks, checkpoints],
    )
    resumed = str(checkpoint) if checkpoint.exists() else None
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
