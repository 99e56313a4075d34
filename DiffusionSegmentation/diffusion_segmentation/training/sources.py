"""What a model can be trained on: an atlas of heads, a folder of labelled images, or a task with a known answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import InputError
from ..phantoms import PHANTOMS, phantom
from .defaults import BUNDLE, labels
from .folder import Folder
from .settings import Optimisation
from .synthetic_heads.generator import EVALUATION, SCANS, SPACING_MM, SyntheticHeads, unseen_heads
from .synthetic_heads.scan_probabilities import ScanProbabilities

UNSEEN = 2**40
"""Added to the seed for the heads of the loss curve: no training takes as many steps."""

WINDOW = (64, 64, 64)
"""Voxels of the synthetic heads for calibration and evaluation, as in most windows of the training."""
WHOLE_MM = ((192, 224, 192), (256, 224, 192))
"""Whole heads, without and with much of the neck, in multiples of 16 voxels of 2 mm."""
AS_SCANNED = ScanProbabilities(any_contrast=0, cut=0)
"""What scanners show of heads most often, beside the artefacts of training."""
HEADS = Path(__file__).parent / "configs" / "brain-structures.json"


LARGE_GRID, STEP_VOXELS, UNSEEN_VOXELS = 2**16, 2**20, 2**18
"""Voxels of a phantom above which it is drawn fewer times, of all draws of a step, and of a batch of unseen cases."""
SEED_STRIDE = 1_000_003
UNSEEN_STREAM = 7
"""Third part of a seed: training streams have two parts, so no case of one is a case of the other."""


class Source(Protocol):
    """Where images and labels come from."""

    def settings(self) -> dict[str, Any]:
        """The configuration this source suggests: sections bundle, diffusion_segmentation, optimisation."""

    def configure(self, section: dict[str, Any]) -> None:
        """Take in the configured model's section, before anything is asked for."""

    def stream(self, optimisation: Optimisation, seed: int) -> torch.utils.data.IterableDataset:
        """Endless pairs: image float32 [1, *shape], labels uint8 [R, *shape], R = 1 or a divisor of the draws."""

    def unseen(self, optimisation: Optimisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches that training never sees: image [N, 1, *shape], labels [N, 1, *shape]."""

    def labelled(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """At most `count` different cases that training never sees: image float32 and labels uint8, both [*shape]."""

    def scans(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """At most `count` images float32 [*shape] of the kind that the model is made for, as much of each as there is.

        Training never sees them, where there are others. Of a smaller `count` they are the first of them.
        """
        for image, _ in self.labelled(count, seed):
            yield image

    def order(self, labels: Sequence[dict[str, Any]]) -> list[int]:
        """The model's label for each number of the data, background first, from the model's `labels`.

        Raises InputError, one sentence, where the data have other structures.
        """

    def facts(self) -> dict[str, Any]:
        """What the model's metadata should say of the data."""


def open_source(text: str, output: Path) -> Source:
    """From what a person wrote: a folder, an .npz of tissue priors, or the name of a phantom such as lesions:32x32.

    `output` is where a folder's prepared images may be kept. Raises InputError, one sentence.
    """
    path = Path(text)
    if path.is_dir():
        return Folder(path, output / "prepared")
    if path.suffix == ".npz":
        if not path.is_file():
            raise InputError(f"The priors '{path.name}' are missing; write them first with training/atlas.py.")
        return Heads(path)
    if text.partition(":")[0] in PHANTOMS:
        return Phantoms(text)
    raise InputError(
        f"'{text}' is no folder of labelled images, no file of tissue priors (.npz) and none of the tasks with a known "
        f"answer ({', '.join(PHANTOMS)})."
    )


class Heads(Source):
    """Synthetic heads from the tissue priors that `training/atlas.py` writes."""

    def __init__(self, priors: Path, window: tuple[int, ...] = WINDOW) -> None:
        self.priors, self.window, self.spacing = priors, window, SPACING_MM

    def settings(self) -> dict[str, Any]:
        return json.loads(HEADS.read_text(encoding="utf-8"))

    def configure(self, section: dict[str, Any]) -> None:
        """Take the working spacing from the model's section: heads are drawn at any."""
        self.spacing = section["working_spacing_mm"]

    def stream(self, optimisation: Optimisation, seed: int) -> torch.utils.data.IterableDataset:
        return SyntheticHeads(self.priors, list(optimisation.shapes), seed, spacing_mm=self.spacing)

    def unseen(self, optimisation: Optimisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        seed = optimisation.seed + UNSEEN
        heads = iter(SyntheticHeads(self.priors, list(optimisation.shapes), seed, bank=1, spacing_mm=self.spacing))
        for _ in range(8):
            image, labels = next(heads)
            next(heads)  # the same head in another contrast
            yield image[None], labels[None]

    def labelled(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Heads of WINDOW voxels at the model's spacing, each drawn by itself from the atlas."""
        yield from unseen_heads(self.priors, self.window, count, seed, spacing_mm=self.spacing)

    def scans(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """Whole T1-like heads, some of them stripped: of the training's heads those that a scanner might show."""
        for index in range(count):
            shape = tuple(round(mm / self.spacing) for mm in WHOLE_MM[index % len(WHOLE_MM)])
            own = seed + SEED_STRIDE * index
            yield next(unseen_heads(self.priors, shape, 1, own, SCANS, self.spacing, AS_SCANNED))[0]

    def evaluated(self, index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Head `index` of an evaluation: none that `labelled` yields."""
        return next(unseen_heads(self.priors, self.window, 1, seed + SEED_STRIDE * index, EVALUATION, self.spacing))

    def order(self, labels: Sequence[dict[str, Any]]) -> list[int]:
        return _same(labels, [entry["id"] for entry in self.settings()["diffusion_segmentation"]["labels"]], "heads")

    def facts(self) -> dict[str, Any]:
        return {"kind": "synthetic heads"}


class Phantoms(Source):
    """A task with a known answer; each image comes with several draws from its exact posterior."""

    def __init__(self, text: str) -> None:
        self.text, self.phantom = text, phantom(text)

    def settings(self) -> dict[str, Any]:
        task, dims = self.phantom, len(self.phantom.shape)
        name = f"phantom-{task.name}-{dims}d"
        bundle = {
            **BUNDLE,
            "name": name,
            "task": f"The task '{task.name}', whose exact posterior is known",
            "description": f"Trained on generated images of {'x'.join(map(str, task.shape))}; for measurements only.",
            "data_source": f"diffusion_segmentation.phantoms, {self.text}",
            "data_type": "synthetic",
        }
        section = {
            "schema": 1,
            "name": name,
            "title": f"Known-answer task: {task.name}",
            "map_source": "samples",
            "working_spacing_mm": 1.0,
            "window": list(task.shape),
            "steps": {"cpu": 10, "gpu": 10},
            "input_range": {"spacing_mm": [0.5, 2.0], "extent_mm": [8, 256]},
            "labels": labels(task.label_names),
            "network": {
                "dims": dims,
                "encoder": {"channels": [16, 32, 32], "blocks": [2, 2, 2]},
                "denoiser": {"channels": [16, 32], "blocks": 4, "strata": 8, "gain": 32},
            },
            "process": {"input_scale": 0.5},
        }
        # On large grids fewer images and draws a step: a step then takes no longer than on small ones.
        voxels = math.prod(task.shape)
        draws = 8 if voxels <= LARGE_GRID else 4
        optimisation = {
            "iterations": 12_000 if dims == 2 else 6_000,
            "batch": min(8, max(1, STEP_VOXELS // (voxels * draws))),
            "draws": draws,
            "shapes": [list(task.shape)],
            "learning_rate": 2e-3,
            "precision": "float32",
            "density": "adapted",
        }
        return {"bundle": bundle, "diffusion_segmentation": section, "optimisation": optimisation}

    def stream(self, optimisation: Optimisation, seed: int) -> torch.utils.data.IterableDataset:
        return _PhantomStream(self.phantom, optimisation.draws, seed)

    def unseen(self, optimisation: Optimisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        stream = iter(_PhantomStream(self.phantom, 1, optimisation.seed - 1))
        count = min(16, max(1, UNSEEN_VOXELS // math.prod(self.phantom.shape)))
        for _ in range(8):
            yield tuple(torch.stack(part) for part in zip(*(next(stream) for _ in range(count)), strict=True))

    def labelled(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(count):
            rng = np.random.default_rng([seed, index, UNSEEN_STREAM])
            case = self.phantom.draw(rng)
            yield case.image, case.sample(rng, 1)[0]

    def order(self, labels: Sequence[dict[str, Any]]) -> list[int]:
        own = self.settings()["diffusion_segmentation"]["labels"]
        return _same(labels, [entry["id"] for entry in own], self.phantom.name)

    def facts(self) -> dict[str, Any]:
        return {"kind": "phantom", "task": self.text}


def _same(labels: Sequence[dict[str, Any]], ids: Sequence[str], name: str) -> list[int]:
    """0, 1, 2 ... where the model's structures are those of the data. Raises InputError where they are not."""
    if [entry["id"] for entry in labels] != list(ids):
        own = ", ".join(entry["name"] for entry in labels)
        raise InputError(
            f"The model segments {own}, which are not the structures of the {name}; choose data of its kind."
        )
    return list(range(len(ids) + 1))


class _PhantomStream(torch.utils.data.IterableDataset):
    """Cases of a phantom, each with `draws` masks from its exact posterior."""

    def __init__(self, task: Any, draws: int, seed: int) -> None:
        super().__init__()
        self.task, self.draws, self.seed = task, draws, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed % 2**32, worker.id if worker else 0])
        while True:
            case = self.task.draw(rng)
            yield torch.from_numpy(case.image)[None], torch.from_numpy(case.sample(rng, self.draws))
