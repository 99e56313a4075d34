"""Trains one arm: every arm by the same optimiser, for the same time."""

from __future__ import annotations

import math
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..diffusion.process import alpha_sigma, linear_log_snr, sample_log_snr
from ..images.writing import write_report
from ..networks import CHANNELS_LAST
from ..networks.blocks import ResidualBlock
from ..runtime.floating_point import flush_denormals
from ..training.density import Density
from .architectures.catalogue import ARCHITECTURES, flops, scaled
from .architectures.interface import Architecture
from .architectures.unet import UNet
from .objectives import denoising_loss, direct_loss, image_loss, mask_loss
from .stochastic import Stochastic
from .tasks import TRAIN, Task
from .variants import DROPPED, Arm

WIDTH = {2: 16, 3: 8}
"""Channels of our pair by the number of axes; other architectures get the width that costs the same."""
BATCH = {2: 8, 3: 2}
DRAWS = 8
"""Noise levels an image, which share the cost of its encoding."""
RATE, WARM_UP, AVERAGE = 2e-3, 100, 0.999
KEEP_SECONDS = 60


def build(arm: Arm, task: Task) -> nn.Module:
    """The arm's network with random weights that its seed determines."""
    torch.manual_seed(arm.number)
    dims, classes, width = len(task.shape), task.classes, WIDTH[len(task.shape)]
    if arm.form == "stochastic":
        return Stochastic(classes, dims, width)
    if arm.form in ("mask", "image"):
        channels = 2**dims * (classes if arm.form == "mask" else 1)
        return UNet(channels, channels, width, dims)
    closed_form = arm.loss in ("ce", "dice")
    if arm.architecture == "pair":
        network = ARCHITECTURES["pair"](classes, dims, width, closed_form)
    else:
        network = scaled(arm.architecture, classes, dims, task.shape, cost(task), closed_form)
    if arm.dropout:
        drop_channels(network)
    return network


def cost(task: Task) -> int:
    """Floating-point operations of one pass of our pair, which every architecture of the study costs about."""
    dims = len(task.shape)
    return flops(ARCHITECTURES["pair"](task.classes, dims, WIDTH[dims]), task.shape)


def drop_channels(network: nn.Module) -> None:
    """MC dropout (Gal and Ghahramani 2016): whole channels are dropped in every block, in use as in training."""

    def drop(_: nn.Module, __: Any, h: torch.Tensor) -> torch.Tensor:
        keep = torch.rand(*h.shape[:2], *(1,) * (h.ndim - 2), device=h.device) >= DROPPED
        return h * keep / (1 - DROPPED)

    for block in network.modules():
        if isinstance(block, ResidualBlock):
            block.norm2.register_forward_hook(drop)


def trained(arm: Arm, task: Task, minutes: float, folder: Path, device: str) -> nn.Module:
    """The trained network on the device, from `folder` where it is finished, else from where its training stopped.

    `minutes` are those of an arm by itself; on a CPU they are minutes of its process, so that other work on the machine
    costs no arm anything.
    """
    path = folder / f"{arm.key(task.content, minutes, device)}.safetensors"
    network = build(arm, task).to(device)
    if not path.exists():
        _Training(arm, task, 60 * minutes * arm.share, network, path, device).run()
    network.load_state_dict(load_file(path, device=device))
    return network.eval().requires_grad_(False)


class _Training:
    """One training, kept once a minute."""

    def __init__(self, arm: Arm, task: Task, seconds: float, network: nn.Module, path: Path, device: str) -> None:
        self.arm, self.task, self.seconds, self.network, self.path = arm, task, seconds, network, path
        self.device = torch.device(device)
        self.clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        memory_format = CHANNELS_LAST[len(task.shape)]
        network.to(memory_format=memory_format)
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2, fused=True)
        self.average = AveragedModel(
            network, avg_fn=lambda a, w, n: a.lerp(w, 1 - min(AVERAGE, (int(n) + 1) / (int(n) + 10)))
        )
        self.density = Density(arm.input_scale, adapted=True)
        self.spent, self.step, self.skipped = 0.0, 0, 0
        images, masks = task.arrays(TRAIN)
        self.images, self.masks = np.array(images), np.array(masks)
        self.centre, self.scale = task.standard()

    def run(self) -> None:
        self._resume()
        rng = np.random.default_rng([self.arm.number, self.step])
        torch.manual_seed(int(rng.integers(2**62)))
        started, kept = self.clock() - self.spent, self.spent
        with flush_denormals():
            while (done := self.spent / self.seconds) < 1:
                self._step(rng, done)
                self.spent = self.clock() - started
                if self.spent - kept > KEEP_SECONDS:
                    kept = self.spent
                    self._keep()
        state = {name: value.contiguous() for name, value in self.average.module.state_dict().items()}
        partial = self.path.with_suffix(".partial")
        save_file(state, partial)
        facts = {
            "arm": self.arm.title(),
            "iterations": self.step,
            "skipped": self.skipped,
            "seconds": round(self.spent, 1),
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }
        if isinstance(self.network, Architecture):
            facts["operations"] = flops(self.network, self.task.shape)
        write_report(self.path.with_suffix(".json"), facts)
        partial.replace(self.path)
        self.path.with_suffix(".checkpoint").unlink(missing_ok=True)

    def _step(self, rng: np.random.Generator, done: float) -> None:
        image, masks = self._batch(rng)
        warm = min(1.0, (self.step + 1) / WARM_UP)
        for group in self.optimiser.param_groups:
            group["lr"] = RATE * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        loss = self._loss(image, masks, rng)
        self.optimiser.zero_grad()
        loss.backward()
        size = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.step += 1
        if not math.isfinite(float(size)):  # a step without numbers would end the arm
            self.skipped += 1
            return
        self.optimiser.step()
        self.average.update_parameters(self.network)

    def _loss(self, image: torch.Tensor, masks: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        arm = self.arm
        if arm.form in ("direct", "stochastic"):
            return direct_loss(self.network, arm, image, masks)
        log_snr = self._levels(len(image), rng).to(image.device)
        if arm.form == "diffusion":
            loss, values = denoising_loss(self.network, arm, image, masks, log_snr)
        elif arm.form == "mask":
            values = mask_loss(self.network, masks, self.task.classes, log_snr)
            loss = values.mean()
        else:
            values = image_loss(self.network, (image - self.centre) / self.scale, log_snr)
            loss = values.mean()
        errors = _falling(arm, values.detach(), log_snr).flatten().double().cpu().numpy()
        if np.isfinite(errors).all():
            self.density.record(log_snr.flatten().cpu().numpy(), errors)
        return loss

    def _levels(self, images: int, rng: np.random.Generator) -> torch.Tensor:
        """Log-SNR [images, DRAWS], stratified. The named schedules are taken as they are published."""
        if self.arm.schedule == "adapted":
            return self.density.draw(images, DRAWS, rng)
        count = images * DRAWS
        uniform = torch.from_numpy((np.arange(count) + rng.random(count)) / count)
        of = {"cosine": sample_log_snr, "linear": linear_log_snr}[self.arm.schedule]
        return of(uniform, self.arm.input_scale).view(DRAWS, images).T.contiguous()

    def _batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N, 1, *shape] and masks [N, R, *shape], windows of them where the arm asks for that."""
        chosen = rng.integers(len(self.images), size=BATCH[len(self.task.shape)])
        images, masks = self.images[chosen], self.masks[chosen]
        if self.arm.halved:
            images, masks = windows(images, masks, self.arm.crops, rng)
        raters = max(r for r in range(1, DRAWS + 1) if DRAWS % r == 0 and r <= masks.shape[1])
        if masks.shape[1] > raters:
            masks = np.stack([of[rng.permutation(len(of))[:raters]] for of in masks])
        image = torch.from_numpy(images)[:, None].to(self.device)
        return image.contiguous(memory_format=CHANNELS_LAST[image.ndim - 2]), torch.from_numpy(masks).to(self.device)

    def _keep(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "density": self.density.state_dict(),
            "spent": self.spent,
            "step": self.step,
            "skipped": self.skipped,
        }
        partial = self.path.with_suffix(".checkpoint.partial")
        torch.save(state, partial)
        partial.replace(self.path.with_suffix(".checkpoint"))

    def _resume(self) -> None:
        """Go on from the last checkpoint; from the beginning where there is none that can be read."""
        try:
            state = torch.load(self.path.with_suffix(".checkpoint"), map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.density.load_state_dict(state["density"])
            self.spent, self.step, self.skipped = state["spent"], state["step"], state["skipped"]
        except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError):
            return


def windows(
    images: np.ndarray, masks: np.ndarray, crops: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of half the edge of each image [N, *shape] and its masks [N, R, *shape].

    "labels": half of them around a labelled voxel of the mask that is then trained on, as is often done to see more of
    rare structures; it makes them look more frequent than they are. "image": anywhere.
    """
    shape = images.shape[1:]
    size, cut = tuple(n // 2 for n in shape), []
    for image, raters in zip(images, masks, strict=True):
        start, kept = [int(rng.integers(n - s + 1)) for n, s in zip(shape, size, strict=True)], raters
        if crops == "labels":
            kept = raters[rng.integers(len(raters))][None]
            marked = np.flatnonzero(kept[0])
            if len(marked) and rng.random() < 0.5:
                centre = np.unravel_index(marked[rng.integers(len(marked))], shape)
                start = [int(np.clip(c - s // 2, 0, n - s)) for c, s, n in zip(centre, size, shape, strict=True)]
        window = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        cut.append((image[window], kept[(slice(None), *window)]))
    return np.stack([image for image, _ in cut]), np.stack([kept for _, kept in cut])


def _falling(arm: Arm, values: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """What the density of noise levels follows: the loss, or the error of x0 where the loss is that of v or noise."""
    alpha, sigma = alpha_sigma(log_snr)
    if arm.loss == "eps" or arm.form == "image":
        return (values * (sigma / alpha).square()).clamp(max=4.0)
    return (values * sigma.square()).clamp(max=4.0) if arm.loss == "v" else values
