"""Result files and report of a run."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..images import writing
from ..images.resampling import Projection
from ..metrics import dice
from ..metrics.intervals import interval_method, predictive_interval
from ..model.folder import Model
from ..networks import InputDistance
from ..runtime.versions import versions
from . import result_folder, uncertain_regions
from .ensemble import Ensemble, volumes_ml
from .input_volume import InputVolume
from .request import Request
from .uncertain_regions import Ranking
from .watershed import SEED_DISTANCE_MM, watershed_regions


@dataclass
class ResultWriter:
    """Writes the results of the samples so far; maps and masks lie on the grid of the input."""

    request: Request
    model: Model
    device: torch.device
    input: InputVolume
    projection: Projection  # from the working grid to the grid of the input
    direct: np.ndarray  # class probabilities of the direct head, float32 [C, z, y, x] on the working grid
    # Entries of the report on how samples were drawn: seed, steps, requested_samples, denoiser_passes (for each sample
    # and window).
    settings: dict[str, Any]
    input_distance: InputDistance | None  # from the scans that the model was made for; None without statistics
    voxel_distances: np.ndarray | None  # the same for each voxel, float32 [z, y, x] on the working grid

    def __post_init__(self) -> None:
        self._reference, self._compress = self.input.image, self.request.compress
        self._region_mm = self.request.region_mm or SEED_DISTANCE_MM

    def write_maps(
        self, probabilities: np.ndarray, segmentation: Path, entropy: Path
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Write the consensus segmentation and entropy of class probabilities [C, z, y, x] on the working grid.

        Returns labels uint8 and entropy in bits, both [k, j, i], and the expected number of voxels of each class [C].
        """
        labels, bits, expected = self.projection.consensus(probabilities)
        writing.write_segmentation(segmentation, labels, self._reference, self.model.labels, self._compress)
        writing.write_volume(entropy, bits, self._reference, self._compress)
        return labels, bits, expected

    def write(self, folder: Path, ensemble: Ensemble, windows: int, warnings: list[str]) -> dict[str, Any]:
        """Write the result files of the samples so far into `folder`; returns their report, which `finish` writes."""
        p, reference, compress, box = ensemble.map, self._reference, self._compress, self.projection.box
        labels, bits, expected = self.write_maps(p, folder / "segmentation.seg.nrrd", folder / "entropy.nrrd")
        quantised = list(self.projection.quantised(p))
        error = 1 - p.max(0)
        working_regions = watershed_regions(error, (self.model.spacing,) * 3, self._region_mm)
        input_regions = self.projection.nearest(working_regions)
        if self.request.keep_samples:
            disagreement = self.projection.consensus(ensemble.vote_shares)[1]
            writing.write_volume(folder / "disagreement.nrrd", disagreement, reference, compress)
            writing.write_sequence(folder / "samples.seq.nrrd", ensemble.masks, reference, box, compress)
            probabilities = folder / "probabilities.seq.nrrd"
            writing.write_sequence(probabilities, quantised, reference, box, compress, index_name="class")
            writing.write_volume(folder / "regions.nrrd", input_regions, reference, compress, box)
        volumes = {
            "consensus_ml": volumes_ml(labels, self.model.classes, ensemble.voxel_ml),
            "expected_ml": expected * ensemble.voxel_ml,
        }
        regions = self._rank_regions(input_regions, quantised, bits[self.projection.inside])
        return self._report(ensemble, labels, volumes) | {
            "windows": windows,
            **regions,
            **self._add_region_distances(regions["regions"], working_regions, error),
            "warnings": warnings,
        }

    def _report(self, ensemble: Ensemble, labels: np.ndarray, volumes: dict[str, np.ndarray]) -> dict[str, Any]:
        section, start = self.model.section, self.model.start
        # Dice of each stored sample with the consensus for each structure; 1 if both lack a structure.
        scores = [dice(mask.whole(), labels[self.projection.inside], self.model.classes)[1:] for mask in ensemble.masks]
        return {
            "schema": 1,
            "model": {
                **{key: section[key] for key in ("name", "title")},
                "version": self.model.metadata["version"],
                "sha256": section["sha256"],
                **{key: self.model.metadata.get(key, "") for key in ("description", "intended_use")},
                "card": section.get("card", {}),
            },
            "map_source": ensemble.map_source,
            "map_prior": None if math.isinf(ensemble.prior) else ensemble.prior,
            "start": {
                "kind": "noise" if start is None else "copula",
                "log_snr": start and start.log_snr,
                **({"kept_mm": start.kept_mm} if start and start.kept_mm is not None else {}),
            },
            **self.settings,
            "samples": len(ensemble),
            "kept_samples": len(ensemble.masks),
            "device": self.device.type if self.device.type == "cpu" else str(self.device),
            "working_spacing_mm": self.model.spacing,
            "classes": self.model.classes,
            "max_entropy_bits": math.log2(self.model.classes),
            "volumes": [self._volume(ensemble, entry, volumes) for entry in self.model.labels],
            "samples_dice": [round(float(score.mean()), 5) for score in scores],
            "region_mm": self._region_mm,
            "direct_difference": round(_mean_total_variation(self.direct, ensemble.mean), 5),
            "memory_bytes": self._peak_memory(),
            "versions": versions(),
            "input": {
                "size_ijk": list(self._reference.GetSize()),
                "spacing_mm": [round(s, 6) for s in self._reference.GetSpacing()],
                "sha256": self.input.sha256,
                **(self.input_distance.as_json(self.model.names) if self.input_distance else {}),
            },
        }

    def _volume(self, ensemble: Ensemble, entry: dict[str, Any], volumes: dict[str, np.ndarray]) -> dict[str, Any]:
        samples = ensemble.volumes[:, entry["label"]]
        intervals = {}
        for level in (50, 90):
            interval = predictive_interval(samples, level / 100)
            intervals[f"interval{level}_ml"] = None if interval is None else [round(bound, 4) for bound in interval]
        return {
            **{key: entry[key] for key in ("label", "id", "name")},
            **{name: round(float(ml[entry["label"]]), 4) for name, ml in volumes.items()},
            "mean_ml": round(float(samples.mean()), 4),
            **intervals,
            "method": interval_method(len(samples)),
            "samples_ml": [round(float(v), 4) for v in samples],
        }

    def _rank_regions(self, regions: np.ndarray, quantised: list[np.ndarray], bits: np.ndarray) -> dict[str, Any]:
        """Entries of the report on the uncertain regions, from the same arrays from which Slicer ranks them again."""
        spacing, start = self._reference.GetSpacing(), np.array(self.projection.box[0])
        thickness = uncertain_regions.reviewable_voxels(self.model.spacing, spacing[::-1])
        ranking = Ranking(regions, quantised, bits, math.prod(spacing) / 1000, thickness)

        def ras(kji: tuple[int, ...]) -> tuple[float, float, float]:
            left, posterior, superior = self._reference.TransformIndexToPhysicalPoint((start + kji[::-1]).tolist())
            return -left, -posterior, superior

        ranked = ranking.at(uncertain_regions.REVIEW_BITS, most=uncertain_regions.REPORTED)
        return uncertain_regions.as_json(ranked, self.model.names, ras)

    def _add_region_distances(
        self, entries: list[dict[str, Any]], regions: np.ndarray, error: np.ndarray
    ) -> dict[str, float]:
        """Add to each entry the distance of its region from the scans that the model was made for; returns the limit.

        `regions` and `error`, the probability that the consensus is wrong, lie on the working grid.
        """
        statistics = self.model.input_statistics
        if statistics is None or self.voxel_distances is None or not statistics.compares_regions:
            return {}
        sums, weights = (
            np.bincount(regions.ravel(), values.ravel())[1:] for values in (error * self.voxel_distances, error)
        )
        distances = statistics.region_distances(sums / np.maximum(weights, 1e-9))
        for entry in entries:
            entry["distance"] = round(float(distances[entry["basin"] - 1]), 2)
        return {"region_limit": round(float(statistics.region[2]), 2)}

    def _peak_memory(self) -> dict[str, int]:
        """Peak memory in bytes of this process (not on Windows) and of the GPU, if one was used."""
        peak = {}
        if sys.platform != "win32":
            import resource

            unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
            peak["process_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if self.device.type == "cuda":
            peak["gpu_peak"] = torch.cuda.max_memory_allocated(self.device)
        return peak


def finish(folder: Path, report: dict[str, Any], timings: dict[str, float], stopped: bool) -> None:
    """Write report.json into the folder of its results, last: a folder that has one is complete."""
    report["timings_s"] = {name: round(seconds, 3) for name, seconds in timings.items()}
    report["partial"] = stopped
    report["files"] = result_folder.digests(folder)
    writing.write_report(folder / "report.json", report)


def _mean_total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean total variation between probability maps [C, z, y, x] over the voxels where one has > 5 % foreground."""
    foreground = np.minimum(a[0], b[0]) < 0.95
    return float(0.5 * np.abs(a - b).sum(0)[foreground].mean()) if foreground.any() else 0.0
