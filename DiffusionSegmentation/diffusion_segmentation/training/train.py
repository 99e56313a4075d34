"""`diffusion-segmentation train`: from data to a model folder.

A checkpoint is written every few minutes and at Ctrl+C; `--resume` continues from it.
"""

from __future__ import annotations

import copy
import datetime
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import monai
import numpy as np
import torch

from ..diffusion.process import LOG_SNR_MIN, adapted_grid
from ..errors import InputError, ModelError
from ..images.input_names import Input
from ..model.building import build, conventions
from ..model.folder import Model, Start, find, load, save
from ..model.frozen import head_temperature
from ..model.metadata import wrong_entry
from ..networks import AnyEncoder, Denoiser, FrozenHead
from ..networks.blocks import zero_initialised
from ..runtime.floating_point import flush_denormals
from ..runtime.terminal import ProgressLine, StepCounter
from ..segmentation.result_folder import new_folder
from .input_statistics import fit_input_statistics
from .loop import Journal, fit
from .loss import loss_curve
from .on_foreign import open_frozen
from .on_top import FrozenModel
from .settings import Optimisation, merged, read_config, resolved_precision
from .sources import SEED_STRIDE, Source, open_source
from .task import Segmenter
from .training_plot import plot_training

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.ckpt"
CHECKPOINT_INTERVAL = datetime.timedelta(minutes=3)
MAX_NAMES = 10  # names of held-out cases that are printed; the model's metadata have all of them
UNTRAINED = {"loss_curve": {"log_snr": [-1.0, 1.0], "cross_entropy": [1.0, 0.0]}}
"""Placeholder for the metadata's entry `process`, with which the other entries are validated before the training."""
MIN_WEIGHTS_SHARE = 0.25  # share of the weights that a model to start from must supply


def main(
    data: str,
    output: Path,
    config: Path | None = None,
    minutes: float | None = None,
    resume: bool = False,
    start: str | None = None,
    slices: bool = False,
    on: str | None = None,
    splits: Path | None = None,
) -> Path:
    """Train, and write the model folder `output`; returns it.

    `data` is what `open_source` takes: a folder of labelled images, tissue priors, or the name of a phantom. `config`
    is a JSON file whose entries replace those that the data suggest. Training ends after the configured iterations or,
    if given, after `minutes`; the learning rate falls along whichever ends first. With `start`, the name of a shipped
    model or a model folder, training starts from those of its weights that fit. With `slices` a model of pictures is
    trained on the slices of volumes. With `on`, a model as for `start` or one that others trained, that model stays as
    it is and is the direct head; only a thin encoder, the denoiser and temperatures are trained (`on_top`,
    `on_foreign`); `splits` is the file of an nnU-Net's cross-validation. The folder also gets training.json (losses
    over time and noise level) and training.png.

    Raises InputError when data or configuration are missing or wrong, or when `output` holds a checkpoint and `resume`
    is not set; ModelError when `start` is not a model or few of its weights fit.
    """
    checkpoint = output / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise InputError(
            "The output folder holds an unfinished training; add --resume to continue it or choose another folder."
        )
    source = open_source(data, output, slices)
    settings, changes = source.settings(), read_config(config) if config else {}
    frozen = open_frozen(on, splits) if on else None
    if frozen is not None:
        source = frozen.unseen_part(source)
        settings = frozen.settings(source.settings())
        frozen.require_found(output)
    settings = merged(settings, changes)
    optimisation = Optimisation.read(settings["optimisation"])
    optimisation = replace(optimisation, precision=resolved_precision(optimisation.precision))
    for sentence in optimisation.warnings():
        logger.warning(sentence)
    run = Run(settings, optimisation, source, minutes, frozen)
    facts = source.facts()
    if held_out := facts.get("held_out"):
        names = ", ".join(held_out[:MAX_NAMES]) + ", ..." * (len(held_out) > MAX_NAMES)
        logger.info(f"training on {len(facts['cases'])} cases; {len(held_out)} held out: {names}")
    if not checkpoint.exists():
        if start:
            run.take_over(load(find(start)))
        elif optimisation.builds_on_start:
            raise InputError(
                "Training the denoiser or facts alone needs an encoder that is trained, and training from a "
                "'lowest_log_snr' on a correlated start; name a model that has them with --start."
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


class Run(lightning.LightningDataModule):
    """One training: networks and data."""

    def __init__(
        self,
        settings: dict[str, Any],
        optimisation: Optimisation,
        source: Source,
        minutes: float | None,
        frozen: FrozenModel | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.optimisation, self.source = settings, optimisation, source
        section = settings["diffusion_segmentation"]
        _require_usable({**settings["bundle"], "diffusion_segmentation": {**section, "process": UNTRAINED}})
        source.configure(section)
        self.classes = len(section["labels"]) + 1
        if optimisation.class_weights and len(optimisation.class_weights) != self.classes:
            raise InputError(f"'class_weights' in the training configuration must be {self.classes} numbers.")
        torch.manual_seed(optimisation.seed)
        if frozen is not None:
            frozen.require_same_labels(source)
            frozen.fit(source, optimisation, section["frozen"])
        trained, denoiser = build(section["network"], self.classes, on_top=frozen is not None)
        self.on_top: FrozenHead | None = None if frozen is None else frozen.encoder(trained, section["frozen"])
        encoder: AnyEncoder = trained if self.on_top is None else self.on_top
        self.journal = Journal(optimisation.iterations, minutes)
        self.task = Segmenter(
            encoder, denoiser, self.classes, optimisation, section["process"]["input_scale"], self.journal.done
        )
        self.started_from: dict[str, Any] | None = None
        self.start: dict[str, Any] | None = None

    def take_over(self, model: Model) -> None:
        """Start from another model's weights, wherever name and shape agree.

        Raises ModelError when few do, when a frozen encoder does not fit completely, or when a frozen encoder or
        covariance was made for other structures or images.
        """
        optimisation, name = self.optimisation, model.section["name"]
        if optimisation.builds_on_start:
            ours, theirs = conventions(self.settings["diffusion_segmentation"]), conventions(model.section)
            if different := [key for key in ours if ours[key] != theirs[key]]:
                raise ModelError(
                    f"'{name}' and the configuration differ in '{different[0]}', and the parts of the model that are "
                    "not trained would be wrong; make them the same."
                )
        weights = torch.nn.ModuleDict({"encoder": model.encoder, "denoiser": model.denoiser}).state_dict()
        if not (same_blocks := _blocks(self.task.denoiser) == _blocks(model.denoiser)):
            weights = {key: value for key, value in weights.items() if not key.startswith("denoiser.pooled.")}
            logger.info(
                f"the blocks of the denoiser are not those of '{name}' and start anew; 'pools' and 'pool_variances' in "
                "the configuration choose them"
            )
        frozen = "encoder.frozen."
        state = {key: value for key, value in self.task.state_dict().items() if not key.startswith(frozen)}
        fitting = {key: value for key, value in weights.items() if key in state and state[key].shape == value.shape}
        share = sum(value.numel() for value in fitting.values()) / sum(value.numel() for value in state.values())
        not_trained = {"both": (), "denoiser": ("encoder.",), "facts": ("encoder.", "denoiser.")}[optimisation.learns]
        stay = [key for key in state if key.startswith(not_trained) and not key.startswith("denoiser.facts.")]
        if share < MIN_WEIGHTS_SHARE or not all(key in fitting for key in stay):
            raise ModelError(
                f"Only {share:.0%} of the weights of '{name}' fit the network of the configuration; start from a model "
                f"with {'networks' if optimisation.learns == 'facts' else 'an encoder'} of the same size."
            )
        if optimisation.lowest_log_snr > LOG_SNR_MIN:
            if model.start is None:
                raise ModelError(
                    f"A denoiser that is trained from log-SNR {optimisation.lowest_log_snr:g} on needs a correlated "
                    f"start there, which '{name}' does not have; calibrate that model first."
                )
            self.start = Start(model.start.covariance, optimisation.lowest_log_snr).as_json()
        self.task.load_state_dict(fitting, strict=False)
        if (pooled := self.task.denoiser.pooled) is not None and not same_blocks:
            # The denoiser begins as that of `model`; if that has blocks, new ones take their place in the logits.
            zero_initialised(pooled if model.denoiser.pooled is None else pooled.enter)
        self.started_from = {
            "name": name,
            "version": model.metadata.get("version"),
            "sha256": model.section["sha256"],
            "training": model.section.get("training"),
            "share_of_weights": round(share, 3),
        }
        logger.info(f"starting from {name}: {share:.0%} of the weights")

    def go(self, checkpoint: Path) -> bool:
        """Train to the end, as `fit`, on all GPUs; returns whether this process writes the model."""
        gpus = range(torch.cuda.device_count())
        return fit(self.task, self.journal, checkpoint, CHECKPOINT_INTERVAL, gpus, self, [_Keeper(self)])

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        """The stream of training images, with another seed after each resume and on each device."""
        optimisation, task = self.optimisation, self.task
        stream = self.source.stream(optimisation, optimisation.seed + task.global_step + SEED_STRIDE * task.global_rank)
        cores, gpus = os.cpu_count() or 2, torch.cuda.device_count()
        workers = max(1, cores // gpus - 1 if gpus else cores // 2)  # the CPU also trains where there is no GPU
        return torch.utils.data.DataLoader(stream, optimisation.batch, num_workers=workers, prefetch_factor=4)

    def metadata(self) -> dict[str, Any]:
        """metadata.json: the configuration's entries, the loss curve, and a record of the training."""
        section = copy.deepcopy(self.settings["diffusion_segmentation"])
        section["process"]["loss_curve"] = self.curve()
        if self.optimisation.lowest_log_snr > LOG_SNR_MIN:
            section["process"]["lowest_log_snr"] = self.optimisation.lowest_log_snr
        if self.start is not None:
            section["start"] = self.start
        cpu, journal = f"CPU, {torch.get_num_threads()} threads", self.journal
        section["training"] = {
            "iterations": journal.done_iterations,
            "minutes": round(journal.spent / 60, 1),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
            "direct_cross_entropy": round(journal.record[-1]["direct"], 5) if journal.record else None,
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
        """The loss curve over log-SNR, measured with the averaged weights on unseen cases."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        task = self.task.to(device).eval()
        with ProgressLine() as line:
            counter = StepCounter(line, "measuring the loss over noise levels on unseen cases")
            unseen, lowest = self.source.unseen(self.optimisation), self.optimisation.lowest_log_snr
            return loss_curve(task.encoder, task.denoiser, unseen, self.classes, device, counter, lowest)

    def save(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write model, training.json and training.png, then add the input statistics; if that fails, only log it."""
        save(folder, metadata, self.task.encoder, self.task.denoiser)
        section = metadata["diffusion_segmentation"]
        curve, record = section["process"]["loss_curve"], self.journal.record
        rows = json.dumps({"record": record, "loss_curve": curve}, indent=1)
        (folder / "training.json").write_text(rows + "\n", encoding="utf-8")
        grid = adapted_grid(np.array(curve["log_snr"]), np.array(curve["cross_entropy"]), section["steps"]["cpu"])
        plot_training(folder / "training.png", record, curve, grid)
        try:
            input_statistics = fit_input_statistics(self.task.encoder, section, self.source, self.optimisation.seed)
        except Exception as error:  # of any kind, because the model itself is finished
            logger.warning(f"the input statistics could not be fitted ({error})")
            return
        if input_statistics is not None:
            save(folder, metadata, self.task.encoder, self.task.denoiser, input_statistics)


class _Keeper(lightning.Callback):
    """Saves in every checkpoint the model that training started from.

    Lightning stores the state in a checkpoint under the class's name.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def state_dict(self) -> dict[str, Any]:
        run, section = self.run, self.run.settings["diffusion_segmentation"]
        kept = {"started_from": run.started_from, "start": run.start}
        return kept | {"frozen": section.get("frozen"), "conventions": _conventions(section)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises InputError where the configuration has another network, input or `lowest_log_snr` than so far."""
        now = _conventions(self.run.settings["diffusion_segmentation"])
        before = state.get("conventions", {})  # checkpoints of version 0.5 have none
        if different := [key for key in before if key in now and json.loads(before[key]) != json.loads(now[key])]:
            raise InputError(  # weights of the same shapes can have another meaning
                f"The unfinished training has another '{different[0]}' than this command and its configuration; set it "
                "back or choose another folder."
            )
        self._restore_frozen(state.get("frozen"))
        self.run.started_from = state["started_from"]
        self.run.start = state.get("start")  # checkpoints of version 0.4 have none
        lowest = self.run.start["log_snr"] if self.run.start else LOG_SNR_MIN
        if lowest != self.run.optimisation.lowest_log_snr:
            raise InputError(
                f"The unfinished training has {lowest:g} for its 'lowest_log_snr' and the configuration "
                f"{self.run.optimisation.lowest_log_snr:g}; set it back or choose another folder."
            )

    def _restore_frozen(self, stored: dict[str, Any] | None) -> None:
        """Take the temperatures of the training so far.

        Raises InputError for another frozen model than it had, or for cases that another fold predicts now.
        """
        frozen, encoder = self.run.settings["diffusion_segmentation"].get("frozen"), self.run.on_top
        if stored is None or encoder is None:
            return  # `fit` has compared the networks
        if stored["sha256"] != frozen["sha256"]:
            raise InputError(
                f"The unfinished training is on top of another model '{stored['name']}' (checksum "
                f"{stored['sha256'][:12]}); name that one with --on or choose another folder."
            )
        now = frozen.get("folds", {})
        if any(set(cases) - set(now.get(fold, ())) for fold, cases in stored.get("folds", {}).items()):
            raise InputError(
                "The unfinished training took another fold of the frozen model for some cases; give the same --splits "
                "or choose another folder."
            )
        frozen |= {key: stored[key] for key in ("temperature", "mean_temperature") if key in stored}
        encoder.temperature = head_temperature(frozen)


def _conventions(section: dict[str, Any]) -> dict[str, str]:
    """What the meaning of weights of the same shapes depends on, as JSON."""
    entries = {"network": section["network"], **conventions(section)}
    return {name: json.dumps(entry, default=Input.as_json) for name, entry in entries.items()}


def _blocks(denoiser: Denoiser) -> tuple[type, tuple[int, ...]] | None:
    """Kind and sizes of the blocks whose evidence a denoiser sums."""
    return None if denoiser.pooled is None else (type(denoiser.pooled), denoiser.pooled.edges)


def _require_usable(metadata: dict[str, Any]) -> None:
    """Raise InputError where a model with this metadata could not be loaded."""
    section = {**metadata["diffusion_segmentation"], "sha256": "0" * 64}  # written with the weights
    entry = wrong_entry({**metadata, "diffusion_segmentation": section})
    if entry is not None:
        raise InputError(f"The training configuration's '{entry}' is missing or cannot be used; correct it.")
