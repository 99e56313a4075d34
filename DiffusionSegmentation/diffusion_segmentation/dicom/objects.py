"""Segmentation, class probabilities and entropy as DICOM images of several frames, on the grid of the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes

from ..runtime import memory
from .codes import BIT, ENTROPY, label_codes
from .maps import Maps
from .source import Source

FRACTIONAL_BYTES = 10  # per voxel and segment: float32 values, highdicom's sorted copy, and frames


def segmentation(source: Source, maps: Maps, kind: str) -> Segmentation:
    """The labels as a segmentation of `kind` LABELMAP or BINARY."""
    return Segmentation(
        source.images,
        maps.labels,
        kind,
        [_segment(source, entry) for entry in source.labels],
        **source.instance(1, "Segmentation"),
        **geometry(source, range(len(maps.labels))),
        omit_empty_frames=kind == "BINARY",
        content_label="SEGMENTATION",
    )


def probabilities(source: Source, maps: Maps) -> Segmentation:
    """The class probabilities of the foreground as a FRACTIONAL segmentation, 255 for 1; empty frames are omitted.

    Raises OutOfMemoryError.
    """
    (i, j, k), planes = maps.start, maps.quantised[0].shape
    columns, rows, _ = source.size
    memory.require(
        FRACTIONAL_BYTES * len(source.labels) * planes[0] * rows * columns, "The DICOM file of probabilities"
    )
    values = np.zeros((planes[0], rows, columns, len(source.labels)), np.float32)
    inside = slice(j, j + planes[1]), slice(i, i + planes[2])
    for number, quantised in enumerate(maps.quantised[1:]):
        np.divide(quantised, 255, out=values[:, *inside, number], dtype=np.float32)
    return Segmentation(
        source.images,
        values,
        "FRACTIONAL",
        [_segment(source, entry) for entry in source.labels],
        **source.instance(2, "Class probabilities"),
        **geometry(source, range(k, k + planes[0])),
        max_fractional_value=255,
        content_label="PROBABILITIES",
    )


def entropy(source: Source, maps: Maps, max_bits: float) -> ParametricMap:
    """The entropy in bits as a parametric map."""
    top = max(max_bits, float(maps.bits.max()))
    mapping = RealWorldValueMapping(
        "ENTROPY", "Entropy of the class probabilities", BIT, (0.0, top), 1.0, 0.0, quantity_definition=ENTROPY
    )
    made = ParametricMap(
        source.images,
        maps.bits,
        **source.instance(3, "Entropy"),
        **geometry(source, range(len(maps.bits))),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        window_center=max_bits / 2,
        window_width=max_bits,
        content_label="ENTROPY",
    )
    # Readers such as dcmqi need an anatomy; the map covers all that was scanned.
    anatomy = Dataset()
    anatomy.FrameLaterality = "U"  # unpaired
    anatomy.AnatomicRegionSequence = [CodedConcept.from_code(codes.SCT.Tissue)]
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    made.ContentCreatorName = None
    _sort_planes(source, made, maps.bits)
    return made


def _sort_planes(source: Source, image: Any, values: np.ndarray) -> None:
    """Store the planes of a parametric map of `values` [k, j, i] by k.

    highdicom stores them downwards, and dcmqi 1.5, with which Slicer reads them, places them in their stored order.
    """
    normal = np.reshape(source.direction, (3, 3))[:, 2]
    groups = image.PerFrameFunctionalGroupsSequence
    groups = sorted(groups, key=lambda group: normal @ np.array(group.PlanePositionSequence[0].ImagePositionPatient))
    for number, group in enumerate(groups, 1):
        group.FrameContentSequence[0].DimensionIndexValues = number
    image.PerFrameFunctionalGroupsSequence = groups
    image.FloatPixelData = values.astype("<f4").tobytes()


def geometry(source: Source, planes: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of highdicom for planes k of the grid of the input."""
    axes = np.reshape(source.direction, (3, 3))
    i, j, k = source.spacing
    positions = [source.origin + n * k * axes[:, 2] for n in planes]
    return {
        "pixel_measures": hd.PixelMeasuresSequence((j, i), k, k),
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", axes[:, :2].T.ravel().tolist()),
        "plane_positions": [hd.PlanePositionSequence("PATIENT", position.tolist()) for position in positions],
    }


def _segment(source: Source, entry: dict[str, Any]) -> SegmentDescription:
    coded = label_codes(entry)
    description = SegmentDescription(
        entry["label"],
        entry["name"][:64],
        coded.category,
        coded.type,
        "AUTOMATIC",
        hd.AlgorithmIdentificationSequence(source.model, codes.cid7162.ArtificialIntelligence, source.model_version),
        source.tracking[entry["label"]],
        entry["name"][:64],
        anatomic_regions=None if coded.region is None else [coded.region],
        display_color=CIELabColor.from_rgb(*(round(255 * part) for part in entry["color"])),
    )
    if coded.modifier is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [coded.modifier]
    if coded.region is not None and coded.region_modifier is not None:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [coded.region_modifier]
    return description
