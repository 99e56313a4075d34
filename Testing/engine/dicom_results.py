"""A result for tests of its DICOM objects, and the place of their frames."""

from __future__ import annotations

import numpy as np
import pydicom
import SimpleITK as sitk

from diffusion_segmentation.dicom.maps import Maps

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.integers(-50, 900, (6, 20, 24)).astype(np.int16)
SNOMED = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
    "~SCT^35764002^Brain ventricle~SCT^7771000^Left~Anatomic codes - DICOM master list~SCT^12738006^Brain~^^"
)
LABELS = [
    {"label": 1, "id": "ventricle", "name": "Left ventricle", "color": [0.12, 0.35, 0.78], "terminology": SNOMED},
    {"label": 2, "id": "gross", "name": "Große Läsion 病変", "color": [0.9, 0.2, 0.1], "terminology": ""},
    {"label": 3, "id": "absent", "name": "Absent", "color": [0.1, 0.9, 0.1], "terminology": SNOMED},
]
REPORT = {
    "model": {"title": "A model", "version": "1.2"},
    "max_entropy_bits": 2.0,
    "volumes": [
        {"label": 1, "name": "Left ventricle", "consensus_ml": 1.25, "expected_ml": 1.5, "interval90_ml": [1.0, 2.75]},
        {"label": 2, "name": "Große Läsion 病変", "consensus_ml": 3.0, "expected_ml": 3.1, "interval90_ml": [3.2, 4.0]},
        {"label": 3, "name": "Absent", "consensus_ml": 0.0, "expected_ml": 0.01, "interval90_ml": None},
    ],
}


def maps() -> Maps:
    labels = np.zeros(VALUES.shape, np.uint8)
    labels[1:4, 3:9, 4:10], labels[2:5, 10:15, 4:10] = 1, 2
    p = RANDOM.random((4, 4, 12, 16))
    quantised = np.rint(255 * p / p.sum(0)).astype(np.uint8)
    quantised[3, 1:] = 0  # empty frames, which are omitted
    return Maps(labels, (2 * RANDOM.random(VALUES.shape)).astype(np.float32), list(quantised), (3, 2, 1))


def plane(reference: sitk.Image, group: pydicom.Dataset) -> int:
    """The plane k of the grid of the input that a frame is."""
    position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
    i, j, k = reference.TransformPhysicalPointToContinuousIndex(position.tolist())
    assert max(abs(i), abs(j), abs(k - round(k))) < 1e-5
    assert np.abs(np.array(reference.TransformIndexToPhysicalPoint((0, 0, round(k)))) - position).max() < 1e-4
    return round(k)


def placed(frames: np.ndarray, image: pydicom.Dataset, reference: sitk.Image) -> np.ndarray:
    """The frames [k, j, i] of an image of one frame for each plane, in the order of the grid of the input."""
    require_grid(image, reference)
    places = [plane(reference, group) for group in image.PerFrameFunctionalGroupsSequence]
    assert sorted(places) == list(range(len(frames)))
    return frames[np.argsort(places)]


def require_grid(image: pydicom.Dataset, reference: sitk.Image) -> None:
    shared = image.SharedFunctionalGroupsSequence[0]
    axes = np.reshape(reference.GetDirection(), (3, 3))
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    assert np.allclose(orientation, axes[:, :2].T.ravel(), atol=1e-6)
    measures = shared.PixelMeasuresSequence[0]
    i, j, k = reference.GetSpacing()
    assert np.allclose([*measures.PixelSpacing, measures.SpacingBetweenSlices], [j, i, k], atol=1e-6)
