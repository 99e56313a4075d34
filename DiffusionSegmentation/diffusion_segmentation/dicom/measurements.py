"""Volumes with their uncertainty as a structured report (TID 1500)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import highdicom as hd
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from .codes import INTERVAL90, PROCEDURES, label_codes
from .source import PRODUCT, Source


def measurement_report(source: Source, segments: Dataset, volumes: Sequence[Mapping[str, Any]]) -> sr.EnhancedSR:
    """The report of the `volumes` of a result's report, each with the segment in `segments` that it measures.

    Each structure has the volume of its segment and, as an estimate, the expected volume, in cubic centimetres. Bounds
    of the 90 % interval are the value plus its upper, and minus its lower, measurement uncertainty.
    """
    device = sr.DeviceObserverIdentifyingAttributes(hd.UID(), PRODUCT, PRODUCT, PRODUCT)
    observer = sr.ObserverContext(codes.DCM.Device, device)
    modality = source.images[0].Modality
    report = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=observer),
        PROCEDURES.get(modality, codes.SCT.ImagingProcedure),
        [_structure(source, segments, volume) for volume in volumes],
        title=codes.DCM.ImagingMeasurementReport,
    )
    instance = source.instance(4, "Volumes")
    instance |= {"series_description": "Volumes with 90 % predictive intervals", "is_complete": True}
    return sr.EnhancedSR([*source.images, segments], report[0], **instance)


def _structure(
    source: Source, segments: Dataset, volume: Mapping[str, Any]
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    label = volume["label"]
    coded = label_codes(source.labels[label - 1])
    series = sr.SourceSeriesForSegmentation(source.images[0].SeriesInstanceUID)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(source.tracking[label], volume["name"]),
        referenced_segment=sr.ReferencedSegment(
            segments.SOPClassUID, segments.SOPInstanceUID, label, source_series=series
        ),
        finding_type=coded.type,
        finding_category=coded.category,
        method=None if volume["interval90_ml"] is None else INTERVAL90,
        algorithm_id=sr.AlgorithmIdentification(source.model, source.model_version),
        measurements=[
            _measurement(volume["consensus_ml"], volume["interval90_ml"]),
            _measurement(volume["expected_ml"], volume["interval90_ml"], codes.SCT.Estimated),
        ],
    )


def _measurement(value: float, interval: Sequence[float] | None, derivation: Any = None) -> sr.Measurement:
    unit = codes.UCUM.CubicCentimeter  # of 1 ml
    properties = None
    if interval is not None:
        properties = sr.MeasurementProperties()
        for name, difference in (
            (codes.SCT.RangeOfUpperMeasurementUncertainty, interval[1] - value),
            (codes.SCT.RangeOfLowerMeasurementUncertainty, value - interval[0]),
        ):
            # highdicom's own argument states no unit; DICOM asks for that of the measurement.
            item = sr.NumContentItem(name, round(difference, 4), unit, relationship_type="HAS PROPERTIES")
            properties.append(item)
    return sr.Measurement(codes.SCT.Volume, value, unit, derivation=derivation, properties=properties)
