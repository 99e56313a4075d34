"""DICOM results: read back by pydicom, highdicom, SimpleITK and dcmqi, and checked by dciodvfy."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("highdicom", reason="DICOM results need highdicom, extra [dicom]")

import highdicom as hd
import pydicom
from dicom_results import LABELS, REPORT, VALUES, maps, placed, plane, require_grid
from dicom_series import OBLIQUE, SERIES, write_series

from diffusion_segmentation.dicom import export
from diffusion_segmentation.dicom.codes import label_codes
from diffusion_segmentation.dicom.export import Exporter
from diffusion_segmentation.dicom.maps import Maps
from diffusion_segmentation.dicom.series import Series

DCIODVFY = {
    # dciodvfy of 2022 is older than the label map segmentations of DICOM 2023e, and than their segment 0, background.
    "Information Object Not found": "segmentation.dcm",
    "SegmentNumber not monotonically increasing from one by one": "segmentation.dcm",
    "Shall not be present for Referenced SOP Class that is not segmentation": "volumes.dcm",
}
"""Errors of dciodvfy that are none, and the file that they are about."""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dicom") / "series"
    write_series(folder, VALUES, OBLIQUE)
    return folder


@pytest.fixture(scope="module")
def written(source) -> dict[str, tuple[Path, Maps]]:
    """Folders of results with either kind of segmentation, and what they contain."""
    results = {}
    for kind in ("labelmap", "binary"):
        folder = source.parent / kind
        folder.mkdir()
        result = maps()
        assert Exporter(Series(source), kind).write(folder, result, LABELS, REPORT) == {}
        results[kind] = folder, result
    return results


@pytest.fixture(scope="module")
def reference(source) -> sitk.Image:
    return Series(source).read_all()[0]


@pytest.mark.slow
def test_label_map_is_that_of_the_result(written, reference):
    folder, result = written["labelmap"]
    image = hd.seg.segread(folder / "segmentation.dcm")
    assert image.SegmentationType == "LABELMAP" and image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert np.array_equal(placed(image.pixel_array, image, reference), result.labels)
    volume = image.get_volume(combine_segments=True)  # highdicom's own geometry
    corner = (np.linalg.inv(volume.affine) @ [*reference.TransformIndexToPhysicalPoint((4, 3, 1)), 1])[:3]
    assert np.allclose(corner, np.round(corner), atol=1e-5)
    assert volume.array[tuple(np.round(corner).astype(int))] == result.labels[1, 3, 4] == 1


def test_binary_segmentation_is_that_of_the_result(written, reference):
    folder, result = written["binary"]
    image = pydicom.dcmread(folder / "segmentation.dcm")
    require_grid(image, reference)
    labels = np.zeros_like(result.labels)
    for frame, group in zip(image.pixel_array, image.PerFrameFunctionalGroupsSequence, strict=True):
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels[plane(reference, group)][frame > 0] = segment
    assert image.SegmentationType == "BINARY" and np.array_equal(labels, result.labels)
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "segmentation.dcm")))
    assert np.array_equal(read > 0, image.pixel_array > 0)


def test_probabilities_are_those_of_the_result(written, reference):
    folder, result = written["labelmap"]
    image = pydicom.dcmread(folder / "probabilities.dcm")
    require_grid(image, reference)
    assert (image.SegmentationFractionalType, image.MaximumFractionalValue) == ("PROBABILITY", 255)
    whole = np.zeros((3, *VALUES.shape), np.uint8)
    for frame, group in zip(image.pixel_array, image.PerFrameFunctionalGroupsSequence, strict=True):
        whole[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1, plane(reference, group)] = frame
    assert image.NumberOfFrames == 4 + 4 + 1
    assert np.array_equal(whole[:, 1:5, 2:14, 3:19], result.quantised[1:])
    whole[:, 1:5, 2:14, 3:19] = 0
    assert not whole.any()
    read = sitk.ReadImage(str(folder / "probabilities.dcm"))
    assert np.array_equal(sitk.GetArrayFromImage(read), image.pixel_array)


def test_entropy_is_a_parametric_map_in_bits(written, reference):
    folder, result = written["labelmap"]
    image = pydicom.dcmread(folder / "entropy.dcm")
    stored = np.frombuffer(image.FloatPixelData, "<f4").reshape(VALUES.shape)
    assert np.array_equal(placed(stored, image, reference), result.bits)
    mapping = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    unit = mapping.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("bit", "UCUM")
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == 0
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == 2


def test_segments_have_the_codes_of_their_labels(written):
    first, second, _ = list(pydicom.dcmread(written["binary"][0] / "segmentation.dcm").SegmentSequence)
    kind = first.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning) == ("SCT", "35764002", "Brain ventricle")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert first.AnatomicRegionSequence[0].CodeValue == "12738006"
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    colour = hd.color.CIELabColor.from_dicom_value(first.RecommendedDisplayCIELabValue).to_rgb()
    assert np.allclose(colour, 255 * np.array(LABELS[0]["color"]), atol=1)
    private = second.SegmentedPropertyTypeCodeSequence[0]
    assert (private.CodingSchemeDesignator, private.CodeMeaning) == ("99DIFFSEG", "Große Läsion 病変")
    assert (
        private.CodeValue
        == label_codes({"name": "GROSSE LÄSION 病変".replace("SS", "ß"), "terminology": ""}).type.value
    )
    assert second.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "85756007"


def test_the_generic_tissue_of_unknown_labels_is_no_code():
    entry = {"name": "Tumour", "terminology": "List~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~Anatomic~^^~^^"}
    assert label_codes(entry).type.scheme_designator == "99DIFFSEG"


def test_volumes_carry_their_uncertainty(written):
    folder, _ = written["labelmap"]
    report = hd.sr.srread(folder / "volumes.dcm")
    segments = pydicom.dcmread(folder / "segmentation.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert report.content[0].ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert [group.finding_type.meaning for group in groups] == [
        "Brain ventricle",
        "Große Läsion 病変",
        "Brain ventricle",
    ]
    for group, volume in zip(groups, REPORT["volumes"], strict=True):
        segment = group.referenced_segment
        assert segment[0].referenced_segment_numbers == [volume["label"]]
        assert segment[0].referenced_sop_instance_uid == segments.SOPInstanceUID
        tracked = next(one for one in segments.SegmentSequence if one.SegmentNumber == volume["label"])
        assert group.tracking_uid == tracked.TrackingUID
        mask, expected = group.get_measurements(hd.sr.CodedConcept("118565006", "SCT", "Volume"))
        assert (mask.value, expected.value) == (volume["consensus_ml"], volume["expected_ml"])
        assert mask.derivation is None and expected.derivation.value == "414135002"
        for measurement in (mask, expected):
            assert measurement.unit.value == "cm3"
            items = [one for one in measurement[0].get("ContentSequence", []) if one.ValueType == "NUM"]
            if volume["interval90_ml"] is None:
                assert items == []
                continue
            assert {one.unit.value for one in items} == {"cm3"}
            spread = {one.name.value: one.value for one in items}
            bounds = measurement.value - spread["371885007"], measurement.value + spread["371886008"]
            assert bounds == pytest.approx(volume["interval90_ml"], abs=1e-4)


@pytest.mark.parametrize("name", export.NAMES)
def test_references_and_patient_are_those_of_the_source(written, source, name):
    image = pydicom.dcmread(written["labelmap"][0] / name)
    first = pydicom.dcmread(next(source.iterdir()))
    for attribute in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
        assert image[attribute].value == first[attribute].value
    uids = {f"{SERIES}.{k + 1}" for k in range(6)}
    if name == export.VOLUMES:
        [study] = image.CurrentRequestedProcedureEvidenceSequence
        series = {one.SeriesInstanceUID: one.ReferencedSOPSequence for one in study.ReferencedSeriesSequence}
        assert {one.ReferencedSOPInstanceUID for one in series[SERIES]} == uids and len(series) == 2
        return
    assert image.FrameOfReferenceUID == first.FrameOfReferenceUID
    [series] = image.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES
    assert {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence} == uids
    for group in image.PerFrameFunctionalGroupsSequence:  # each frame is derived from the image at its place
        [derived] = group.DerivationImageSequence[0].SourceImageSequence
        place = pydicom.dcmread(
            next(
                file
                for file in source.iterdir()
                if pydicom.dcmread(file).SOPInstanceUID == derived.ReferencedSOPInstanceUID
            )
        )
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(position, place.ImagePositionPatient, atol=1e-4)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (package dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(written):
    for folder, _ in written.values():
        for file in folder.glob("*.dcm"):
            command = "dciodvfy", "-new", str(file)
            check = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
            errors = [line for line in (check.stdout + check.stderr).splitlines() if line.startswith("Error")]
            known = [words for words, name in DCIODVFY.items() if name == file.name and folder.name == "labelmap"]
            assert [error for error in errors if not any(words in error for words in known)] == []


def dcmqi(program: str, *arguments: object) -> None:
    """Run a program of dcmqi, which its package installs."""
    found = importlib.util.find_spec("dcmqi")
    folder = Path(found.submodule_search_locations[0]) / "bin"
    subprocess.run([shutil.which(program, path=folder), *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.skipif(importlib.util.find_spec("dcmqi") is None, reason="the package dcmqi is not installed")
def test_dcmqi_reads_the_same(written, reference, tmp_path):
    for kind, (folder, result) in written.items():
        output = tmp_path / kind
        output.mkdir()
        options = "--outputDirectory", output, "-t", "nrrd"
        dcmqi("segimage2itkimage", "--inputDICOM", folder / "segmentation.dcm", *options, "--mergeSegments")
        read = sitk.ReadImage(str(output / "1.nrrd"))
        onto = sitk.Resample(read, reference, sitk.Transform(), sitk.sitkNearestNeighbor)
        assert np.array_equal(sitk.GetArrayFromImage(onto), result.labels)
        assert np.allclose(read.GetDirection(), reference.GetDirection(), atol=1e-6)
        assert np.allclose(read.GetSpacing(), reference.GetSpacing(), atol=1e-4)
        index = reference.TransformPhysicalPointToContinuousIndex(read.GetOrigin())
        assert np.allclose(index, np.round(index), atol=1e-5)
    folder, result = written["labelmap"]
    dcmqi("paramap2itkimage", "--inputDICOM", folder / "entropy.dcm", "--outputDirectory", tmp_path, "-t", "nrrd")
    read = sitk.ReadImage(str(tmp_path / "pmap.nrrd"))
    onto = sitk.Resample(read, reference, sitk.Transform(), sitk.sitkNearestNeighbor)
    assert np.array_equal(sitk.GetArrayFromImage(onto), result.bits)
    dcmqi("tid1500reader", "--inputDICOM", folder / "volumes.dcm", "--outputMetadata", tmp_path / "volumes.json")
    groups = json.loads((tmp_path / "volumes.json").read_text(encoding="utf-8"))["Measurements"]
    properties = groups[0]["measurementItems"][0]["measurementNumProperties"]
    assert [float(one["numPropertyValue"]) for one in properties] == [1.5, 0.25]
    assert {one["numPropertyUnits"]["CodeValue"] for one in properties} == {"cm3"}
