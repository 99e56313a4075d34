"""Result of masks or class probabilities that others made: raters, folds of a network, augmented runs, other tools.

The masks take the place of samples: their mean is the class probability, their spread the uncertainty.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import InputError, shown
from ..images.case_files import CaseFiles
from ..images.compressed_mask import CompressedMask
from ..images.dataset import MAX_LABELS, read_label_names
from ..images.file_digest import array_sha256
from ..images.input_names import Input
from ..images.label_file import read_label_numbers
from ..images.label_table import label_table
from ..segmentation import result_folder
from ..segmentation.ensemble import Ensemble
from ..segmentation.input_volume import InputVolume, read_unchanged
from ..segmentation.members import (
    Members,
    ProbabilityMean,
    VoxelBox,
    WriteOptions,
    require_memory,
    write_members,
)
from ..segmentation.model_source import peak_memory
from ..segmentation.outputs import finish
from ..segmentation.request import Outcome, Progress
from ..segmentation.run_control import RunControl
from . import plausibility
from .label_sets import LabelSet, common_labels, named_segments
from .probability_file import has_order_of_mask, is_probability_file, read_probabilities

SPREAD = (
    "The uncertainty is the disagreement of {count} imported masks; it does not include errors that they have in "
    "common."
)
SPREAD_OF_FILES = (
    "The entropy is that of the mean of {count} imported files of class probabilities: their disagreement, and what "
    "each is unsure of. The volume intervals are those of their most probable masks alone and can miss the expected "
    "volume."
)
NO_SAMPLES = (
    "The uncertainty is that of an imported file of class probabilities; without samples of the whole volume there are "
    "no volume intervals and no alternatives."
)
NO_GRID = (
    "Files of the type .npz state no grid, and their voxels were taken in the order of the volume's; check left and "
    "right against the volume."
)
NO_LABELS = Path("none")
NOT_USED = "The dataset.json beside the masks has no list of labels that can be used, so the labels have no names."
UNNAMED = "The segments have no names of their own and were matched by number; check that the numbers mean the same."


@dataclass(frozen=True)
class ImportRequest:
    """Parameters of an import.

    Attributes:
        masks: label maps, or files of class probabilities, on the grid of `volume`.
        labels: a dataset.json, or its folder, with the names of the label numbers; None if the masks name their labels,
            or if a dataset.json lies beside them; NO_LABELS if that one is not to be used.
        region_mm, keep_samples, compress, spacing, source, called: as for `segmentation.request.Request`.
    """

    volume: Path
    output: Path
    masks: tuple[Path, ...]
    labels: Path | None = None
    region_mm: float | None = None
    keep_samples: bool = False
    compress: bool = True
    spacing: tuple[float, float, float] | None = None
    source: Path | None = None
    called: str | None = None


def import_masks(
    request: ImportRequest,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancel: Callable[[], Literal["keep", "drop"] | None] = lambda: None,
) -> Outcome:
    """Write the result of imported masks into the folder `request.output`, which is created if necessary.

    Raises InputError and GeometryError for unusable files, OutOfMemoryError, Cancelled, and DiffusionSegmentationError
    if a file cannot be written.
    """
    plausibility.require_same_kind(request.masks)
    plausibility.require_other_files(request.masks, request.volume, request.output)
    control = RunControl(progress, cancel)
    with result_folder.new_folder(request.output):
        result_folder.require_replaceable(request.output)
        with control.stage("reading"):
            files = CaseFiles(request.volume, request.spacing, request.called)
            colours = files.first.channels if files.is_picture else 1
            volume = read_unchanged(files, request.source, (Input("Image", colours),))
            members = _probabilities if is_probability_file(request.masks[0]) else _masks
            imported = members(request, volume.image, control)
        warnings = [*imported.warnings, *volume.warnings]
        with result_folder.replacing(request.output) as folder:
            with control.stage("writing"):
                report = _write(request, volume, imported, warnings, folder)
            control.check_dropped()
            finish(folder, report, control.timings, stopped=False)
    return Outcome(report, partial=False)


@dataclass(frozen=True)
class _Imported:
    """Imported masks, or class probabilities.

    Attributes:
        labels: table of labels.
        kind: "masks" or "probabilities".
        digests: SHA-256 of the voxels of each file, in the order given.
    """

    members: Members
    labels: list[dict[str, Any]]
    kind: Literal["masks", "probabilities"]
    digests: list[str]
    warnings: list[str]


def _masks(request: ImportRequest, image: sitk.Image, control: RunControl) -> _Imported:
    """Read label maps. Each is kept compressed until the labels of all are known."""
    sets: list[LabelSet] = []
    dense: list[tuple[CompressedMask, np.ndarray]] = []  # indices into the numbers that occur, and these numbers
    digests: list[str] = []
    box, unnamed = VoxelBox(image.GetSize()[::-1]), False
    for path in _counted(request.masks, control):
        values, segments = read_label_numbers(path, image, "mask")
        name = f"The mask '{shown(path.name)}'"
        numbers, indices = np.unique(values, return_inverse=True)
        if len(numbers) > 256:
            raise InputError(
                f"{name} has {len(numbers)} different values and at most {MAX_LABELS} can be shown; give a label map, "
                "or merge labels."
            )
        box.include(values != 0)
        dense.append((CompressedMask(indices.reshape(values.shape).astype(np.uint8)), numbers))
        digests.append(array_sha256(values))
        sets.append(LabelSet(name, frozenset(int(n) for n in numbers if n != 0), named_segments(segments)))
        unnamed |= bool(segments) and not sets[-1].is_named
    names, warnings = _label_names(request, all(mask.is_named for mask in sets))
    common = common_labels(sets, names)
    inside, classes = box.slices(), len(common.table) + 1
    shape = tuple(part.stop - part.start for part in inside)
    require_memory(classes, inside)
    votes, masks = np.zeros((classes, *shape), np.uint16), []
    for (mask, numbers), table in zip(dense, common.numbers, strict=True):
        control.check()
        lookup = np.array([table[int(number)] if number else 0 for number in numbers], np.uint8)
        labels = lookup[mask.whole()[inside]]
        np.put_along_axis(votes, labels[None], np.take_along_axis(votes, labels[None], 0) + 1, 0)
        masks.append(CompressedMask(labels))
    warnings = [SPREAD.format(count=len(masks)), *common.warnings, *warnings, *[UNNAMED] * (unnamed and classes > 2)]
    warnings += plausibility.vote_warnings(votes, masks)
    p = votes / np.float32(len(masks))
    return _Imported(Members(inside, p, masks), common.table, "masks", digests, warnings)


def _probabilities(request: ImportRequest, image: sitk.Image, control: RunControl) -> _Imported:
    mean = ProbabilityMean(image.GetSize()[::-1])
    digests, ordered = [], True
    for path in _counted(request.masks, control):
        p = read_probabilities(path, image)
        ordered &= path.suffix.lower() != ".npz" or has_order_of_mask(path, p, image, request.volume)
        if len(mean) and len(p) != len(mean.mean):
            raise InputError(
                f"The probability file '{shown(path.name)}' has {len(p)} classes and the first one {len(mean.mean)}; "
                "give files of one data set."
            )
        digests.append(array_sha256(p))
        mean.add(p)
    names, warnings = _label_names(request, False)
    warnings += [] if ordered else [NO_GRID]
    count = len(mean.mean) - 1
    members = mean.members()
    if names is not None and len(names) != count:
        raise InputError(f"The list of labels has {len(names)} names and the files have {count} classes; fix one.")
    table = label_table(names or [f"Label {n}" for n in range(1, count + 1)])
    spread = NO_SAMPLES if len(mean) == 1 else SPREAD_OF_FILES.format(count=len(mean))
    return _Imported(members, table, "probabilities", digests, [spread, *warnings])


def _label_names(request: ImportRequest, are_named: bool) -> tuple[tuple[str, ...] | None, list[str]]:
    """Names of the label numbers, if given or found beside all masks, and a warning if they were found there."""
    if request.labels == NO_LABELS:
        return None, []
    if request.labels is not None:
        return read_label_names(request.labels), []
    folders = {path.resolve().parent for path in request.masks}
    if are_named or not all((folder / "dataset.json").is_file() for folder in folders):
        return None, []
    try:
        names = {read_label_names(folder) for folder in folders}
    except InputError:
        return None, [NOT_USED]
    if len(names) > 1:
        raise InputError("The masks lie beside different dataset.json; choose one with --labels.")
    return names.pop(), ["The names of the labels are those of dataset.json beside the masks."]


def _write(
    request: ImportRequest, volume: InputVolume, imported: _Imported, warnings: list[str], folder: Path
) -> dict[str, Any]:
    def entries(ensemble: Ensemble) -> dict[str, Any]:
        title = f"{len(imported.digests)} imported {imported.kind}" if ensemble else "imported probabilities"
        return {
            "model": {"name": "imported", "title": title, "version": "", "sha256": "", "card": {}},
            "imported": {"kind": imported.kind, "sha256": imported.digests},
            "map_source": imported.kind,
            "map_prior": None,
            "start": {"kind": "imported", "log_snr": None},
            "seed": 0,
            "steps": 0,
            "requested_samples": len(ensemble),
            "denoiser_passes": 0,
            "device": "cpu",
            "memory_bytes": peak_memory(torch.device("cpu")),
        }

    options = WriteOptions(request.compress, request.keep_samples, request.region_mm)
    return write_members(folder, volume, imported.members, imported.labels, entries, options, warnings)


def _counted(paths: tuple[Path, ...], control: RunControl) -> Any:
    """Yield the paths; reports progress with the time left, and raises Cancelled."""
    start = time.monotonic()
    for n, path in enumerate(paths):
        control.check()
        left = (time.monotonic() - start) / n * (len(paths) - n) if n else None
        control.progress(Progress("reading", step=n + 1, steps=len(paths), seconds_left=left))
        yield path
