"""Lightning modules in training: what a model and a study's variants have in common, and the model's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch

from ..errors import InputError
from ..networks import CHANNELS_LAST, AnyEncoder, Denoiser
from .density import Density
from .known_voxels import FACTS_SHARE, RandomFacts
from .loss import losses
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
        self.step_losses: dict[str, Any] = {}  # losses of the last step for the record of `Journal`, if it has one
        self._rng = np.random.default_rng(optimisation.seed)

    def on_train_start(self) -> None:
        """Seed the noise levels, differently for each device and after each resume, whose step is known only now."""
        self._rng = np.random.default_rng([self.optimisation.seed, self.global_rank, self.global_step])
        torch.manual_seed(int(self._rng.integers(2**62)))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate: a linear warm-up, and a cosine to 2 % of the peak."""
        done, o = self.done(), self.optimisation
        warm = min(1.0, max((self.global_step + 1) / o.warm_up, done / MAX_WARM_UP))
        for group in optimizer.param_groups:
            group["lr"] = o.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the gradient's norm to 1."""
        if not torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0).isfinite():
            self.handle_infinite_gradient(optimizer)

    def handle_infinite_gradient(self, optimizer: torch.optim.Optimizer) -> None:
        """Called for a gradient that is not finite, before the weights change. Raises InputError."""
        raise InputError(
            f"The gradient of iteration {self.global_step + 1} is not finite, so training stopped before it; "
            "continue with --resume and a lower 'learning_rate' or 'precision' float32 in the configuration."
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on the parameters that require a gradient."""
        # Fused: on a small network a step takes 1.3 ms instead of 9 (180 tensors, one CPU thread).
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trainable, lr=self.optimisation.learning_rate, weight_decay=1e-2, fused=True)


class Segmenter(TrainingModule):
    """Encoder and denoiser in training.

    The loss is the cross-entropy of the direct head plus that of the denoiser, each a mean over voxels and cases;
    `dice_weight` and `class_weights` change its optimum from the true posterior. With a frozen encoder its term is a
    constant.
    """

    def __init__(
        self,
        encoder: AnyEncoder,
        denoiser: Denoiser,
        classes: int,
        optimisation: Optimisation,
        input_scale: float,
        done: Callable[[], float],
    ) -> None:
        super().__init__(optimisation, input_scale, done)
        self.encoder, self.denoiser, self.classes = encoder, denoiser, classes
        encoder.trained.requires_grad_(optimisation.learns == "both")
        if optimisation.learns == "facts":  # the samples without facts stay as they are
            if denoiser.facts is None:
                raise InputError('To learn facts, the denoiser in the training configuration needs "facts": true.')
            denoiser.requires_grad_(False)
            denoiser.facts.requires_grad_(True)
        if encoder.trained is not encoder:
            encoder.trained.head.requires_grad_(False)  # the frozen network is the direct head

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        image, labels = batch
        image = image.contiguous(memory_format=CHANNELS_LAST[image.ndim - 2])
        log_snr = self.density.draw(len(image), self.optimisation.draws, self._rng).to(image.device)
        networks, o = (self.encoder, self.denoiser), self.optimisation
        share = 1.0 if o.learns == "facts" else FACTS_SHARE
        facts = None if self.denoiser.facts is None else RandomFacts(self._rng, share)
        terms = losses(*networks, image, labels, self.classes, log_snr, o.class_weights, o.dice_weight, facts)
        direct, denoised, loss = terms[0].detach(), terms[1].detach().flatten().float().cpu().numpy(), terms[2]
        without_facts = np.isfinite(denoised)
        self.step_losses = {
            "direct": float(direct.mean()),
            "log_snr": log_snr.flatten().cpu().numpy()[without_facts],
            "denoised": denoised[without_facts],
        }
        self.density.record(self.step_losses["log_snr"], self.step_losses["denoised"])
        return loss
