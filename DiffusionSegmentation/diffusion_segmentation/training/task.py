"""What is optimised, as Lightning wants it: encoder and denoiser on one loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging

from ..errors import InputError
from ..networks import CHANNELS_LAST, Denoiser, Encoder
from .density import Density
from .loss import cross_entropy, dice_loss, losses, predictions
from .optimiser import adamw, exponential_average, set_learning_rate
from .settings import Optimisation


class Segmenter(lightning.LightningModule):
    """Encoder and denoiser in training.

    The loss is the cross-entropy of the direct head plus that of the denoiser, each a mean over voxels and cases; with
    `dice_weight` or `class_weights` it is something else, whose optimum is not the true posterior. Where the denoiser
    `learns` alone, the encoder's part is a constant.
    """

    def __init__(
        self,
        encoder: Encoder,
        denoiser: Denoiser,
        classes: int,
        optimisation: Optimisation,
        input_scale: float,
        done: Callable[[], float],
    ) -> None:
        """`done` gives the share of the training that is over, 0 to 1: the learning rate falls along it."""
        super().__init__()
        self.encoder, self.denoiser, self.classes = encoder, denoiser, classes
        self.optimisation, self.done = optimisation, done
        self.density = Density(input_scale, optimisation.density == "adapted", optimisation.lowest_log_snr)
        encoder.requires_grad_(optimisation.learns == "both")
        self.latest: dict[str, Any] = {}
        self._rng = np.random.default_rng(optimisation.seed)

    def on_fit_start(self) -> None:
        """Noise levels differ between devices and after a resume."""
        self._rng = np.random.default_rng([self.optimisation.seed, self.global_rank, self.global_step])
        torch.manual_seed(int(self._rng.integers(2**62)))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        image, labels = batch
        image = image.contiguous(memory_format=CHANNELS_LAST[image.ndim - 2])
        log_snr = self.density.draw(len(image), self.optimisation.draws, self._rng).to(image.device)
        direct, denoised, loss = self._losses(image, labels, log_snr)
        self.latest = {
            "direct": float(direct.detach().mean()),
            "log_snr": log_snr.flatten().cpu().numpy(),
            "denoised": denoised.detach().flatten().float().cpu().numpy(),
        }
        self.density.record(self.latest["log_snr"], self.latest["denoised"])
        return loss

    def _losses(
        self, image: torch.Tensor, labels: torch.Tensor, log_snr: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cross-entropies of the direct head [N] and the denoiser [N, K], and what is minimised."""
        weights = self.optimisation.class_weights
        if not self.optimisation.dice_weight and not weights:
            direct, denoised = losses(self.encoder, self.denoiser, image, labels, self.classes, log_snr)
            return direct, denoised, direct.mean() + denoised.mean()
        logits, denoised_logits, target = predictions(self.encoder, self.denoiser, image, labels, self.classes, log_snr)
        loss, plain = 0.0, []
        for answer, truth in (
            (logits.repeat_interleave(labels.shape[1], 0), target),
            (denoised_logits, target.repeat_interleave(log_snr.shape[1] // labels.shape[1], 0)),
        ):
            plain.append(cross_entropy(answer, truth, self.classes))
            heavy = answer.new_tensor(weights, dtype=torch.float32) if weights else None
            loss = loss + (cross_entropy(answer, truth, self.classes, heavy) if weights else plain[-1]).mean()
            if self.optimisation.dice_weight:
                loss = loss + self.optimisation.dice_weight * dice_loss(answer, truth, self.classes)
        return plain[0].view(len(image), -1).mean(1), plain[1].view(log_snr.shape), loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        o = self.optimisation
        set_learning_rate(optimizer, o.learning_rate, self.global_step, o.warm_up, self.done())

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, **_: object) -> None:
        """Limits the gradient's norm to 1. Raises InputError where it is not finite: the weights are still good."""
        if not torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0).isfinite():
            raise InputError(
                f"The gradient of iteration {self.global_step + 1} is not finite, so training stopped before it; go on "
                "with --resume and a lower 'learning_rate' or 'precision' float32 in the configuration."
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.parameters(), self.optimisation.learning_rate)


class Average(WeightAveraging):
    """Exponential moving average of the weights. Lightning stores its state in a checkpoint under the class's name."""

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, avg_fn=exponential_average(decay))
