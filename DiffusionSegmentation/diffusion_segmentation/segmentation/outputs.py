"""What a run leaves: the maps and masks of its samples as files, and its report."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..images import writing as results
from ..images.resampling import Projection
from ..metrics import dice
from ..metrics.intervals import interval_method, predictive_interval
from ..model.folder import Model
from ..networks import InputDistance
from ..runtime.versions import versions
from . import result_folder
from . import uncertain_regions as regions
from .ensemble import Ensemble, volumes_ml
from .watershed import SEED_DISTANCE_MM, basins


@dataclass
class RunResults:
    """Writes what is known of a run, as often as there is more of it.

    Attributes:
        reference: the input, on whose grid the maps lie; `input_sha256` is that of its voxels.
        direct: class probabilities of the direct head, float32 [C, z, y, x] on the working grid.
        keep_samples, compress, region_mm: as in `segment.Request`.
        asked: what the report repeats of the request: seed, steps and requested_samples.
        passes: of the denoiser for each sample and window.
        input_distance: how far the input lies from those that the model was made for, None without statistics, and
            `cell_distances`, the same of every voxel, float32 [z, y, x].
    """

    model: Model
    device: torch.device
    reference: sitk.Image
    input_sha256: str
    projection: Projection
    direct: np.ndarray
    keep_samples: bool
    compress: bool
    region_mm: float | None
    asked: dict[str, Any]
    passes: int
    input_distance: InputDistance | None = None
    cell_distances: np.ndarray | None = None

    def write_maps(
        self, probabilities: np.ndarray, segmentation: Path, entropy: Path
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Write the maps of class probabilities [C, z, y, x]; returns labels, bits [k, j, i], expected voxels [C]."""
        labels, bits, expected = self.projection.consensus(probabilities)
        results.write_segmentation(segmentation, labels, self.reference, self.model.labels, self.compress)
        results.write_volume(entropy, bits, self.reference, self.compress)
        return labels, bits, expected

    def write(self, folder: Path, ensemble: Ensemble, windows: int, warnings: list[str]) -> dict[str, Any]:
        """Write the samples so far and their maps into `folder`; returns what the report says of them."""
        compress = self.compress
        p = ensemble.map
        labels, bits, expected = self.write_maps(p, folder / "segmentation.seg.nrrd", folder / "entropy.nrrd")
        box, quantised = self.projection.box, list(self.projection.quantised(p))
        size = self.region_mm or SEED_DISTANCE_MM
        error = 1 - p.max(0)
        areas = basins(error, (self.model.spacing,) * 3, size, 2 * size)
        cube_distances = self.projection.nearest(areas)
        if self.keep_samples:
            disagreement = self.projection.consensus(ensemble.shares)[1]
            results.write_volume(folder / "disagreement.nrrd", disagreement, self.reference, compress)
            results.write_sequence(folder / "samples.seq.nrrd", ensemble.masks, self.reference, box, compress)
            results.write_sequence(
                folder / "probabilities.seq.nrrd", quantised, self.reference, box, compress, index_name="class"
            )
            results.write_volume(folder / "regions.nrrd", cube_distances, self.reference, compress, box)
        volumes = {
            "consensus_ml": volumes_ml(labels, self.model.classes, ensemble.voxel_ml),
            "expected_ml": expected * ensemble.voxel_ml,
        }
        return self._report(ensemble, labels, volumes) | {
            "windows": windows,
            **self._compared(self._regions(cube_distances, quantised, bits[self._inside]), areas, error),
            "warnings": warnings,
        }

    def _report(self, ensemble: Ensemble, labels: np.ndarray, volumes: dict[str, np.ndarray]) -> dict[str, Any]:
        section, start = self.model.section, self.model.start
        return {
            "schema": 1,
            "model": {
                "name": section["name"],
                "title": section["title"],
                "version": self.model.metadata["version"],
                "sha256": section["sha256"],
                "description": self.model.metadata.get("description", ""),
                "intended_use": self.model.metadata.get("intended_use", ""),
                "card": section.get("card", {}),
            },
            "map_source": ensemble.map_source,
            "map_prior": None if math.isinf(ensemble.prior) else ensemble.prior,
            "denoiser_passes": self.passes,
            "start": {
                "kind": "noise" if start is None else "copula",
                "log_snr": start and start.log_snr,
                **({"kept_mm": start.kept_mm} if start and start.kept_mm is not None else {}),
            },
            **self.asked,
            "samples": len(ensemble),
            "kept_samples": len(ensemble.masks),
            "device": self.device.type if self.device.type == "cpu" else str(self.device),
            "working_spacing_mm": self.model.spacing,
            "classes": self.model.classes,
            "max_entropy_bits": math.log2(self.model.classes),
            "volumes": [self._volume(ensemble, entry, volumes) for entry in self.model.labels],
            "samples_dice": self._samples_dice(ensemble, labels),
            "region_mm": self.region_mm or SEED_DISTANCE_MM,
            "direct_difference": round(_difference(self.direct, ensemble.mean), 5),
            "memory_bytes": self._memory(),
            "versions": versions(),
            "input": {
                "size_ijk": list(self.reference.GetSize()),
                "spacing_mm": [round(s, 6) for s in self.reference.GetSpacing()],
                "sha256": self.input_sha256,
                **(self.input_distance.as_json(self.model.names) if self.input_distance else {}),
            },
        }

    def _volume(self, ensemble: Ensemble, entry: dict[str, Any], volumes: dict[str, np.ndarray]) -> dict[str, Any]:
        drawn = ensemble.volumes[:, entry["label"]]
        intervals = {}
        for level in (50, 90):
            interval = predictive_interval(drawn, level / 100)
            intervals[f"interval{level}_ml"] = None if interval is None else [round(bound, 4) for bound in interval]
        return {
            "label": entry["label"],
            "id": entry["id"],
            "name": entry["name"],
            **{name: round(float(ml[entry["label"]]), 4) for name, ml in volumes.items()},
            "mean_ml": round(float(drawn.mean()), 4),
            **intervals,
            "method": interval_method(len(drawn)),
            "samples_ml": [round(float(v), 4) for v in drawn],
        }

    def _samples_dice(self, ensemble: Ensemble, labels: np.ndarray) -> list[float]:
        """Dice of each kept sample with the consensus `labels`, mean over structures; 1 for one that neither has."""
        consensus = labels[self._inside]
        scores = [dice(mask.whole(), consensus, self.model.classes) for mask in ensemble.masks]
        return [round(float(score[1:].mean()), 5) for score in scores]

    @property
    def _inside(self) -> tuple[slice, ...]:
        """The block of the input grid [k, j, i] that was segmented."""
        index, size = self.projection.box
        return tuple(slice(a, a + n) for a, n in zip(index[::-1], size[::-1], strict=True))

    def _regions(self, cube_distances: np.ndarray, quantised: list[np.ndarray], bits: np.ndarray) -> dict[str, Any]:
        """The worst of the uncertain regions, from what Slicer is given to rank them anew, so that both agree."""
        names = self.model.names
        spacing, start = self.reference.GetSpacing(), np.array(self.projection.box[0])
        thickness = regions.reviewable_voxels(self.model.spacing, spacing[::-1])
        ranking = regions.Ranking(cube_distances, quantised, bits, math.prod(spacing) / 1000, thickness)

        def ras(kji: tuple[int, int, int]) -> tuple[float, float, float]:
            left, posterior, superior = self.reference.TransformIndexToPhysicalPoint((start + kji[::-1]).tolist())
            return -left, -posterior, superior

        return regions.as_json(ranking.at(regions.REVIEW_BITS, most=regions.REPORTED), names, ras)

    def _compared(self, told: dict[str, Any], areas: np.ndarray, error: np.ndarray) -> dict[str, Any]:
        """What is `told` of the regions, each with how far it lies from those that the model was made for.

        `areas` are its basins, `error` the chance that the consensus is wrong, both on the working grid.
        """
        input_statistics = self.model.input_statistics
        if self.cell_distances is None or not input_statistics.compares_regions:
            return told
        weights = error * (areas > 0)
        sums = np.bincount(areas.ravel(), (weights * self.cell_distances).ravel())
        found = input_statistics.region_distances(
            sums[1:] / np.maximum(np.bincount(areas.ravel(), weights.ravel())[1:], 1e-9)
        )
        for region in told["regions"]:
            region["distance"] = round(float(found[region["basin"] - 1]), 2)
        return told | {"region_limit": round(float(input_statistics.region[2]), 2)}

    def _memory(self) -> dict[str, int]:
        """Peak bytes: of this process, and of the GPU if one was used. Windows has no such count at hand."""
        peak = {}
        try:
            import resource

            unit = 1 if platform.system() == "Darwin" else 1024
            peak["process_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        except ImportError:
            pass
        if self.device.type == "cuda":
            peak["gpu_peak"] = torch.cuda.max_memory_allocated(self.device)
        return peak


def finish(folder: Path, report: dict[str, Any], timings: dict[str, float], stopped: bool) -> None:
    """Write the report beside what it tells of: a folder that has one is whole."""
    report["timings_s"] = {name: round(seconds, 3) for name, seconds in timings.items()}
    report["partial"] = stopped
    report["files"] = result_folder.digests(folder)
    results.write_report(folder / "report.json", report)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean total variation between two probability maps [C, z, y, x], where either sees more than 5 % foreground."""
    where = np.minimum(a[0], b[0]) < 0.95
    return float(0.5 * np.abs(a - b).sum(0)[where].mean()) if where.any() else 0.0
