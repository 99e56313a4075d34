"""`diffusion-segmentation train`: from a configuration and its data to a model folder.

Whatever is finished is kept: a checkpoint is written every few minutes and at Ctrl+C, and `--resume` goes on from it.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from ..errors import InputError, ModelError
from ..model import Model, build, find, load, save
from .loss import draw_log_snr, loss_curve, losses
from .synthesis import SyntheticHeads

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_MINUTES = 3
CURVE_HEADS = 8
WARM_UP = 200  # iterations
LEAST_SHARE = 0.25  # of the weights; a start from fewer would be one in name only


def main(
    config: Path, data: Path, output: Path, minutes: float | None = None, resume: bool = False, start: str | None = None
) -> Path:
    """Train, and write the model folder `output`; returns it.

    `config` is a JSON file as in `training/configs/`, `data` the priors that `training/atlas.py` writes. Training ends
    after the configured iterations or, if given, after `minutes`; the learning rate falls along whichever ends first.
    With `start`, the name of a shipped model or a model folder, training starts from those of its weights that fit.

    Raises InputError when a file is missing or wrong, or when `output` holds a checkpoint and `resume` is not set;
    ModelError when `start` is no model or few of its weights fit.
    """
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        optimisation, section = settings["optimisation"], settings["diffusion_segmentation"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"The training configuration '{config.name}' cannot be read; start from one of those that ship."
        ) from None
    if not data.is_file():
        raise InputError(f"The priors '{data.name}' are missing; write them first with training/atlas.py.")
    checkpoint = output / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise InputError(
            "The output folder holds an unfinished training; add --resume to go on with it or choose another folder."
        )
    output.mkdir(parents=True, exist_ok=True)
    run = Run(settings, data, minutes)
    if start and not checkpoint.exists():
        run.take_over(load(find(start)))
    if checkpoint.exists():
        run.restore(torch.load(checkpoint, map_location="cpu", weights_only=True))
    try:
        run.go(checkpoint)
    except KeyboardInterrupt:
        run.write_checkpoint(checkpoint)
        raise
    run.write_checkpoint(checkpoint)
    save(output, run.metadata(), run.average["encoder"], run.average["denoiser"])
    print(f"trained {section['name']}: {run.iteration} iterations of {optimisation['iterations']}", file=sys.stderr)
    return output


class Run:
    """One training: networks, their running average, optimiser and clock."""

    def __init__(self, settings: dict[str, Any], data: Path, minutes: float | None) -> None:
        self.settings = settings
        self.optimisation = settings["optimisation"]
        section = settings["diffusion_segmentation"]
        self.classes = len(section["labels"]) + 1
        self.input_scale = section["process"]["input_scale"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.seconds = math.inf if minutes is None else 60 * minutes
        torch.manual_seed(self.optimisation["seed"])
        torch.set_flush_denormal(True)  # activations near zero can make a CPU tens of times slower
        self.rng = np.random.default_rng(self.optimisation["seed"])
        encoder, denoiser = build(section["network"], self.classes)
        networks = torch.nn.ModuleDict({"encoder": encoder, "denoiser": denoiser})
        self.networks = networks.to(self.device, memory_format=torch.channels_last_3d)
        self.average = copy.deepcopy(self.networks).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.networks.parameters(), lr=0.0, weight_decay=1e-2)
        self.direct = math.nan
        self.iteration = 0
        self.spent = 0.0
        self.started_from: dict[str, Any] | None = None
        self.data = data

    def take_over(self, model: Model) -> None:
        """Start from another model's weights, wherever name and shape agree. Raises ModelError when few do."""
        theirs = torch.nn.ModuleDict({"encoder": model.encoder, "denoiser": model.denoiser}).state_dict()
        ours = self.networks.state_dict()
        fit = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
        share = sum(value.numel() for value in fit.values()) / sum(value.numel() for value in ours.values())
        if share < LEAST_SHARE:
            raise ModelError(
                f"Only {share:.0%} of the weights of '{model.section['name']}' fit the network of the configuration; "
                "start from a model with an encoder of the same size."
            )
        self.networks.load_state_dict(fit, strict=False)
        self.average.load_state_dict(fit, strict=False)
        self.started_from = {
            "name": model.section["name"],
            "version": model.metadata.get("version"),
            "sha256": model.section["sha256"],
            "training": model.section.get("training"),
            "share_of_weights": round(share, 3),
        }
        print(f"starting from {model.section['name']}: {share:.0%} of the weights", file=sys.stderr)

    @property
    def progress(self) -> float:
        """Share of the training that is done, by iterations or by the clock, whichever is further."""
        return min(1.0, max(self.iteration / self.optimisation["iterations"], self.spent / self.seconds))

    def go(self, checkpoint: Path) -> None:
        """Train until done, telling where it stands and writing checkpoints."""
        # A resumed run must not see the same heads again.
        heads = self.heads(self.optimisation["seed"] + self.iteration)
        workers = max(1, (os.cpu_count() or 2) // 2)
        stream = iter(torch.utils.data.DataLoader(heads, batch_size=None, num_workers=workers, prefetch_factor=4))
        written = told = time.monotonic()
        while self.progress < 1:
            start = time.monotonic()
            self.step(*next(stream))
            now = time.monotonic()
            self.spent += now - start
            if now - told > 10:
                told = now
                self.tell()
            if now - written > 60 * CHECKPOINT_MINUTES:
                written = now
                self.write_checkpoint(checkpoint)

    def step(self, image: torch.Tensor, labels: torch.Tensor) -> None:
        """One update: the mean of several images' losses, each with several draws of noise level and noise."""
        rate = self.optimisation["learning_rate"] * min(1, (self.iteration + 1) / WARM_UP)
        self.optimiser.param_groups[0]["lr"] = rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
        log_snr = draw_log_snr(self.optimisation["draws"], self.input_scale, self.rng).to(self.device)
        image, labels = image[None].to(self.device), labels[None].to(self.device)
        # bf16 on CPUs with AMX trains 4 times faster than float32, and no worse where it was compared.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.optimisation["precision"] == "bf16"):
            direct, denoised = losses(
                self.networks["encoder"], self.networks["denoiser"], image, labels, self.classes, log_snr
            )
        (direct + denoised.mean()).backward()
        self.iteration += 1
        if self.iteration % self.optimisation["accumulate"] == 0:
            torch.nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            updates = self.iteration // self.optimisation["accumulate"]
            decay = min(self.optimisation["average"], (updates + 1) / (updates + 10))
            for mean, new in zip(self.average.parameters(), self.networks.parameters(), strict=True):
                mean.lerp_(new.detach(), 1 - decay)
        value = float(direct.detach())
        self.direct = value if math.isnan(self.direct) else 0.98 * self.direct + 0.02 * value

    def tell(self) -> None:
        """One line on stderr: where the training stands, the direct head's loss, the time left."""
        left = self.spent * (1 - self.progress) / max(self.progress, 1e-9)
        print(
            f"iteration {self.iteration}, cross-entropy {self.direct:.4f} nats (direct head), {left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )

    def metadata(self) -> dict[str, Any]:
        """metadata.json: what the configuration says of the model, and what training found."""
        section = copy.deepcopy(self.settings["diffusion_segmentation"])
        section["process"]["loss_curve"] = self.curve()
        section["training"] = {
            "iterations": self.iteration,
            "minutes": round(self.spent / 60, 1),
            "device": torch.cuda.get_device_name()
            if self.device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads",
            "direct_cross_entropy": round(self.direct, 5),
            "optimisation": self.optimisation,
        }
        if self.started_from:
            section["training"]["started_from"] = self.started_from
        versions = {
            "monai_version": monai.__version__,
            "pytorch_version": torch.__version__.split("+")[0],
            "numpy_version": np.__version__,
        }
        return {**self.settings["bundle"], **versions, "diffusion_segmentation": section}

    def curve(self) -> dict[str, list[float]]:
        """The loss curve over log-SNR, measured with the averaged weights on heads that training has not seen."""
        print(f"measuring the loss curve on {CURVE_HEADS} heads", file=sys.stderr, flush=True)
        unseen = self.heads(self.optimisation["seed"] - 1, bank=1)
        heads = itertools.islice(iter(unseen), 0, 2 * CURVE_HEADS, 2)  # every other one is the same head again
        return loss_curve(self.average["encoder"], self.average["denoiser"], heads, self.classes, self.device)

    def heads(self, seed: int, bank: int = 24) -> SyntheticHeads:
        """The stream of training heads that begins with this seed."""
        return SyntheticHeads(self.data, self.optimisation["shapes"], seed, bank)

    def write_checkpoint(self, path: Path) -> None:
        """Everything that going on needs; under a temporary name first."""
        state = {
            "networks": self.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "direct": self.direct,
            "iteration": self.iteration,
            "spent": self.spent,
            "started_from": self.started_from,
        }
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        os.replace(part, path)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.networks.load_state_dict(state["networks"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.direct, self.iteration, self.spent = state["direct"], state["iteration"], state["spent"]
        self.started_from = state["started_from"]
        self.rng = np.random.default_rng([self.optimisation["seed"], self.iteration])
        torch.manual_seed(self.optimisation["seed"] + self.iteration)
