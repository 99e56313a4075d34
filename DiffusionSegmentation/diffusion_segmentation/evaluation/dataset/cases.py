"""A model on a folder of labelled images: the choice of cases, and their evaluation through `segment`."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from ...calibration.start import labelled
from ...errors import DiffusionSegmentationError, InputError
from ...images.case_files import CaseFiles
from ...images.dataset import Case, Dataset
from ...images.file_digest import files_sha256
from ...images.label_file import IGNORED, read_labels, relabel
from ...images.working_grid import Grid
from ...model.folder import Model
from ...model.seen_cases import calibrated_cases, fold_of_cases, seen_cases
from ...runtime.devices import choose_device
from ...runtime.units import VOLUMES, Units
from ...segmentation import pipeline as engine
from ...segmentation.folded_image import FoldedImage, SamplerImage
from ...segmentation.foreign_head import ForeignHead, Predict
from ...segmentation.run_control import RunControl
from ...segmentation.sampler import sample_seeds
from ...segmentation.uncertain_regions import voxel_size
from ...training.prepared import odds_on_grid, on_grid, read_case
from ..joint import FEWEST_SAMPLES, joint_case
from ..joint import SAMPLES as JOINT_SAMPLES
from ..store import CaseStore, Records, run_cases
from .comparison import RunOutputs, read_outputs, score_map, score_samples

SOURCES = {"samples": "consensus of the samples", "direct": "direct head"}
"""Sources of the maps: labels, entropy and probabilities."""

_SILENT = RunControl(lambda progress: None, lambda: None)


class Choice(NamedTuple):
    """The evaluated cases, a description of them, and whether the model has seen them."""

    cases: tuple[Case, ...]
    which: str
    seen_in_training: bool


def choose(dataset: Dataset, section: Mapping[str, Any], frozen: Mapping[str, Any] | None = None) -> Choice:
    """The cases that the model has not seen according to its metadata (`section`).

    The labelled test cases that training did not use if there are any, else the other cases that it did not use, else
    all.
    """
    trained, everything = seen_cases(section, dataset.name, frozen), dataset.training
    if test := tuple(case for case in dataset.test if not _was_seen(case, dataset, trained)):
        left_out = len(dataset.test) - len(test)
        which = f"the {_count(test)} of the data set's test part"
        return Choice(test, which + f" without {left_out} that the model was trained on" * bool(left_out), False)
    folds = {} if frozen is None else _folds(dataset, section, frozen)
    by_fold = f"; the fold of '{frozen['name']}' that has not seen a case predicted it" if frozen and folds else ""
    if not trained:
        which = f"all {_count(everything)}; the model's metadata list none of them as training cases{by_fold}"
        return Choice(everything, which, False)
    unseen = tuple(case for case in everything if case.name not in trained)
    if not unseen:
        which = f"all {_count(everything)}, on which the model was trained: the scores are too good"
        return Choice(everything, which, True)
    names = {case.name for case in unseen}
    which = f"the {_count(unseen)} that the model was not trained on"
    if names & set(section.get("training", {}).get("data", {}).get("held_out", ())):
        which += "; training used held-out cases only for the loss curve that places the steps"
    which += by_fold if names & set(folds) else ""
    calibrated = bool(names & calibrated_cases(section, dataset.name))
    if calibrated:
        which += "; its spread was calibrated on some of them, so coverage and z are too good"
    return Choice(unseen, which, calibrated)


def _was_seen(case: Case, dataset: Dataset, trained: Collection[str]) -> bool:
    """Whether a case of the test part is one of the training cases `trained`, by its name or its images.

    A case of the training part with this name is another one, unless its images are the same.
    """
    if case.name in trained and all(other.name != case.name for other in dataset.training):
        return True
    sizes = [path.stat().st_size for path in case.images]
    return bool(sizes) and any(
        [path.stat().st_size for path in other.images] == sizes
        and files_sha256(*other.images) == files_sha256(*case.images)
        for other in dataset.training
        if other.name in trained
    )


def _folds(dataset: Dataset, section: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, str]:
    """See `fold_of_cases`."""
    names = [case.name for case in (*dataset.training, *dataset.test)]
    return fold_of_cases(section, dataset.name, frozen, names) if section.get("frozen") else {}


def units_of(cases: Sequence[Case], dataset_name: str) -> Units:
    """The units of the sizes in all cases; files whose header cannot be read do not count.

    Raises InputError where they differ, because such sizes have no mean.
    """
    found: dict[str, str] = {}
    for case in cases:
        try:
            first = CaseFiles(case.images).first
        except (DiffusionSegmentationError, OSError):
            continue  # the evaluation of the case reports it
        found.setdefault(voxel_size(first.spacing[::-1], first.size[::-1])[1], case.name)
    if len(found) > 1:
        sizes = ", ".join(f"{Units(unit).symbol} ({name})" for unit, name in found.items())
        raise InputError(
            f"Sizes in the cases of '{dataset_name}' have different units: {sizes}; evaluate pictures, pictures with a "
            "pixel size and volumes each by themselves."
        )
    return Units(*found)


def _count(cases: Sequence[Case]) -> str:
    return "1 case" if len(cases) == 1 else f"{len(cases)} cases"


@dataclass(frozen=True)
class Settings:
    """Settings of the segmentation of each case, named as in `segmentation.pipeline.Request`."""

    model: str
    samples: int
    steps: int | None
    seed: int
    device: str


def evaluate_cases(
    cases: Sequence[Case],
    dataset: Dataset,
    order: Sequence[int],
    settings: Settings,
    store: CaseStore,
    units: Units = VOLUMES,
    head: ForeignHead | None = None,
) -> tuple[Records, dict[str, str]]:
    """Records by name: {"maps": {"samples", "direct"}, "samples", "run", "cost", "joint"}, and errors of skipped cases.

    Voxels that any rater marks as ignored do not count. `order` maps the data set's labels to the model's, `units` are
    those of `units_of`.

    Raises InputError when no case can be used, and the errors of `segment` about model, memory and disk.
    """
    cache = engine.ModelCache(for_updates=False)
    models = {source: _SourceModels(cache, source) for source in SOURCES}
    device = choose_device(settings.device)

    def work(index: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        case = cases[index]
        images = read_case(case, dataset.inputs)
        image = images[0]
        names = dataset.label_names, dataset.ignored
        references = [relabel(read_labels(path, image, *names), order) for path in case.labels]
        ignored = np.any([reference == IGNORED for reference in references], 0)
        references = [np.where(ignored, np.uint8(0), reference) for reference in references]
        spacing, first = image.GetSpacing()[::-1], references[0]
        model = cache.get(settings.model, device)
        predict = None if head is None else _prediction(head, model, dataset, case)
        samples, report = _segment(case, image, settings, models["samples"], predict)
        # The direct head has its own maps; two steps of one sample are the fewest that `segment` accepts.
        quick = dataclasses.replace(settings, samples=1, steps=2)
        direct, direct_report = _segment(case, image, quick, models["direct"], predict)
        outputs = {"samples": samples.without(ignored), "direct": direct.without(ignored)}
        picture = _picture(images[: dataset.inputs[0].channels], first, outputs["samples"], spacing)
        if units.is_area:  # without the axis of the slices, along which every voxel would be at a surface
            outputs = {key: one.of_slice(0) for key, one in outputs.items()}
            references, ignored, spacing = [reference[0] for reference in references], ignored[0], spacing[1:]
        about, rng = (report["working_spacing_mm"], ~ignored, units), np.random.default_rng([settings.seed, index])
        record = {
            "maps": {key: score_map(one, references, spacing, *about) for key, one in outputs.items()},
            "samples": score_samples(outputs["samples"], references, spacing, rng, units),
            "run": {
                key: report[key] for key in ("steps", "samples", "working_spacing_mm", "direct_difference", "warnings")
            },
            "cost": _cost(report, direct_report),
            "joint": _joint(case, dataset, order, model, settings, index, units, predict),
        }
        return record, picture

    def files(index: int) -> dict[str, Any]:
        return {"content": files_sha256(*cases[index].files)}

    return run_cases([case.name for case in cases], work, store, files)


def _joint(
    case: Case,
    dataset: Dataset,
    order: Sequence[int],
    model: Model,
    settings: Settings,
    index: int,
    units: Units,
    predict: Predict | None,
) -> dict[str, Any]:
    """Record of the joint samples on the working grid against the first rater; of a stack, of all its slices."""
    grid = Grid.of(model.section)
    images = read_case(case, grid.inputs)
    values, labels = on_grid(images, case.labels[:1], grid, dataset.label_names, dataset.ignored)
    image: SamplerImage = values.astype(np.float32)
    if predict is not None:
        place = partial(odds_on_grid, images=images, grid=grid)
        image = predict(values.astype(np.float32), images, choose_device(settings.device), _SILENT, place)
    truth, spacing = relabel(labels[0], order), [model.spacing] * 3
    if units.is_area:
        image = image.of_slice(0) if isinstance(image, FoldedImage) else image[:, 0]
        truth, spacing = truth[0], spacing[1:]
    elif model.dims == 2:
        spacing[0] = images[0].GetSpacing()[2]
    count = max(FEWEST_SAMPLES, min(settings.samples, JOINT_SAMPLES))
    seed = sample_seeds(settings.seed, 1, index)[0]
    return joint_case(model, labelled(model, image, truth), count, seed, spacing, units)


def _prediction(head: ForeignHead, model: Model, dataset: Dataset, case: Case) -> Predict:
    """The prediction of a case by what has not seen it; runs the network once, for all samplers and controls."""
    assert model.foreign is not None, "a model with a foreign head"
    return Predict(head, model.foreign, _folds(dataset, model.section, head.section).get(case.name), keeps=True)


class _SourceModels(engine.ModelCache):
    """Loads every model with the given source of maps in place of the one in its metadata."""

    def __init__(self, cache: engine.ModelCache, source: str) -> None:
        super().__init__()
        self.cache, self.source = cache, source

    def get(self, name: str, device: torch.device) -> Model:
        model = self.cache.get(name, device)
        if self.source == "samples" and not np.isinf(model.map_prior):
            return model  # as a user gets it, with the direct head weighted as k samples
        section = {key: value for key, value in model.section.items() if key != "map_prior"}
        section["map_source"] = self.source
        return dataclasses.replace(model, metadata={**model.metadata, "diffusion_segmentation": section})


def _segment(
    case: Case, image: sitk.Image, settings: Settings, models: engine.ModelCache, predict: Predict | None = None
) -> tuple[RunOutputs, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        options = dataclasses.asdict(settings) | {"keep_samples": True, "compress": False}
        request = engine.Request(case.images, Path(folder), **options)
        report = engine.segment(request, models=models, predict=predict).report
        return read_outputs(Path(folder), image), report


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


def _picture(
    images: Sequence[sitk.Image], reference: np.ndarray, outputs: RunOutputs, spacing: Sequence[float]
) -> dict[str, np.ndarray]:
    """Arrays for a picture of the case: the slice with the largest entropy.

    `images` are the channels of its first input: three are red, green and blue; of others the first is shown.
    """
    at = int(outputs.entropy.sum((1, 2), dtype=np.float64).argmax())
    shown = images if len(images) == 3 else images[:1]
    values = np.stack([sitk.GetArrayViewFromImage(image)[at].astype(np.float32) for image in shown], -1)
    low, high = np.quantile(values, [0.005, 0.995]) if len(shown) == 1 else (0, values.max())
    values = np.clip((values - low) / max(high - low, 1e-6), 0, 1).astype(np.float16)
    return {
        "image": values if len(shown) == 3 else values[..., 0],
        "truth": reference[at],
        "consensus": outputs.labels[at],
        "entropy": outputs.entropy[at].astype(np.float16),
        "samples": np.stack([mask[at] for mask in (*outputs.samples, outputs.samples[0])[:2]]),
        "spacing": np.array(spacing[1:]),
    }
