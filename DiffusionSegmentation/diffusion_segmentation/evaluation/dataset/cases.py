"""A model on a folder of labelled images: which cases, and each through the same way as a person's volume."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ...calibration.start import labelled
from ...images.dataset import Case, Dataset
from ...images.file_digest import files_sha256
from ...images.label_file import IGNORED, relabel
from ...images.volume import read_volume
from ...model.folder import Model
from ...runtime.devices import choose_device
from ...segmentation import pipeline as engine
from ...segmentation.sampler import sample_seeds
from ...training.prepared import on_grid
from ..joint import FEWEST_SAMPLES, joint_case
from ..joint import SAMPLES as JOINT_SAMPLES
from ..loop import each_case
from ..store import Kept
from .comparison import score_map, score_samples
from .reading import Drawn, read_drawn, read_reference

SOURCES = {"samples": "consensus of the samples", "direct": "direct head"}
"""Where labels, entropy and probabilities come from."""


@dataclass(frozen=True)
class Choice:
    """The cases that are evaluated, and why these."""

    cases: tuple[Case, ...]
    which: str
    seen_in_training: bool


def choose(dataset: Dataset, section: Mapping[str, Any]) -> Choice:
    """The cases that the model has not seen, as far as its metadata (`section`) tell: test cases if labelled, else
    those that its training did not use, else all.
    """
    if dataset.test:
        return Choice(dataset.test, f"the {_cases(dataset.test)} of the data set's test part", False)
    facts = section.get("training", {}).get("data", {})
    everything = dataset.training
    if facts.get("kind") != "folder" or facts.get("name") != dataset.name:
        which = f"all {_cases(everything)}; the model's metadata do not say that it has seen any"
        return Choice(everything, which, False)
    unseen = tuple(case for case in everything if case.name not in set(facts.get("cases", ())))
    if not unseen:
        which = f"all {_cases(everything)}, on which the model was trained: the scores flatter it"
        return Choice(everything, which, True)
    kept_back = set(facts.get("held_out", ()))
    which = f"the {_cases(unseen)} that the model was not trained on"
    if any(case.name in kept_back for case in unseen):
        which += "; on those that training held out it measured the loss curve that places the steps, nothing else"
    calibration = section.get("calibration", {})
    fitted = calibration.get("cases") if calibration.get("data", {}).get("name") == dataset.name else None
    if isinstance(fitted, list) and any(case.name in set(fitted) for case in unseen):
        which += "; its spread was calibrated on some of them, so coverage and z flatter it"
        return Choice(unseen, which, True)
    return Choice(unseen, which, False)


def _cases(cases: Sequence[Case]) -> str:
    return "1 case" if len(cases) == 1 else f"{len(cases)} cases"


@dataclass(frozen=True)
class Settings:
    """How each case is segmented."""

    model: Path
    samples: int
    steps: int | None
    seed: int
    device: str


def evaluate_cases(
    cases: Sequence[Case], dataset: Dataset, order: Sequence[int], settings: Settings, kept: Kept
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Records by name: {"maps": {"samples", "direct"}, "samples", "run", "cost"}, and why others were left out.

    Voxels that any rater left to be ignored count nowhere.

    Raises InputError when no case can be used, and whatever else `segment` raises about model, memory and disk.
    """
    loaded = engine.ModelCache()
    models = {source: _WithSource(loaded, source) for source in SOURCES}

    device = choose_device(settings.device)

    def work(index: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        case = cases[index]
        image = read_volume(case.image)
        names = dataset.label_names, dataset.ignored
        references = [read_reference(path, image, *names, order) for path in case.labels]
        ignored = np.any([reference == IGNORED for reference in references], 0)
        references = [np.where(ignored, np.uint8(0), reference) for reference in references]
        spacing = image.GetSpacing()[::-1]
        drawn, report = _segment(case, image, settings, models["samples"])
        # The direct head has its own maps; two steps of one sample are the least that `segment` draws beside them.
        quick = dataclasses.replace(settings, samples=1, steps=2)
        direct, direct_report = _segment(case, image, quick, models["direct"])
        drawn, direct = drawn.without(ignored), direct.without(ignored)
        tolerance = report["working_spacing_mm"]
        rng = np.random.default_rng([settings.seed, index])
        record = {
            "maps": {
                "samples": score_map(drawn, references, spacing, tolerance, ~ignored),
                "direct": score_map(direct, references, spacing, tolerance, ~ignored),
            },
            "samples": score_samples(drawn, references, spacing, rng),
            "run": {
                key: report[key] for key in ("steps", "samples", "working_spacing_mm", "direct_difference", "warnings")
            },
            "cost": _cost(report, direct_report),
            "joint": _joint(case, image, dataset, order, loaded.get(str(settings.model), device), settings, index),
        }
        return record, _picture(image, references[0], drawn, spacing)

    def files(index: int) -> dict[str, Any]:
        return {"content": files_sha256(cases[index].image, *cases[index].labels)}

    return each_case([case.name for case in cases], work, kept, files)


def _joint(
    case: Case,
    image: sitk.Image,
    dataset: Dataset,
    order: Sequence[int],
    model: Model,
    settings: Settings,
    index: int,
) -> dict[str, Any]:
    """Records of the joint samples on the working grid, against the first rater."""
    intensity, names = model.section.get("intensity"), dataset.label_names
    values, labels = on_grid(image, case.labels[:1], model.spacing, intensity, names, dataset.ignored)
    truth = relabel(labels[0], order)
    count = max(FEWEST_SAMPLES, min(settings.samples, JOINT_SAMPLES))
    seed = sample_seeds(settings.seed, 1, index)[0]
    return joint_case(model, labelled(model, values.astype(np.float32), truth), count, seed)


def shown_source(model: Model) -> str:
    """Which of SOURCES a model's maps are nearer to: the direct head where no sample changes them."""
    return "direct" if model.is_copula_only or np.isinf(model.map_prior) else "samples"


class _WithSource(engine.ModelCache):
    """Gives every model with the one source of maps that is asked for, whatever its metadata choose."""

    def __init__(self, loaded: engine.ModelCache, source: str) -> None:
        super().__init__()
        self.loaded, self.source = loaded, source

    def get(self, name: str, device: torch.device) -> Model:
        model = self.loaded.get(name, device)
        if self.source == "samples" and not np.isinf(model.map_prior):
            return model  # as a person gets it, with the direct head as k samples
        metadata = copy.deepcopy(model.metadata)
        metadata["diffusion_segmentation"].pop("map_prior", None)
        metadata["diffusion_segmentation"]["map_source"] = self.source
        return dataclasses.replace(model, metadata=metadata)


def _segment(
    case: Case, image: sitk.Image, settings: Settings, models: engine.ModelCache
) -> tuple[Drawn, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        request = engine.Request(
            volume=case.image,
            output=Path(folder),
            model=str(settings.model),
            samples=settings.samples,
            steps=settings.steps,
            seed=settings.seed,
            device=settings.device,
            keep_samples=True,
            compress=False,
        )
        report = engine.segment(request, models=models).report
        return read_drawn(Path(folder), image), report


def _cost(report: Mapping[str, Any], direct: Mapping[str, Any]) -> dict[str, Any]:
    times, windows = report["timings_s"], report["windows"]
    return {
        "encoder_passes": windows,
        "denoiser_passes": windows * report["samples"] * report["denoiser_passes"],
        "seconds": sum(times.values()) - times["model"],
        "network_seconds": times["encoding"] + times["sampling"],
        "direct_seconds": direct["timings_s"]["encoding"],
        "memory_bytes": report["memory_bytes"],
    }


def _picture(image: sitk.Image, reference: np.ndarray, drawn: Drawn, spacing: Sequence[float]) -> dict[str, np.ndarray]:
    """What a picture of the case needs: the slice with the largest entropy."""
    at = int(drawn.entropy.sum((1, 2), dtype=np.float64).argmax())
    grey = sitk.GetArrayViewFromImage(image)[at].astype(np.float32)
    low, high = np.quantile(grey, [0.005, 0.995])
    return {
        "image": np.clip((grey - low) / max(high - low, 1e-6), 0, 1).astype(np.float16),
        "truth": reference[at],
        "consensus": drawn.labels[at],
        "entropy": drawn.entropy[at].astype(np.float16),
        "samples": np.stack([mask[at] for mask in (*drawn.samples, drawn.samples[0])[:2]]),
        "spacing": np.array(spacing[1:]),
    }
