"""The source series of DICOM results: headers that they refer to and take patient and study from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
import pydicom

from .. import __version__
from ..errors import InputError
from .codes import coding_schemes
from .series import Series

PRODUCT = "DiffusionSegmentation"
REQUIRED = (  # attributes that a result must have, at least empty
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "AccessionNumber", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    "PositionReferenceIndicator",
)


class Source:
    """Headers of a source series, and what all results of one run share.

    Attributes: `images`, pydicom datasets in the order of the grid, without voxels; `labels`, the table of labels;
    `model` and `model_version`; `tracking`, a UID for each label; `size`, `origin`, `spacing` and `direction` of the
    grid as in SimpleITK (LPS, mm).
    """

    def __init__(self, series: Series, labels: Sequence[dict[str, Any]], model: str, model_version: str) -> None:
        """Read the headers. Raises InputError if the series states no frame of reference or no study."""
        paths = dict.fromkeys(one.path for one in series.slices)
        self.images = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
        for image in self.images:
            _complete(image)
        self.labels, self.model, self.model_version = labels, model[:64], model_version[:64]
        self.tracking = {entry["label"]: hd.UID() for entry in labels}
        self.size, self.spacing, self.direction = series.size, series.spacing, series.direction
        self.origin = np.array(series.origin)
        number = self.images[0].get("SeriesNumber")
        self._series_number = 100 * int(number) if str(number).isdecimal() and int(number) < 10**6 else 0

    def instance(self, number: int, description: str) -> dict[str, Any]:
        """Keyword arguments of highdicom for the result of this number, in a new series."""
        return {
            "series_instance_uid": hd.UID(),
            "series_number": self._series_number + number,
            "series_description": description,
            "sop_instance_uid": hd.UID(),
            "instance_number": 1,
            "manufacturer": PRODUCT,
            "manufacturer_model_name": PRODUCT,
            "software_versions": __version__,
            "device_serial_number": __version__,
            "specific_character_set": "ISO_IR 192",  # labels and patients have names in any script
            "coding_schemes": coding_schemes(),
        }


def _complete(image: pydicom.Dataset) -> None:
    """Add what a result must state at least as empty, and empty what is not valid. Raises InputError."""
    if not image.get("FrameOfReferenceUID") or not image.get("StudyInstanceUID"):
        raise InputError(
            "The series has no frame of reference or no study, so --dicom cannot refer to it; leave it out."
        )
    for name in REQUIRED:
        if name not in image:
            setattr(image, name, None)
    if image.PatientSex not in ("M", "F", "O"):
        image.PatientSex = None
