"""Lightning module that trains encoder and denoiser on one loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import InputError
from ..networks import CHANNELS_LAST, Denoiser, Encoder
from .loop import TrainingModule
from .loss import cross_entropy, dice_loss, predictions
from .settings import Optimisation


class Segmenter(TrainingModule):
    """Encoder and denoiser in training.

    The loss is the cross-entropy of the direct head plus that of the denoiser, each a mean over voxels and cases;
    `dice_weight` and `class_weights` change its optimum from the true posterior. With a frozen encoder its term is a
    constant.
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
        super().__init__(optimisation, input_scale, done)
        self.encoder, self.denoiser, self.classes = encoder, denoiser, classes
        encoder.requires_grad_(optimisation.learns == "both")
        self.step_losses: dict[str, Any] = {}

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        image, labels = batch
        image = image.contiguous(memory_format=CHANNELS_LAST[image.ndim - 2])
        log_snr = self.density.draw(len(image), self.optimisation.draws, self._rng).to(image.device)
        direct, denoised, loss = self._losses(image, labels, log_snr)
        self.step_losses = {
            "direct": float(direct.detach().mean()),
            "log_snr": log_snr.flatten().cpu().numpy(),
            "denoised": denoised.detach().flatten().float().cpu().numpy(),
        }
        self.density.record(self.step_losses["log_snr"], self.step_losses["denoised"])
        return loss

    def _losses(
        self, image: torch.Tensor, labels: torch.Tensor, log_snr: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cross-entropies of the direct head [N] and the denoiser [N, K], and the minimised loss."""
        heads = predictions(self.encoder, self.denoiser, image, labels, self.classes, log_snr)
        weights, dice_weight = self.optimisation.class_weights, self.optimisation.dice_weight
        direct, denoised = (cross_entropy(*head, self.classes) for head in heads)
        loss = direct.mean() + denoised.mean()
        if weights:
            factors = torch.tensor(weights, device=loss.device)
            loss = torch.stack([cross_entropy(*head, self.classes, factors).mean() for head in heads]).sum()
        if dice_weight:
            loss = loss + dice_weight * torch.stack([dice_loss(*head, self.classes) for head in heads]).sum()
        return direct.view(len(image), -1).mean(1), denoised.view(log_snr.shape), loss

    def handle_infinite_gradient(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises InputError."""
        raise InputError(
            f"The gradient of iteration {self.global_step + 1} is not finite, so training stopped before it; go on "
            "with --resume and a lower 'learning_rate' or 'precision' float32 in the configuration."
        )
