"""MRML test cases: typical volumes, and result files as the worker writes them."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import slicer.util
import vtk

from diffusion_segmentation.images import writing
from diffusion_segmentation.segmentation import uncertain_regions
from DiffusionSegmentationLib.runs.handover import Handover
from DiffusionSegmentationLib.scene import result_nodes

VIEW_SIZE = (160, 120)
"""Width and height of slice views in pixels."""

SHAPE = (14, 18, 22)
"""k, j, i of the small volumes."""

TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^123037004^Anatomical Structure~SCT^{}~^^~Anatomic codes - DICOM master list~^^~^^"
)

LABELS = [
    {
        "label": 1,
        "id": "cortical_grey",
        "name": "Cortical grey matter",
        "color": [0.9, 0.4, 0.3],
        "terminology": TERMINOLOGY.format("25991003^Gray matter"),
    },
    {
        "label": 2,
        "id": "white_matter",
        "name": "Weiße Substanz",
        "color": [0.25, 0.5, 0.75],
        "terminology": TERMINOLOGY.format("68523003^White matter"),
    },
]

MAXIMUM_BITS = math.log2(3)
WORKING_MM = 0.4
"""Fine enough that regions one voxel thick count as reviewable."""


@dataclass
class Job:
    """The output of a run: files in `folder`, and their voxels [k, j, i]."""

    folder: Path
    labels: np.ndarray
    entropy: np.ndarray
    samples: list[np.ndarray]
    report: dict = field(default_factory=dict)
    probabilities: list[np.ndarray] = field(default_factory=list)
    disagreement: np.ndarray | None = None


def obliqueIJKToRAS() -> np.ndarray:
    """Rotated about two axes, spacing 0.9 x 1.1 x 2 mm, 4 x 4."""
    a, b = math.radians(20), math.radians(-35)
    aboutS = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    aboutR = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = aboutS @ aboutR @ np.diag([0.9, 1.1, 2.0])
    matrix[:3, 3] = 12.5, -40.25, 7.0
    return matrix


def addVolume(name: str, ijkToRAS: np.ndarray, shape: tuple[int, ...] = SHAPE) -> slicer.vtkMRMLScalarVolumeNode:
    """Add a volume with a ramp that changes with any flip or swap of axes."""
    k, j, i = np.indices(shape)
    voxels = (100 * i + 40 * j + 7 * k).astype(np.int16)
    volumeNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    volumeNode.CreateDefaultDisplayNodes()
    volumeNode.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRAS))
    slicer.util.updateVolumeFromArray(volumeNode, voxels)
    return volumeNode


def addLinearTransform(name: str = "Registrierung") -> slicer.vtkMRMLLinearTransformNode:
    matrix = vtk.vtkTransform()
    matrix.Translate(30, -20, 10)
    matrix.RotateWXYZ(25, 1, 2, 3)
    transformNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    transformNode.SetMatrixTransformToParent(matrix.GetMatrix())
    return transformNode


def segment(volumeNode: slicer.vtkMRMLScalarVolumeNode, folder: Path, samples: int = 3) -> Job:
    """Do what a run does: write the volume, read it as the worker does, and write results as the worker does."""
    folder.mkdir(parents=True, exist_ok=True)
    handover = Handover(volumeNode)
    handover.startWriting(folder)
    handover.join()
    reference = sitk.ReadImage(str(folder / "input.nrrd"))
    if reference.GetNumberOfComponentsPerPixel() > 1:
        reference = sitk.VectorIndexSelectionCast(reference, 0)
    isPicture = reference.GetSize()[2] == 1
    voxels = sitk.GetArrayFromImage(reference)
    quarter, half = np.quantile(voxels, [0.25, 0.5])
    labels = ((voxels > quarter).astype(np.uint8) + (voxels > half)).astype(np.uint8)
    labels[: 0 if isPicture else 1] = labels[:, 0] = 0
    entropy = np.where(voxels > half, 1.2, 0.1).astype(np.float32)
    index, size = (2, 1, 0 if isPicture else 3), tuple(max(extent - 4, 1) for extent in reference.GetSize())
    block = tuple(slice(start, start + extent) for start, extent in zip(index[::-1], size[::-1], strict=True))
    whole = [np.roll(labels, shift, axis=2) for shift in range(samples)]
    masks = [np.ascontiguousarray(mask[block]) for mask in whole]
    votes = np.stack([np.mean([mask == c for mask in whole], axis=0, dtype=np.float32) for c in range(3)])
    disagreement = -(votes * np.log2(np.maximum(votes, 1e-9))).sum(0)
    largest = np.where(entropy > 1, 0.55, 0.98).astype(np.float32)
    p = np.stack([np.where(labels == c, largest, (1 - largest) / 2) for c in range(3)])
    # Three blocks along each axis instead of the engine's watershed, which is slow on a head at 1 mm.
    k, j, i = (3 * np.arange(n) // n for n in labels.shape)
    zones = (1 + i + 3 * j[:, None] + 9 * k[:, None, None]).astype(np.uint16) * (entropy > 1)
    inside = np.zeros(labels.shape, bool)
    inside[block] = True
    zones *= inside
    quantised = [np.rint(255 * part[block]).astype(np.uint8) for part in p]
    spacing = reference.GetSpacing()
    thickness = uncertain_regions.reviewable_voxels(WORKING_MM, spacing[::-1], zones[block].shape)
    voxel, unit = uncertain_regions.voxel_size(spacing[::-1], zones.shape)
    ranking = uncertain_regions.Ranking(zones[block], quantised, entropy[block], voxel, thickness)
    regions = ranking.at(uncertain_regions.REVIEW_BITS, most=uncertain_regions.REPORTED)

    def ras(kji: tuple[int, int, int]) -> np.ndarray:
        place = reference.TransformIndexToPhysicalPoint((np.array(kji[::-1]) + index).tolist())
        return np.array(place) * [-1, -1, 1]

    report = {
        "schema": 1,
        "model": {"name": "brain-structures", "title": "Hirnstrukturen; „alle“: 頭", "sha256": "0" * 64},
        "map_source": "samples",
        "map_prior": 0.0,
        "start": {"kind": "noise", "log_snr": None},
        "max_entropy_bits": MAXIMUM_BITS,
        "contours": {"inner": 0.95, "outer": 0.05},
        "seed": 0,
        "steps": 5,
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
        "samples": samples,
        "kept_samples": samples,
        "warnings": [],
        "volumes": [volume(entry, masks, voxel, unit) for entry in LABELS],
        "unit": unit,
        "working_spacing_mm": WORKING_MM,
        **uncertain_regions.as_json(regions, ["background", *(entry["name"] for entry in LABELS)], ras, unit),
    }
    writing.write_volume(folder / "regions.nrrd", zones[block], reference, False, (index, size))
    writing.write_segmentation(folder / "segmentation.seg.nrrd", labels, reference, LABELS, compress=False)
    writing.write_volume(folder / "entropy.nrrd", entropy, reference, compress=False)
    writing.write_volume(folder / "disagreement.nrrd", disagreement, reference, compress=False)
    writing.write_sequence(folder / "samples.seq.nrrd", masks, reference, (index, size), compress=False)
    writing.write_sequence(
        folder / "probabilities.seq.nrrd", quantised, reference, (index, size), compress=False, index_name="class"
    )
    return Job(folder, labels, entropy, masks, report, quantised, disagreement)


def volume(entry: dict, masks: list[np.ndarray], voxel: float, unit: str) -> dict:
    """The entry of one class in the report, as the engine writes it; `voxel` is the size of a voxel in `unit`."""
    sizes = [float((labels == entry["label"]).sum() * voxel) for labels in masks]
    mean = float(np.mean(sizes))
    return {key: entry[key] for key in ("label", "id", "name")} | {
        f"consensus_{unit}": 1.2 * mean,
        f"expected_{unit}": 1.01 * mean,
        f"mean_{unit}": mean,
        f"interval50_{unit}": [0.98 * mean, 1.02 * mean],
        f"interval90_{unit}": [0.9 * mean, 1.1 * mean],
        "method": "t-predictive",
        f"samples_{unit}": sizes,
        f"contour_distance_{'px' if unit == 'px' else 'mm'}": 2.5,
    }


def addPicture(name: str = "Photo", spacing: float = 1.0) -> slicer.vtkMRMLVectorVolumeNode:
    """Add what Slicer makes of a PNG file: one slice, here 90 x 60 pixels, red from left to right, green downwards."""
    j, i = np.indices((60, 90))
    colours = np.stack([255 * i / 89, 255 * j / 59, np.full(i.shape, 40)], -1)[None].astype(np.uint8)
    matrix = np.diag([-spacing, -spacing, 1.0, 1.0])
    return slicer.util.addVolumeFromArray(colours, matrix, name, "vtkMRMLVectorVolumeNode")


def importJob(volumeNode: slicer.vtkMRMLScalarVolumeNode, job: Job) -> result_nodes.Result:
    *_, result = result_nodes.importSteps(volumeNode, job.folder, job.report)
    return result


def showInViews(views: dict, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Put the volume into the background of all slice views and frame its center."""
    bounds = [0.0] * 6
    volumeNode.GetRASBounds(bounds)
    center = [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]
    for view in views.values():
        view.compositeNode.SetBackgroundVolumeID(volumeNode.GetID())
        view.frame(center, 30.0)
