"""`diffusion-segmentation train`: from data to a model folder.

Whatever is finished is kept: a checkpoint is written every few minutes and at Ctrl+C, and `--resume` goes on from it.
"""

from __future__ import annotations

import copy
import datetime
import json
import logging
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import monai
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ..diffusion.process import LOG_SNR_MIN, adapted_grid
from ..errors import InputError, ModelError
from ..model.folder import Model, Start, build, find, load, save
from ..model.metadata import wrong_entry
from ..networks import InputStatistics
from ..runtime.floating_point import flush_denormals
from ..runtime.terminal import ProgressLine, StepCounter
from ..segmentation.result_folder import new_folder
from .figures import draw_training
from .input_statistics import fit_input_statistics
from .journal import Journal
from .loss import loss_curve
from .precision import resolved
from .settings import Optimisation, merged, read_config
from .sources import Source, open_source
from .task import Average, Segmenter

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.ckpt"
CHECKPOINT_MINUTES = 3
MOST_NAMES = 10
"""Names of held-out cases that are printed; the model's metadata have them all."""
UNTRAINED = {"loss_curve": {"log_snr": [-1.0, 1.0], "cross_entropy": [1.0, 0.0]}}
"""The entry `process` of a model before there is one: what else is wrong is found before the training."""
LEAST_SHARE = 0.25  # of the weights; a start from fewer would be one in name only


def main(
    data: str,
    output: Path,
    config: Path | None = None,
    minutes: float | None = None,
    resume: bool = False,
    start: str | None = None,
) -> Path:
    """Train, and write the model folder `output`; returns it.

    `data` is what `open_source` takes: a folder of labelled images, tissue priors, or the name of a phantom. `config`
    is a JSON file whose entries take the place of those the data suggest. Training ends after the configured iterations
    or, if given, after `minutes`; the learning rate falls along whichever ends first. With `start`, the name of a
    shipped model or a model folder, training starts from those of its weights that fit. Beside the model the folder
    gets training.json (losses over time and noise level) and training.png.

    Raises InputError when data or configuration are missing or wrong, or when `output` holds a checkpoint and `resume`
    is not set; ModelError when `start` is no model or few of its weights fit.
    """
    checkpoint = output / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise InputError(
            "The output folder holds an unfinished training; add --resume to go on with it or choose another folder."
        )
    source = open_source(data, output)
    settings = merged(source.settings(), read_config(config) if config else {})
    optimisation = Optimisation.read(settings["optimisation"])
    optimisation = replace(optimisation, precision=resolved(optimisation.precision))
    for sentence in optimisation.warnings():
        logger.warning(sentence)
    run = Run(settings, optimisation, source, minutes)
    if split := source.facts().get("held_out"):
        seen, more = source.facts()["cases"], ", ..." * (len(split) > MOST_NAMES)
        told = f"training on {len(seen)} cases; {len(split)} held out: {', '.join(split[:MOST_NAMES])}{more}"
        logger.info(told)
    if not checkpoint.exists():
        if start:
            run.take_over(load(find(start)))
        elif optimisation.builds_on_start:
            raise InputError(
                "Training the denoiser alone needs an encoder that is trained, and training from a 'lowest_log_snr' on "
                "a correlated start; name a model that has them with --start."
            )
    with new_folder(output), flush_denormals():
        if not run.go(checkpoint):
            return output
        metadata = run.metadata()
        _require_usable(metadata)
        run.save(output, metadata)
    logger.info(
        f"trained {metadata['diffusion_segmentation']['name']}: {run.journal.done_iterations} iterations in "
        f"{run.journal.spent / 60:.0f} min, model in '{output.name}'. The spread of its samples is not fitted yet: "
        f"`diffusion-segmentation calibrate {output} {data} --output DIR` does that."
    )
    return output


class Run:
    """One training: networks, data and Lightning's trainer."""

    def __init__(
        self, settings: dict[str, Any], optimisation: Optimisation, source: Source, minutes: float | None
    ) -> None:
        self.settings, self.optimisation, self.source = settings, optimisation, source
        section = settings["diffusion_segmentation"]
        _require_usable({**settings["bundle"], "diffusion_segmentation": {**section, "process": UNTRAINED}})
        source.configure(section)
        self.classes = len(section["labels"]) + 1
        if optimisation.class_weights and len(optimisation.class_weights) != self.classes:
            raise InputError(f"'class_weights' in the training configuration must be {self.classes} numbers.")
        torch.manual_seed(optimisation.seed)
        encoder, denoiser = build(section["network"], self.classes)
        self.journal = Journal(optimisation.iterations, minutes)
        self.task = Segmenter(
            encoder, denoiser, self.classes, optimisation, section["process"]["input_scale"], self.journal.done
        )
        self.started_from: dict[str, Any] | None = None
        self.start: dict[str, Any] | None = None

    def take_over(self, model: Model) -> None:
        """Start from another model's weights, wherever name and shape agree.

        Raises ModelError when few do, when not all of an encoder does that is to stay as it is, or when an encoder or a
        covariance would stay as it is for other structures or images.
        """
        if self.optimisation.builds_on_start:
            here, there = _conventions(self.settings["diffusion_segmentation"]), _conventions(model.section)
            if other := [name for name in here if here[name] != there[name]]:
                raise ModelError(
                    f"'{model.section['name']}' and the configuration differ in '{other[0]}', and what stays as it is "
                    "in training would be wrong with another; make them the same."
                )
        theirs = torch.nn.ModuleDict({"encoder": model.encoder, "denoiser": model.denoiser}).state_dict()
        ours = self.task.state_dict()
        fit = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
        share = sum(value.numel() for value in fit.values()) / sum(value.numel() for value in ours.values())
        encoder_fits = all(name in fit for name in ours if name.startswith("encoder."))
        if share < LEAST_SHARE or (self.optimisation.learns == "denoiser" and not encoder_fits):
            raise ModelError(
                f"Only {share:.0%} of the weights of '{model.section['name']}' fit the network of the configuration; "
                "start from a model with an encoder of the same size."
            )
        if self.optimisation.lowest_log_snr > LOG_SNR_MIN:
            if model.start is None:
                raise ModelError(
                    f"A denoiser that is trained from log-SNR {self.optimisation.lowest_log_snr:g} on needs a "
                    f"correlated start there, which '{model.section['name']}' has not; calibrate that model first."
                )
            self.start = Start(model.start.covariance, self.optimisation.lowest_log_snr).as_json()
        self.task.load_state_dict(fit, strict=False)
        self.started_from = {
            "name": model.section["name"],
            "version": model.metadata.get("version"),
            "sha256": model.section["sha256"],
            "training": model.section.get("training"),
            "share_of_weights": round(share, 3),
        }
        logger.info(f"starting from {model.section['name']}: {share:.0%} of the weights")

    def go(self, checkpoint: Path) -> bool:
        """Train until done, from the checkpoint if there is one. The networks then hold the averaged weights.

        Returns whether this is the process that writes the model: with several GPUs each has a process of its own.
        """
        gpus = torch.cuda.device_count()
        bf16 = self.optimisation.precision == "bf16"
        _quieten()
        trainer = lightning.Trainer(
            accelerator="gpu" if gpus else "cpu",
            devices=gpus or 1,
            strategy="ddp" if gpus > 1 else "auto",
            precision="bf16-mixed" if bf16 else "32-true",
            max_steps=self.optimisation.iterations,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[
                self.journal,
                Average(self.optimisation.average),
                _Keeper(self, checkpoint),
                ModelCheckpoint(
                    checkpoint.parent,
                    checkpoint.stem,
                    monitor=None,
                    save_top_k=1,
                    train_time_interval=datetime.timedelta(minutes=CHECKPOINT_MINUTES),
                    enable_version_counter=False,
                ),
            ],
        )
        on_interrupt = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(
                self.task,
                _Loader(self.source, self.optimisation),
                ckpt_path=str(checkpoint) if checkpoint.exists() else None,
                weights_only=True,
            )
        except SystemExit:
            # Lightning answers Ctrl+C with sys.exit(1) and leaves the signal ignored.
            if trainer.interrupted:
                signal.signal(signal.SIGINT, on_interrupt)
                raise KeyboardInterrupt from None
            raise
        trainer.save_checkpoint(checkpoint)
        return trainer.is_global_zero

    def metadata(self) -> dict[str, Any]:
        """metadata.json: what the configuration says of the model, and what training found."""
        section = copy.deepcopy(self.settings["diffusion_segmentation"])
        section["process"]["loss_curve"] = self.curve()
        if self.optimisation.lowest_log_snr > LOG_SNR_MIN:
            section["process"]["lowest_log_snr"] = self.optimisation.lowest_log_snr
        if self.start is not None:
            section["start"] = self.start
        section["training"] = {
            "iterations": self.journal.done_iterations,
            "minutes": round(self.journal.spent / 60, 1),
            "device": torch.cuda.get_device_name()
            if torch.cuda.is_available()
            else f"CPU, {torch.get_num_threads()} threads",
            "direct_cross_entropy": round(self.journal.record[-1]["direct"], 5) if self.journal.record else None,
            "data": self.source.facts(),
            "optimisation": self.optimisation.as_json(),
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
        """The loss curve over log-SNR, measured with the averaged weights on cases that training has not seen."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        task = self.task.to(device).eval()
        with ProgressLine() as line:
            told = StepCounter(line, "measuring the loss over noise levels on unseen cases")
            unseen = self.source.unseen(self.optimisation)
            lowest = self.optimisation.lowest_log_snr
            return loss_curve(task.encoder, task.denoiser, unseen, self.classes, device, told, lowest)

    def save(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write the model and its record, and then, unless they fail, the input statistics into the model."""
        save(folder, metadata, self.task.encoder, self.task.denoiser)
        self.write_record(folder, metadata)
        try:
            input_statistics = self.input_statistics()
        except Exception as error:  # whatever it is, the model is finished
            logger.warning(f"what scans are like could not be learnt ({error})")
            return
        if input_statistics is not None:
            save(folder, metadata, self.task.encoder, self.task.denoiser, input_statistics)

    def input_statistics(self) -> InputStatistics | None:
        """What the scans of the source have in common, by the averaged weights; None of too few scans."""
        section = self.settings["diffusion_segmentation"]
        with ProgressLine() as line:
            told = StepCounter(line, "looking at unseen scans")
            return fit_input_statistics(self.task.encoder, section, self.source, self.optimisation.seed, told)

    def write_record(self, folder: Path, metadata: dict[str, Any]) -> None:
        """training.json and training.png."""
        section = metadata["diffusion_segmentation"]
        curve = section["process"]["loss_curve"]
        rows = {"record": self.journal.record, "loss_curve": curve}
        (folder / "training.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        grid = adapted_grid(np.array(curve["log_snr"]), np.array(curve["cross_entropy"]), section["steps"]["cpu"])
        draw_training(folder / "training.png", self.journal.record, curve, grid)


class _Loader(lightning.LightningDataModule):
    """The stream of training images, its seed moved on at each resume and on each device."""

    def __init__(self, source: Source, optimisation: Optimisation) -> None:
        super().__init__()
        self.source, self.optimisation = source, optimisation

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        # A resumed run must not see the same images again, nor two devices the same.
        seed = self.optimisation.seed + self.trainer.global_step + 1_000_003 * self.trainer.global_rank
        stream = self.source.stream(self.optimisation, seed)
        workers = max(1, (os.cpu_count() or 2) // 2 // max(1, torch.cuda.device_count()))
        return torch.utils.data.DataLoader(
            stream, batch_size=self.optimisation.batch, num_workers=workers, prefetch_factor=4
        )


class _Keeper(lightning.Callback):
    """Keeps what is finished at Ctrl+C or an error, and in every checkpoint which model it started from."""

    def __init__(self, run: Run, checkpoint: Path) -> None:
        self.run, self.checkpoint = run, checkpoint

    def on_exception(self, trainer: lightning.Trainer, task: Any, exception: BaseException) -> None:
        if trainer.global_step:
            trainer.save_checkpoint(self.checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {"started_from": self.run.started_from, "start": self.run.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises InputError where the configuration has another lowest noise level than the training so far."""
        self.run.started_from = state["started_from"]
        self.run.start = state.get("start")  # checkpoints of version 0.4 have none
        lowest = self.run.start["log_snr"] if self.run.start else LOG_SNR_MIN
        if lowest != self.run.optimisation.lowest_log_snr:
            raise InputError(
                f"The unfinished training has {lowest:g} for its 'lowest_log_snr' and the configuration "
                f"{self.run.optimisation.lowest_log_snr:g}; set it back or choose another folder."
            )


def _conventions(section: dict[str, Any]) -> dict[str, Any]:
    """What decides how networks see an image and what the numbers of their classes mean."""
    return {
        "labels": [entry["id"] for entry in section["labels"]],
        "working_spacing_mm": section["working_spacing_mm"],
        "intensity": section.get("intensity"),
        "dims": section["network"].get("dims", 3),
    }


def _require_usable(metadata: dict[str, Any]) -> None:
    """Raise InputError where a model with this metadata could not be loaded."""
    section = {**metadata["diffusion_segmentation"], "sha256": "0" * 64}  # which comes with the weights
    entry = wrong_entry({**metadata, "diffusion_segmentation": section})
    if entry is not None:
        raise InputError(f"The training configuration's '{entry}' is missing or cannot be used; correct it.")


def _quieten() -> None:
    """Lightning's advice is for those who write training code; ours tells what a person wants to know."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
