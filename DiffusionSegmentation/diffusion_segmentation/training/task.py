"""What is optimised, as Lightning wants it: encoder and denoiser on one loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from monai.losses import DiceLoss

from ..errors import InputError
from ..images.label_file import IGNORED
from ..networks import CHANNELS_LAST, Denoiser, Encoder
from .density import Density
from .loss import cross_entropy, losses, predictions
from .settings import Optimisation

MOST_WARM_UP = 0.1
"""Share of the training."""


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
        self._dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True)

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
                loss = loss + self.optimisation.dice_weight * self._dice_loss(answer, truth)
        return plain[0].view(len(image), -1).mean(1), plain[1].view(log_snr.shape), loss

    def _dice_loss(self, answer: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Of logits [N, 8C, z, y, x] and labels [N, 8, z, y, x]; IGNORED voxels are background in both."""
        by_class = answer.float().unflatten(1, (self.classes, -1)).flatten(2)
        ignored = (truth == IGNORED).flatten(1)
        certain = torch.full_like(by_class, -50.0)
        certain[:, 0] = 50.0
        by_class = torch.where(ignored[:, None], certain, by_class)
        return self._dice(by_class, torch.where(ignored, 0, truth.flatten(1))[:, None])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Over by a tenth of the training, however few steps a clock leaves it.
        warm = min(1.0, max((self.global_step + 1) / self.optimisation.warm_up, self.done() / MOST_WARM_UP))
        rate = self.optimisation.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.done())))
        for group in optimizer.param_groups:
            group["lr"] = rate

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, **_: object) -> None:
        """Limits the gradient's norm to 1. Raises InputError where it is not finite: the weights are still good."""
        if not torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0).isfinite():
            raise InputError(
                f"The gradient of iteration {self.global_step + 1} is not finite, so training stopped before it; go on "
                "with --resume and a lower 'learning_rate' or 'precision' float32 in the configuration."
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Fused: on a small network the step itself takes 1.3 ms in place of 9 (180 tensors, one CPU thread).
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(learning, lr=self.optimisation.learning_rate, weight_decay=1e-2, fused=True)


class Average(WeightAveraging):
    """Exponential moving average of the weights, which is what is kept: young at first, then with a fixed decay."""

    def __init__(self, decay: float) -> None:
        def towards(average: torch.Tensor, current: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
            n = int(count)
            return average.lerp(current, 1 - min(decay, (n + 1) / (n + 10)))

        super().__init__(use_buffers=False, avg_fn=towards)
