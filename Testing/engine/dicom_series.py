"""DICOM series for tests: slices of MR or CT images, and multi-frame images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT, MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
ROOT = "1.2.826.0.1.3680043.8.498."
SERIES = f"{ROOT}20"
PATIENT = "Doe^Jane"
OBLIQUE = (0.6, 0.8, 0.0, 0.0, 0.0, -1.0)  # unit vectors along a row and along a column


def write_series(
    folder: Path,
    array: np.ndarray,
    axes: Sequence[float] = (1, 0, 0, 0, 1, 0),
    pixel_mm: tuple[float, float] = (1.5, 2.0),
    step: Sequence[float] | None = None,
    change: Callable[[int, Dataset], None] = lambda k, image: None,
    series: str = SERIES,
    modality: str = "MR",
    slope: float = 1.0,
    intercept: float = 0.0,
) -> list[Path]:
    """Write the slices of `array` (int16 [k, j, i]) in a shuffled order of file names; returns the files by k.

    `pixel_mm` is the distance of rows, then of columns; `step` is the vector from slice to slice, default 2.5 mm along
    the normal. `change` may alter a slice before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(axes[:3], axes[3:])
    step = 2.5 * normal if step is None else np.array(step)
    files = []
    for k, plane in enumerate(array):
        image = _image(plane, CT if modality == "CT" else MR, f"{series}.{k + 1}", series, modality)
        image.ImagePositionPatient = [round(float(x), 6) for x in (-40.0, 12.5, 30.0) + k * step]
        image.ImageOrientationPatient = [float(x) for x in axes]
        image.PixelSpacing = list(pixel_mm)
        image.SliceThickness = 2.5
        image.InstanceNumber = k + 1
        image.RescaleSlope, image.RescaleIntercept = slope, intercept
        change(k, image)
        files.append(folder / f"IM{(7 * k + 3) % 997:04}")
        image.save_as(files[-1], enforce_file_format=True)
    return files


def write_multi_frame(
    path: Path,
    array: np.ndarray,
    positions: Sequence[Sequence[float]],
    slopes: Sequence[float] | None = None,
    axes: Sequence[float] = (1, 0, 0, 0, 1, 0),
    pixel_mm: tuple[float, float] = (1.5, 2.0),
) -> None:
    """Write `array` (int16 [frame, j, i]) as one enhanced MR image with a position (LPS, mm) for each frame."""
    image = _image(array[0], ENHANCED_MR, f"{SERIES}.1", SERIES, "MR")
    image.NumberOfFrames = len(array)
    image.PixelData = array.astype("<i2").tobytes()
    shared, image.PerFrameFunctionalGroupsSequence = Dataset(), []
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[float(x) for x in axes])]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=list(pixel_mm), SliceThickness=2.5)]
    image.SharedFunctionalGroupsSequence = [shared]
    for frame, position in enumerate(positions):
        group = _item(PlanePositionSequence=[_item(ImagePositionPatient=[float(x) for x in position])])
        slope = 1.0 if slopes is None else slopes[frame]
        rescale = _item(RescaleSlope=slope, RescaleIntercept=0.0, RescaleType="US")
        group.PixelValueTransformationSequence = [rescale]
        image.PerFrameFunctionalGroupsSequence.append(group)
    image.save_as(path, enforce_file_format=True)


def _item(**values: object) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _image(plane: np.ndarray, sop_class: str, uid: str, series: str, modality: str) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = sop_class
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = uid
    image.SeriesInstanceUID, image.StudyInstanceUID = series, f"{ROOT}10"
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = f"{ROOT}30", ""
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
    image.Modality, image.Manufacturer = modality, "Tests"
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = PATIENT, "P-7", "19700102", "F"
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20240305", "101112", "S1", "A-5"
    image.ReferringPhysicianName, image.SeriesNumber, image.StudyDescription = "Roe^Rick", 4, "Head of Jane"
    image.SeriesDescription = "T1"
    image.Rows, image.Columns = plane.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.PixelData = plane.astype("<i2").tobytes()
    return image


def compressed(k: int, image: pydicom.Dataset) -> None:
    """A `change` of `write_series` that compresses the slices without loss (RLE)."""
    image.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
