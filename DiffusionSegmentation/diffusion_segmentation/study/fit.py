"""Training of one variant. All variants share the optimiser and the training time."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn

from ..diffusion.process import linear_log_snr, sample_log_snr
from ..images.writing import atomic_file, write_report
from ..networks import CHANNELS_LAST
from ..networks.blocks import ResidualBlock
from ..runtime.floating_point import flush_denormals
from ..training.loop import Journal, fit
from ..training.on_top import fitted_temperature
from ..training.settings import Optimisation
from ..training.task import TrainingModule
from ..training.windows import random_start
from .architectures.catalogue import ARCHITECTURES, flops, scaled
from .architectures.interface import Architecture
from .architectures.pair import OnTop, Pair
from .architectures.unet import UNet
from .objectives import denoising_loss, direct_loss, image_loss, mask_loss
from .stochastic import Stochastic
from .tasks import FURTHER, TRAIN, VALIDATION, Task
from .variants import DROPOUT_RATE, Variant

WIDTH = {2: 16, 3: 8}  # channels of `Pair` by number of axes; other architectures get the width of equal cost
BATCH = {2: 8, 3: 2}
DRAWS = 8  # noise levels per image, which share the cost of its encoding
OPTIMISATION = Optimisation(iterations=10**9, learning_rate=2e-3, warm_up=100, precision="float32", density="adapted")
"""Settings of all variants; trainings end by time, never by the number of iterations."""
CHECKPOINT_INTERVAL = timedelta(minutes=1)

Network = Architecture | Stochastic | UNet
"""Class by the variant's form: "diffusion" and "direct"; "stochastic"; "mask" and "image"."""


TEMPERATURE_CASES = 48  # validation cases to which the temperature of a frozen network is fitted


def build(variant: Variant, task: Task, frozen: Pair | None = None) -> Network:
    """The variant's network, initialised from its seed; `frozen` is the trained network of `variant.frozen`."""
    torch.manual_seed(variant.random_seed)
    if frozen is not None:
        return OnTop(frozen, fitted_temperature(frozen.encoder, frozen.classes, _validation_batches(task)))
    dims, classes, width, inputs = len(task.shape), task.classes, WIDTH[len(task.shape)], task.channels
    if variant.form == "stochastic":
        return Stochastic(classes, dims, width, inputs)
    if variant.form in ("mask", "image"):
        channels = 2**dims * (classes if variant.form == "mask" else inputs)
        return UNet(channels, channels, width, dims)
    closed_form = variant.loss in ("ce", "dice")
    if variant.architecture == "pair":
        network = ARCHITECTURES["pair"](classes, dims, width, closed_form, inputs)
    else:
        cost = flops(ARCHITECTURES["pair"](classes, dims, width, inputs=inputs), task.shape)
        network = scaled(variant.architecture, classes, dims, task.shape, cost, closed_form, inputs)
    if variant.dropout:
        _add_dropout(network)
    return network


def _validation_batches(task: Task) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images [1, channels, *shape] and masks [1, R, *shape] of validation cases."""
    for image, masks in zip(*(array[:TEMPERATURE_CASES] for array in task.arrays(VALIDATION)), strict=True):
        yield torch.from_numpy(np.array(image))[None], torch.from_numpy(np.array(masks))[None]


def _add_dropout(network: nn.Module) -> None:
    """MC dropout (Gal and Ghahramani 2016): drops whole channels in every block, also when sampling."""

    def drop(_: nn.Module, __: Any, h: torch.Tensor) -> torch.Tensor:
        keep = torch.rand(*h.shape[:2], *(1,) * (h.ndim - 2), device=h.device) >= DROPOUT_RATE
        return h * keep / (1 - DROPOUT_RATE)

    for block in network.modules():
        if isinstance(block, ResidualBlock):
            block.norm2.register_forward_hook(drop)


def trained(variant: Variant, task: Task, minutes: float, path: Path, device: str, frozen: Pair | None = None) -> Any:
    """The trained `Network` on `device`: from the weights in `path`, or trained first, from its last checkpoint.

    `minutes` are those of a single network. On a CPU they are process time, so that other load does not count.
    `frozen` is as for `build`.
    """
    network = build(variant, task, frozen)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _train(network, variant, task, minutes * variant.share, path, torch.device(device))
    network.load_state_dict(load_file(path))
    return network.to(device).eval().requires_grad_(False)


def _train(network: Network, variant: Variant, task: Task, minutes: float, path: Path, device: torch.device) -> None:
    """Train until the time is over, then write the averaged weights and facts about the training."""
    dims, on_gpu = len(task.shape), device.type == "cuda"
    network.to(memory_format=CHANNELS_LAST[dims])  # type: ignore[call-overload]  # not in the stubs
    journal = Journal(OPTIMISATION.iterations, minutes, time.perf_counter if on_gpu else time.process_time)
    training = VariantTraining(network, variant, task, journal.done)
    checkpoint = path.with_suffix(".ckpt")
    try:
        torch.load(checkpoint, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        checkpoint.unlink(missing_ok=True)
    with flush_denormals():
        fit(training, journal, checkpoint, CHECKPOINT_INTERVAL, [device.index or 0] if on_gpu else [])
    facts = {
        "arm": variant.title(),
        "iterations": journal.done_iterations,
        "skipped": int(training.skipped),
        "seconds": round(journal.spent, 1),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    if isinstance(network, Architecture):
        facts["operations"] = flops(network, task.shape)
    write_report(path.with_suffix(".json"), facts)
    with atomic_file(path) as file:
        file.write(save({name: value.contiguous() for name, value in network.state_dict().items()}))
    checkpoint.unlink()


class VariantTraining(TrainingModule):
    """A variant in training. Steps whose gradient is not finite are skipped, and counted in `skipped`."""

    skipped: torch.Tensor

    def __init__(self, network: Network, variant: Variant, task: Task, done: Callable[[], float]) -> None:
        super().__init__(replace(OPTIMISATION, seed=variant.random_seed), variant.input_scale, done)
        self.network, self.variant, self.task = network, variant, task
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))
        self.mean, self.deviation = map(torch.from_numpy, task.image_statistics())

    def handle_infinite_gradient(self, optimizer: torch.optim.Optimizer) -> None:
        self.skipped += 1
        optimizer.zero_grad()  # the optimiser leaves weights without a gradient as they are

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        (image, masks), variant, network = batch, self.variant, self.network
        if isinstance(network, Stochastic) or (isinstance(network, Architecture) and variant.form == "direct"):
            return direct_loss(network, variant, image, masks)
        log_snr = self._noise_levels(len(image)).to(image.device)
        if isinstance(network, Architecture):
            loss, values = denoising_loss(network, variant, image, masks, log_snr)
        else:
            if variant.form == "mask":
                values = mask_loss(network, masks, self.task.classes, log_snr)
            else:
                mean, deviation = self.mean.to(image.device), self.deviation.to(image.device)
                values = image_loss(network, (image - mean) / deviation, log_snr)
            loss = values.mean()
        errors = _x0_error(variant, values.detach(), log_snr).flatten().double().cpu().numpy()
        if np.isfinite(errors).all():
            self.density.record(log_snr.flatten().cpu().numpy(), errors)
        return loss

    def _noise_levels(self, images: int) -> torch.Tensor:
        """Stratified log-SNR [images, DRAWS]; the cosine and linear schedules are used as published."""
        if self.variant.schedule == "adapted":
            return self.density.draw(images, DRAWS, self._rng)
        count = images * DRAWS
        uniform = torch.from_numpy((np.arange(count) + self._rng.random(count)) / count)
        schedule = {"cosine": sample_log_snr, "linear": linear_log_snr}[self.variant.schedule]
        return schedule(uniform, self.variant.input_scale).view(DRAWS, images).T.contiguous()

    def train_dataloader(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images [N, channels, *shape] and masks [N, R, *shape], R a divisor of DRAWS; windows of them if `halved`.

        A variant on top of a frozen network learns from cases that this network has not seen: on its own training cases
        its errors are smaller than elsewhere. In a folder there are no further cases.
        """
        dims = len(self.task.shape)
        part = FURTHER if self.variant.on and self.task.exact else TRAIN
        all_images, all_masks = self.task.arrays(part)  # on disk, so that all processes share them
        while True:
            chosen = self._rng.integers(len(all_images), size=BATCH[dims])
            images, masks = np.array(all_images[chosen]), np.array(all_masks[chosen])
            if self.variant.halved:
                images, masks = half_windows(images, masks, self.variant.crops, self._rng)
            raters = max(r for r in range(1, DRAWS + 1) if DRAWS % r == 0 and r <= masks.shape[1])
            if masks.shape[1] > raters:
                masks = np.stack([case[self._rng.permutation(len(case))[:raters]] for case in masks])
            image = torch.from_numpy(images).contiguous(memory_format=CHANNELS_LAST[dims])
            yield image, torch.from_numpy(masks)


def half_windows(
    images: np.ndarray, masks: np.ndarray, crops: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of half the edge of each image [N, channels, *shape] and its masks [N, R, *shape].

    "image": anywhere, with all masks. "labels": half of them around a labelled voxel of one mask, which is then the
    only one; this samples rare structures more often and biases the network towards them.
    """
    size, windows = [n // 2 for n in images.shape[2:]], []
    for image, raters in zip(images, masks, strict=True):
        if crops == "labels":
            raters = raters[rng.integers(len(raters))][None]
        start = random_start(raters[0], size, crops == "labels", rng)
        window = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        windows.append((image[:, *window], raters[:, *window]))
    image_windows, mask_windows = zip(*windows, strict=True)
    return np.stack(image_windows), np.stack(mask_windows)


def _x0_error(variant: Variant, values: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """What the density of noise levels follows: the loss, converted to the error of x0 if it is that of v or noise."""
    if variant.loss == "eps" or variant.form == "image":
        return (values * torch.exp(-log_snr)).clamp(max=4.0)
    return (values * torch.sigmoid(-log_snr)).clamp(max=4.0) if variant.loss == "v" else values
