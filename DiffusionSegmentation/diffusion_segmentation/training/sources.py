"""Training sources: an atlas of heads, a folder of labelled images, or a task with a known answer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import InputError
from ..images.label_table import label_table
from ..phantoms import PHANTOMS, phantom
from ..segmentation.folded_image import SamplerImage
from ..segmentation.tiling import channels_first
from . import defaults
from .folder import Folder
from .settings import Optimisation, merged, read_config
from .synthetic_heads.generator import EVALUATION, SCANS, SPACING_MM, SyntheticHeads, unseen_heads
from .synthetic_heads.scan_probabilities import ScanProbabilities

UNSEEN_SEED = 2**40
"""Added to the seed for the heads of the loss curve; more than the steps of any training, which advance its seed."""
WINDOW = (64, 64, 64)
"""Voxels of the synthetic heads for calibration and evaluation, as in most windows of the training."""
WHOLE_MM = ((192, 224, 192), (256, 224, 192))
"""Size of whole heads (mm), without and with much of the neck; multiples of 16 voxels of 2 mm."""
TYPICAL_SCANS = ScanProbabilities(any_contrast=0, cut=0)
"""The most frequent kind of head scans, with the artefacts of training."""
SEED_STRIDE = 1_000_003
SMALL_GRID, LARGE_GRID, STEP_VOXELS, UNSEEN_VOXELS = 2**12, 2**16, 2**20, 2**18
"""Voxels: of a phantom above which its denoiser sees blocks, and above which it gets fewer draws; of all draws of a
step; of a batch of unseen cases."""
UNSEEN_STREAM = 7  # third part of a seed: training streams have two parts, so the streams share no case


class Source(Protocol):
    """A source of images and labels."""

    def settings(self) -> dict[str, Any]:
        """Suggested configuration: sections bundle, diffusion_segmentation, optimisation."""

    def configure(self, section: dict[str, Any]) -> None:
        """Take the section of the configured model; called before any image is requested."""
        return

    def stream(self, optimisation: Optimisation, seed: int) -> torch.utils.data.IterableDataset:
        """Endless pairs: image float32 [channels, *shape], labels uint8 [R, *shape].

        R is 1 or a divisor of the draws.
        """

    def unseen(self, optimisation: Optimisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches outside the training stream: image [N, channels, *shape], labels [N, 1, *shape]."""

    def labelled(self, count: int, seed: int) -> Iterator[tuple[SamplerImage, np.ndarray]]:
        """At most `count` different cases outside the training stream: image float32 [channels, *shape], labels
        uint8 [*shape]; an image of one channel can lack that axis."""

    def scans(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """At most `count` images float32 [channels, *shape] as the model will segment them.

        They have their whole field of view and lie outside the training stream, if there are enough. A smaller `count`
        gives the first of them.
        """
        for image, _ in self.labelled(count, seed):
            if isinstance(image, np.ndarray):  # folders, which alone can have log-odds, have scans of their own
                yield image

    def order(self, labels: Sequence[dict[str, Any]]) -> list[int]:
        """The model's label for each number of the data, background first, from the model's `labels`.

        Raises InputError where the data have other structures.
        """
        own = self.settings()["diffusion_segmentation"]["labels"]
        if [entry["id"] for entry in labels] != [entry["id"] for entry in own]:
            names, data = ", ".join(entry["name"] for entry in labels), self.facts().get("task", "heads")
            raise InputError(
                f"The model segments {names}, which are not the structures of the {data}; choose data of the same kind."
            )
        return list(range(len(labels) + 1))

    def facts(self) -> dict[str, Any]:
        """Description of the data for the model's metadata."""


def open_source(text: str, output: Path, slices: bool = False) -> Source:
    """The source given as a folder, an .npz of tissue priors, or the name of a phantom such as lesions:32x32.

    A folder's prepared images are kept in `output`; with `slices` its volumes are stacks of pictures. Raises
    InputError.
    """
    path = Path(text)
    if path.is_dir():
        return Folder(path, output / "prepared", slices)
    if path.suffix == ".npz":
        return Heads(path)
    if text.partition(":")[0] in PHANTOMS:
        return Phantoms(text)
    raise InputError(
        f"'{text}' is neither a folder of labelled images, a file of tissue priors (.npz), nor one of the tasks "
        f"with a known answer ({', '.join(PHANTOMS)})."
    )


class Heads(Source):
    """Synthetic heads from the tissue priors that `synthetic_heads/atlas.py` writes."""

    def __init__(self, priors: Path, window: tuple[int, ...] = WINDOW) -> None:
        """Raises InputError where the file of the priors is missing."""
        if not priors.is_file():
            text = f"The priors '{priors.name}' are missing; write them first with training/synthetic_heads/atlas.py."
            raise InputError(text)
        self.priors, self.window, self.spacing = priors, window, SPACING_MM

    def settings(self) -> dict[str, Any]:
        return read_config(defaults.CONFIGS / "brain-structures.json")

    def configure(self, section: dict[str, Any]) -> None:
        """Take the working spacing of the model's section, at which heads are generated."""
        self.spacing = section["working_spacing_mm"]

    def stream(self, optimisation: Optimisation, seed: int) -> torch.utils.data.IterableDataset:
        return SyntheticHeads(self.priors, list(optimisation.shapes), seed, spacing_mm=self.spacing)

    def unseen(self, optimisation: Optimisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        seed = optimisation.seed + UNSEEN_SEED
        heads = iter(SyntheticHeads(self.priors, list(optimisation.shapes), seed, bank=1, spacing_mm=self.spacing))
        for _ in range(8):
            image, labels = next(heads)
            next(heads)  # the same head in another contrast
            yield image[None], labels[None]

    def labelled(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Heads of WINDOW voxels at the model's spacing, each of a new anatomy."""
        yield from unseen_heads(self.priors, self.window, count, seed, spacing_mm=self.spacing)

    def scans(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """Whole T1-like heads, some of them skull-stripped."""
        for index in range(count):
            shape = tuple(round(mm / self.spacing) for mm in WHOLE_MM[index % len(WHOLE_MM)])
            head_seed = seed + SEED_STRIDE * index
            yield next(unseen_heads(self.priors, shape, 1, head_seed, SCANS, self.spacing, TYPICAL_SCANS))[0]

    def evaluated(self, index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Head `index` of an evaluation, none of which `labelled` yields."""
        return next(unseen_heads(self.priors, self.window, 1, seed + SEED_STRIDE * index, EVALUATION, self.spacing))

    def facts(self) -> dict[str, Any]:
        return {"kind": "synthetic heads"}


class Phantoms(Source):
    """A task with a known answer; each image comes with several draws from its exact posterior."""

    def __init__(self, text: str) -> None:
        self.text, self.phantom = text, phantom(text)

    def settings(self) -> dict[str, Any]:
        task, dims = self.phantom, len(self.phantom.shape)
        name, voxels = f"phantom-{task.name}-{dims}d", math.prod(task.shape)
        bundle = {
            "name": name,
            "task": f"The task '{task.name}', whose exact posterior is known",
            "description": f"Trained on generated images of {'x'.join(map(str, task.shape))}; for measurements only.",
            "data_source": f"diffusion_segmentation.phantoms, {self.text}",
        }
        network: dict[str, Any] = {"dims": dims, "inputs": len(task.inputs)}
        if voxels > SMALL_GRID:  # many voxels share what a sample has to fix: the denoiser sees sums over blocks
            network["denoiser"] = {"pools": [0, 8, 4, 2], "pool_variances": True}
        section = {
            "name": name,
            "title": f"Known-answer task: {task.name}",
            "window": list(task.shape),
            "labels": label_table(task.label_names),
            "inputs": [{"name": name} for name in task.inputs],
            "network": network,
        }
        # Fewer images and draws per step on large grids, so that a step takes no longer than on small ones.
        draws = 8 if voxels <= LARGE_GRID else 4
        optimisation = {
            "iterations": 12_000 if dims == 2 else 6_000,
            "batch": min(8, max(1, STEP_VOXELS // (voxels * draws))),
            "draws": draws,
            "shapes": [list(task.shape)],
        }
        changes = {"bundle": bundle, "diffusion_segmentation": section, "optimisation": optimisation}
        return merged(defaults.config("phantom"), changes)

    def stream(self, optimisation: Optimisation, seed: int) -> torch.utils.data.IterableDataset:
        return _PhantomStream(self.phantom, optimisation.draws, seed)

    def unseen(self, optimisation: Optimisation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        stream = iter(_PhantomStream(self.phantom, 1, optimisation.seed - 1))
        count = min(16, max(1, UNSEEN_VOXELS // math.prod(self.phantom.shape)))
        for _ in range(8):
            images, labels = zip(*itertools.islice(stream, count), strict=True)
            yield torch.stack(images), torch.stack(labels)

    def labelled(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(count):
            rng = np.random.default_rng([seed, index, UNSEEN_STREAM])
            case = self.phantom.draw(rng)
            yield case.image, case.sample(rng, 1)[0]

    def facts(self) -> dict[str, Any]:
        return {"kind": "phantom", "task": self.text}


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
            image = channels_first(case.image, len(self.task.shape))
            yield torch.from_numpy(image), torch.from_numpy(case.sample(rng, self.draws))
