"""Result files and report of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..dicom.maps import Maps as DicomMaps
from ..images import writing
from ..images.resampling import InputMaps, Projection
from ..measurements.answer import answer
from ..measurements.label_map import LabelMap
from ..measurements.question import Question
from ..metrics import dice
from ..metrics.intervals import interval_method
from ..networks import InputDistance
from ..runtime.versions import versions
from . import contours, result_folder, uncertain_regions
from .alternatives import alternatives
from .ensemble import Ensemble, class_sizes
from .input_volume import InputVolume
from .own_cases import LEVELS, OwnCases
from .uncertain_regions import Ranking
from .watershed import SEED_DISTANCE_MM, SMOOTHING_MM, watershed_regions


@dataclass(frozen=True)
class ResultSource:
    """Where the class probabilities and masks of a result come from.

    Attributes:
        labels: table of labels as in a model's metadata.
        spacing_mm: voxel size [z, y, x] of the working grid, on which the probabilities lie.
        report: function that returns the report's entries on model, samples and device.
        input_distance: distance of the input from the scans that the model was made for; None without statistics.
        region_distances: the same for each watershed region [n], from their label map and the probability [z, y, x]
            that the consensus is wrong, both on the working grid, with the limit; None without statistics.
        mutual_information: bits, float32 [k, j, i] on the grid of the input; None unless the samples are networks.
        model_spacing_mm: smallest edge of a voxel of the network; None if the working grid is the network's.
        are_draws: whether the masks are draws whose spread predicts the next one; if not, their volumes have a range
            and no intervals.
        own_cases: calibration of the intervals.
    """

    labels: list[dict[str, Any]]
    spacing_mm: tuple[float, float, float]
    report: Callable[[Ensemble], dict[str, Any]]
    input_distance: InputDistance | None = None
    region_distances: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]] | None = None
    mutual_information: np.ndarray | None = None
    model_spacing_mm: float | None = None
    are_draws: bool = True
    own_cases: OwnCases = OwnCases()

    @property
    def finest_mm(self) -> float:
        """Smallest edge of a voxel on which the probabilities were predicted; seams are a multiple of it wide."""
        return min(self.spacing_mm) if self.model_spacing_mm is None else self.model_spacing_mm

    @property
    def names(self) -> list[str]:
        """Names of the classes, background first."""
        return ["background", *(entry["name"] for entry in self.labels)]


@dataclass
class ResultWriter:
    """Writes the results of the samples so far; maps and masks lie on the grid of the input.

    Attributes:
        region_mm: minimum distance between the seeds of uncertain regions; None for the default, in pictures with a
            pixel size as many pixels of the model.
        projection: from the working grid to the grid of the input.
        questions: that the report answers from the samples.
        kept: maps that stay for the update of the result, or are those of the result before; None to keep none.
    """

    input: InputVolume
    source: ResultSource
    projection: Projection
    compress: bool = True
    keep_samples: bool = False
    region_mm: float | None = None
    questions: Sequence[Question] = ()
    kept: dict[str, InputMaps] | None = None

    def __post_init__(self) -> None:
        self._reference = self.input.image
        self._voxel_size, self._unit = uncertain_regions.voxel_size(*geometry(self._reference))
        self._image_size = self._reference.GetNumberOfPixels() * self._voxel_size  # no structure is larger
        scale = self.source.finest_mm if self._unit == "mm2" else 1.0
        self._region_mm, self._smoothing_mm = self.region_mm or SEED_DISTANCE_MM * scale, SMOOTHING_MM * scale

    def measure(self, mask: np.ndarray) -> list[float]:
        """Answer of each question for one mask [k, j, i] on a part of the input's grid."""
        image = LabelMap(mask, self._reference) if self.questions else None
        return [question.value(image) for question in self.questions if image is not None]

    def write_maps(
        self, probabilities: np.ndarray, segmentation: Path, entropy: Path, quantised: bool = False
    ) -> InputMaps:
        """Write the consensus segmentation and entropy of class probabilities [C, z, y, x] on the working grid.

        Returns all maps, also the `quantised` ones if wanted.
        """
        levels = (contours.INNER, contours.OUTER) if quantised or self.kept is not None else None
        maps = self.projection.maps(probabilities, levels, self.kept)
        writing.write_segmentation(segmentation, maps.labels, self._reference, self.source.labels, self.compress)
        writing.write_volume(entropy, maps.entropy, self._reference, self.compress)
        return maps

    def write(self, folder: Path, ensemble: Ensemble, windows: int, warnings: list[str]) -> dict[str, Any]:
        """Write the result files of the samples so far into `folder`; returns their report, which `finish` writes."""
        p, reference, compress, box = ensemble.map, self._reference, self.compress, self.projection.box
        maps = self.write_maps(p, folder / "segmentation.seg.nrrd", folder / "entropy.nrrd", True)
        labels, bits, quantised = maps.labels, maps.entropy, list(maps.quantised)
        if self.source.mutual_information is not None:
            path = folder / "mutual_information.nrrd"
            writing.write_volume(path, self.source.mutual_information, reference, compress)
        error = 1 - p.max(0)
        working_regions = watershed_regions(error, self.source.spacing_mm, self._region_mm, self._smoothing_mm)
        input_regions = self.projection.nearest(working_regions)
        if self.keep_samples and len(ensemble):
            disagreement = self.projection.maps(ensemble.vote_shares, None, self.kept, "votes").entropy
            writing.write_volume(folder / "disagreement.nrrd", disagreement, reference, compress)
            writing.write_sequence(folder / "samples.seq.nrrd", ensemble.masks, reference, box, compress)
        if self.keep_samples:
            probabilities = folder / "probabilities.seq.nrrd"
            writing.write_sequence(probabilities, quantised, reference, box, compress, index_name="class")
            writing.write_volume(folder / "regions.nrrd", input_regions, reference, compress, box)
        volumes = {
            "consensus": class_sizes(labels, ensemble.classes, ensemble.voxel_size),
            "expected": maps.sums * ensemble.voxel_size,
        }
        regions = self._rank_regions(input_regions, quantised, bits[self.projection.inside])
        self._add_alternatives(regions["regions"], input_regions, ensemble)
        report = self._report(ensemble, labels, p, volumes) | {
            "windows": windows,
            **regions,
            **self._add_region_distances(regions["regions"], working_regions, error),
            "warnings": warnings,
        }
        if self.input.exporter is not None:
            arrays = DicomMaps(labels, bits, quantised, box[0])
            missing = self.input.exporter.write(folder, arrays, self.source.labels, report)
            report |= {"warnings": [*warnings, *missing.values()], "missing_dicom": list(missing)}
        return report

    def _report(
        self, ensemble: Ensemble, labels: np.ndarray, p: np.ndarray, volumes: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        distance = self.source.input_distance
        stated = self.source.report(ensemble)
        checked = stated.get("own_cases", {}).get("checked", False)
        table = [self._volume(ensemble, entry, p[entry["label"]], volumes, checked) for entry in self.source.labels]
        agreement = ensemble.expected_dice
        for row in table:
            row["expected_dice"] = agreement[row["label"] - 1]
        known = [score for score in agreement if score is not None]
        # Dice of each stored sample with the consensus for each structure; 1 if both lack a structure.
        scores = [dice(mask.whole(), labels[self.projection.inside], ensemble.classes)[1:] for mask in ensemble.masks]
        return {
            "schema": 1,
            **stated,
            "samples": len(ensemble),
            "kept_samples": len(ensemble.masks),
            "working_spacing_mm": self.source.finest_mm,
            "unit": self._unit,
            "classes": ensemble.classes,
            "max_entropy_bits": math.log2(ensemble.classes),
            "volumes": table,
            "contours": {"inner": contours.INNER, "outer": contours.OUTER},
            "expected_dice": round(sum(known) / len(known), 5) if known else None,
            "samples_dice": [round(float(score.mean()), 5) for score in scores],
            **({"answers": self._answers(ensemble, labels, table)} if self.questions else {}),
            "region_mm": self._region_mm,
            "versions": versions(),
            "input": {
                "size_ijk": list(self._reference.GetSize()),
                "spacing_mm": [round(s, 6) for s in self._reference.GetSpacing()],
                "sha256": self.input.sha256,
                **({"series_uid": self.input.series_uid} if self.input.series_uid else {}),
                **({"names": list(self.input.names)} if len(self.input.names) > 1 else {}),
                **({"further_sha256": dict(self.input.further_sha256)} if self.input.further_sha256 else {}),
                **(distance.as_json(self.source.names) if distance else {}),
            },
        }

    def _volume(
        self,
        ensemble: Ensemble,
        entry: dict[str, Any],
        p: np.ndarray,
        volumes: dict[str, np.ndarray],
        checked: bool,
    ) -> dict[str, Any]:
        label, unit, own_cases = entry["label"], self._unit, self.source.own_cases
        samples = ensemble.volumes[:, label]
        spread: dict[str, Any] = {"method": interval_method(len(samples)) if len(samples) else None}
        for level in LEVELS:
            interval = own_cases.interval(label, samples, level) if self.source.are_draws else None
            bounded = None if interval is None else _rounded([min(bound, self._image_size) for bound in interval])
            spread[f"interval{level}_{unit}"] = bounded
        if len(samples) and not self.source.are_draws:
            bounds = float(samples.min()), float(samples.max())
            spread |= {"method": "range", f"range_{unit}": _rounded(bounds)}
        between = contours.contour_distance(p, self.source.spacing_mm)
        return {
            **{key: entry[key] for key in ("label", "id", "name")},
            **{f"{name}_{unit}": round(float(sizes[label]), 4) for name, sizes in volumes.items()},
            f"contour_distance_{'px' if unit == 'px' else 'mm'}": None if between is None else round(between, 4),
            f"mean_{unit}": round(float(samples.mean()), 4) if len(samples) else None,
            **spread,
            **own_cases.volume_entries(label, samples, checked),
            f"samples_{unit}": _rounded(samples.tolist()),
        }

    def _answers(self, ensemble: Ensemble, labels: np.ndarray, table: list[dict[str, Any]]) -> list[dict[str, Any]]:
        values = np.array(ensemble.measured).reshape(len(ensemble), len(self.questions))
        rows = zip(self.questions, self.measure(labels), values.T, strict=True)
        options = self.source.are_draws, self._image_size, table
        return [answer(question, value, column.tolist(), *options) for question, value, column in rows]

    def _rank_regions(self, regions: np.ndarray, quantised: list[np.ndarray], bits: np.ndarray) -> dict[str, Any]:
        """Entries of the report on the uncertain regions, from the same arrays from which Slicer ranks them again."""
        spacing, start = self._reference.GetSpacing(), np.array(self.projection.box[0])
        thickness = uncertain_regions.reviewable_voxels(self.source.finest_mm, spacing[::-1], regions.shape)
        ranking = Ranking(regions, quantised, bits, self._voxel_size, thickness)

        def ras(kji: tuple[int, ...]) -> tuple[float, float, float]:
            left, posterior, superior = self._reference.TransformIndexToPhysicalPoint((start + kji[::-1]).tolist())
            return -left, -posterior, superior

        ranked = ranking.at(uncertain_regions.REVIEW_BITS, most=uncertain_regions.REPORTED)
        return uncertain_regions.as_json(ranked, self.source.names, ras, self._unit)

    def _add_alternatives(self, entries: list[dict[str, Any]], regions: np.ndarray, ensemble: Ensemble) -> None:
        """Add to each entry the distinct alternatives of the stored samples in its region, if any are stored.

        `regions` lie on the part of the input's grid that the samples cover.
        """
        if not ensemble.masks or not entries:
            return
        number = np.zeros(int(regions.max()) + 1, np.uint8)  # of the entry of each region from 1; REPORTED at most
        number[[entry["basin"] for entry in entries]] = np.arange(1, len(entries) + 1)
        numbers = number[regions].ravel()
        inside = np.flatnonzero(numbers)
        order = np.argsort(numbers[inside], kind="stable")
        at = inside[order]
        masks = np.stack([mask.whole().ravel()[at] for mask in ensemble.masks])
        ends = np.cumsum(np.bincount(numbers[inside], minlength=len(entries) + 1)[1:])
        for entry, part in zip(entries, np.split(masks, ends[:-1], axis=1), strict=True):
            entry["alternatives"] = [one.as_json() for one in alternatives(part)]

    def _add_region_distances(
        self, entries: list[dict[str, Any]], regions: np.ndarray, error: np.ndarray
    ) -> dict[str, float]:
        """Add to each entry the distance of its region from the scans that the model was made for; returns the limit.

        `regions` and `error`, the probability that the consensus is wrong, lie on the working grid.
        """
        if self.source.region_distances is None:
            return {}
        distances, limit = self.source.region_distances(regions, error)
        for entry in entries:
            entry["distance"] = round(float(distances[entry["basin"] - 1]), 2)
        return {"region_limit": round(limit, 2)}


def geometry(image: sitk.Image) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Spacing (mm) and shape of an image in the order of its array, [k, j, i]."""
    return image.GetSpacing()[::-1], image.GetSize()[::-1]


def _rounded(sizes: Sequence[float]) -> list[float]:
    return [round(size, 4) for size in sizes]


def finish(folder: Path, report: dict[str, Any], timings: dict[str, float], stopped: bool) -> None:
    """Write report.json into the folder of its results, last: a folder that has one is complete."""
    report["timings_s"] = {name: round(seconds, 3) for name, seconds in timings.items()}
    report["partial"] = stopped
    report["files"] = result_folder.digests(folder)
    writing.write_report(folder / "report.json", report)
