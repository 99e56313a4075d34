"""Training of one variant. All variants share the optimiser and the training time."""

from __future__ import annotations

import math
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..diffusion.process import alpha_sigma, linear_log_snr, sample_log_snr
from ..images.writing import atomic_file, write_report
from ..networks import CHANNELS_LAST
from ..networks.blocks import ResidualBlock
from ..runtime.floating_point import flush_denormals
from ..training.density import Density
from ..training.folder import random_start
from ..training.optimiser import adamw, exponential_average, set_learning_rate
from .architectures.catalogue import ARCHITECTURES, flops, scaled
from .architectures.interface import Architecture
from .architectures.unet import UNet
from .objectives import denoising_loss, direct_loss, image_loss, mask_loss
from .stochastic import Stochastic
from .tasks import TRAIN, Task
from .variants import DROPOUT_RATE, Variant

WIDTH = {2: 16, 3: 8}  # channels of `Pair` by number of axes; other architectures get the width of equal cost
BATCH = {2: 8, 3: 2}
DRAWS = 8  # noise levels per image, which share the cost of its encoding
LEARNING_RATE, WARM_UP, AVERAGE = 2e-3, 100, 0.999
CHECKPOINT_SECONDS = 60
CHECKPOINTED = ("network", "average", "optimiser", "density")


Network = Architecture | Stochastic | UNet
"""Of a variant with the form "diffusion" or "direct", "stochastic", and "mask" or "image"."""


def build(variant: Variant, task: Task) -> Network:
    """The variant's network, initialised from its seed."""
    torch.manual_seed(variant.random_seed)
    dims, classes, width = len(task.shape), task.classes, WIDTH[len(task.shape)]
    if variant.form == "stochastic":
        return Stochastic(classes, dims, width)
    if variant.form in ("mask", "image"):
        channels = 2**dims * (classes if variant.form == "mask" else 1)
        return UNet(channels, channels, width, dims)
    closed_form = variant.loss in ("ce", "dice")
    if variant.architecture == "pair":
        network = ARCHITECTURES["pair"](classes, dims, width, closed_form)
    else:
        cost = flops(ARCHITECTURES["pair"](classes, dims, width), task.shape)
        network = scaled(variant.architecture, classes, dims, task.shape, cost, closed_form)
    if variant.dropout:
        _add_dropout(network)
    return network


def _add_dropout(network: nn.Module) -> None:
    """MC dropout (Gal and Ghahramani 2016): drops whole channels in every block, when sampling too."""

    def drop(_: nn.Module, __: Any, h: torch.Tensor) -> torch.Tensor:
        keep = torch.rand(*h.shape[:2], *(1,) * (h.ndim - 2), device=h.device) >= DROPOUT_RATE
        return h * keep / (1 - DROPOUT_RATE)

    for block in network.modules():
        if isinstance(block, ResidualBlock):
            block.norm2.register_forward_hook(drop)


def trained(variant: Variant, task: Task, minutes: float, folder: Path, device: str) -> Any:
    """The trained `Network` on `device`: from `folder` if it is finished, else trained from its last checkpoint.

    `minutes` are those of a single network. On a CPU they are process time, so that other load does not count.
    """
    path = folder / f"{variant.key(task.content, minutes, device)}.safetensors"
    network = build(variant, task).to(device)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _Training(variant, task, 60 * minutes * variant.share, network, path, device).run()
    network.load_state_dict(load_file(path, device=device))
    return network.eval().requires_grad_(False)


class _Training:
    """One training, with a checkpoint every minute."""

    def __init__(self, variant: Variant, task: Task, seconds: float, network: Network, path: Path, device: str) -> None:
        self.variant, self.task, self.seconds, self.network, self.path = variant, task, seconds, network, path
        self.device = torch.device(device)
        self.clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        network.to(memory_format=CHANNELS_LAST[len(task.shape)])  # type: ignore[call-overload]  # not in the stubs
        self.optimiser = adamw(network.parameters(), LEARNING_RATE)
        self.average = AveragedModel(network, avg_fn=exponential_average(AVERAGE))
        self.density = Density(variant.input_scale, adapted=True)
        self.spent, self.step, self.skipped = 0.0, 0, 0
        images, masks = task.arrays(TRAIN)
        self.images, self.masks = np.array(images), np.array(masks)
        self.mean, self.deviation = task.image_statistics()

    def run(self) -> None:
        """Train until the time is over, then write the averaged weights and facts about the training."""
        self._resume()
        rng = np.random.default_rng([self.variant.random_seed, self.step])
        torch.manual_seed(int(rng.integers(2**62)))
        started, saved = self.clock() - self.spent, self.spent
        with flush_denormals():
            while (done := self.spent / self.seconds) < 1:
                self._step(rng, done)
                self.spent = self.clock() - started
                if self.spent - saved > CHECKPOINT_SECONDS:
                    saved = self.spent
                    self._save_checkpoint()
        facts = {
            "arm": self.variant.title(),
            "iterations": self.step,
            "skipped": self.skipped,
            "seconds": round(self.spent, 1),
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }
        if isinstance(self.network, Architecture):
            facts["operations"] = flops(self.network, self.task.shape)
        write_report(self.path.with_suffix(".json"), facts)
        weights = {name: value.contiguous() for name, value in self.average.module.state_dict().items()}
        with atomic_file(self.path) as file:
            file.write(save(weights))
        self.path.with_suffix(".checkpoint").unlink(missing_ok=True)

    def _step(self, rng: np.random.Generator, done: float) -> None:
        image, masks = self._batch(rng)
        set_learning_rate(self.optimiser, LEARNING_RATE, self.step, WARM_UP, done)
        loss = self._loss(image, masks, rng)
        self.optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.step += 1
        if not math.isfinite(float(norm)):
            self.skipped += 1
            return
        self.optimiser.step()
        self.average.update_parameters(self.network)

    def _loss(self, image: torch.Tensor, masks: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        variant, network = self.variant, self.network
        if isinstance(network, Stochastic) or (isinstance(network, Architecture) and variant.form == "direct"):
            return direct_loss(network, variant, image, masks)
        log_snr = self._noise_levels(len(image), rng).to(image.device)
        if isinstance(network, Architecture):
            loss, values = denoising_loss(network, variant, image, masks, log_snr)
        else:
            if variant.form == "mask":
                values = mask_loss(network, masks, self.task.classes, log_snr)
            else:
                values = image_loss(network, (image - self.mean) / self.deviation, log_snr)
            loss = values.mean()
        errors = _x0_error(variant, values.detach(), log_snr).flatten().double().cpu().numpy()
        if np.isfinite(errors).all():
            self.density.record(log_snr.flatten().cpu().numpy(), errors)
        return loss

    def _noise_levels(self, images: int, rng: np.random.Generator) -> torch.Tensor:
        """Stratified log-SNR [images, DRAWS]; the cosine and linear schedules are used as published."""
        if self.variant.schedule == "adapted":
            return self.density.draw(images, DRAWS, rng)
        count = images * DRAWS
        uniform = torch.from_numpy((np.arange(count) + rng.random(count)) / count)
        schedule = {"cosine": sample_log_snr, "linear": linear_log_snr}[self.variant.schedule]
        return schedule(uniform, self.variant.input_scale).view(DRAWS, images).T.contiguous()

    def _batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N, 1, *shape] and masks [N, R, *shape], R a divisor of DRAWS; windows of them if `halved`."""
        chosen = rng.integers(len(self.images), size=BATCH[len(self.task.shape)])
        images, masks = self.images[chosen], self.masks[chosen]
        if self.variant.halved:
            images, masks = half_windows(images, masks, self.variant.crops, rng)
        raters = max(r for r in range(1, DRAWS + 1) if DRAWS % r == 0 and r <= masks.shape[1])
        if masks.shape[1] > raters:
            masks = np.stack([case[rng.permutation(len(case))[:raters]] for case in masks])
        image = torch.from_numpy(images)[:, None].to(self.device)
        return image.contiguous(memory_format=CHANNELS_LAST[image.ndim - 2]), torch.from_numpy(masks).to(self.device)

    def _save_checkpoint(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in CHECKPOINTED}
        state |= {"spent": self.spent, "step": self.step, "skipped": self.skipped}
        with atomic_file(self.path.with_suffix(".checkpoint")) as file:
            torch.save(state, file)

    def _resume(self) -> None:
        """Load the last checkpoint, if there is one that can be read."""
        try:
            state = torch.load(self.path.with_suffix(".checkpoint"), map_location=self.device, weights_only=True)
            for name in CHECKPOINTED:
                getattr(self, name).load_state_dict(state[name])
            self.spent, self.step, self.skipped = state["spent"], state["step"], state["skipped"]
        except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError):
            return


def half_windows(
    images: np.ndarray, masks: np.ndarray, crops: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of half the edge of each image [N, *shape] and its masks [N, R, *shape].

    "image": anywhere, with all masks. "labels": half of them around a labelled voxel of one mask, which is then the
    only one; this samples rare structures more often and biases the network towards them.
    """
    size, image_windows, mask_windows = [n // 2 for n in images.shape[1:]], [], []
    for image, raters in zip(images, masks, strict=True):
        around_labels = crops == "labels"
        if around_labels:
            raters = raters[rng.integers(len(raters))][None]
        start = random_start(raters[0], size, around_labels, rng)
        window = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        image_windows.append(image[window])
        mask_windows.append(raters[(slice(None), *window)])
    return np.stack(image_windows), np.stack(mask_windows)


def _x0_error(variant: Variant, values: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """What the density of noise levels follows: the loss, converted to the error of x0 if it is that of v or noise."""
    alpha, sigma = alpha_sigma(log_snr)
    if variant.loss == "eps" or variant.form == "image":
        return (values * (sigma / alpha).square()).clamp(max=4.0)
    return (values * sigma.square()).clamp(max=4.0) if variant.loss == "v" else values
