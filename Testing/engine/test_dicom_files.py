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
from dicom_series import OBLIQUE, PATIENT, SERIES, write_multi_frame, write_series

from diffusion_segmentation import cli
from diffusion_segmentation.dicom import export
from diffusion_segmentation.dicom.codes import label_codes
from diffusion_segmentation.dicom.export import Exporter
from diffusion_segmentation.dicom.maps import Maps
from diffusion_segmentation.dicom.series import Series
from diffusion_segmentation.errors import InputError

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
DCIODVFY = {
    # dciodvfy of 2022 is older than the label map segmentations of DICOM 2023e, and than their segment 0, background.
    "Information Object Not found": "segmentation.dcm",
    "SegmentNumber not monotonically increasing from one by one": "segmentation.dcm",
    "Shall not be present for Referenced SOP Class that is not segmentation": "volumes.dcm",
}
"""Errors of dciodvfy that are none, and the file that they are about."""


def maps() -> Maps:
    labels = np.zeros(VALUES.shape, np.uint8)
    labels[1:4, 3:9, 4:10], labels[2:5, 10:15, 4:10] = 1, 2
    p = RANDOM.random((4, 4, 12, 16))
    quantised = np.rint(255 * p / p.sum(0)).astype(np.uint8)
    quantised[3, 1:] = 0  # empty frames, which are omitted
    return Maps(labels, (2 * RANDOM.random(VALUES.shape)).astype(np.float32), list(quantised), (3, 2, 1))


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
        assert Exporter(Series(source), kind).write(folder, result, LABELS, REPORT) == []
        results[kind] = folder, result
    return results


@pytest.fixture(scope="module")
def reference(source) -> sitk.Image:
    return Series(source).read_all()[0]


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


def test_names_in_another_character_set(tmp_path, source):
    def rename(k, image):
        image.SpecificCharacterSet, image.PatientName = "ISO_IR 100", "Müller^Jörg"

    write_series(tmp_path / "series", VALUES, change=rename)
    Exporter(Series(tmp_path / "series"), "labelmap").write(tmp_path, maps(), LABELS, REPORT)
    assert pydicom.dcmread(tmp_path / "segmentation.dcm").PatientName == "Müller^Jörg"


def test_incomplete_and_invalid_patient_modules(tmp_path):
    def remove(k, image):
        del image.PatientName, image.StudyID, image.SeriesNumber
        image.PatientSex = "X"

    write_series(tmp_path / "series", VALUES, change=remove)
    assert Exporter(Series(tmp_path / "series"), "labelmap").write(tmp_path, maps(), LABELS, REPORT) == []
    assert not pydicom.dcmread(tmp_path / "segmentation.dcm").PatientSex


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda k, image: image.__delattr__("FrameOfReferenceUID"), "The series has no frame of reference or no study"),
        (lambda k, image: setattr(image, "StudyInstanceUID", ""), "The series has no frame of reference or no study"),
        (
            lambda k, image: setattr(image, "StudyInstanceUID", f"1.2.{k}"),
            r"The headers of the series are not valid DICOM \(ValueError\)",
        ),
    ],
)
def test_unusable_headers_are_refused_before_a_run(tmp_path, change, sentence):
    write_series(tmp_path, VALUES, change=change)
    with pytest.raises(InputError, match=sentence):
        Exporter(Series(tmp_path), "labelmap")


def test_a_single_image_is_refused(tmp_path):
    write_series(tmp_path, VALUES[:1])
    with pytest.raises(InputError, match="--dicom writes results of volumes and the series has a single image"):
        Exporter(Series(tmp_path), "labelmap")


def test_multi_frame_and_tilted_sources(tmp_path):
    frames = tmp_path / "frames.dcm"
    write_multi_frame(frames, VALUES, [(0, 0, 2.5 * k) for k in (2, 0, 1, 3, 4, 5)])
    write_series(tmp_path / "tilted", VALUES, step=(0, -0.7, 2.5), modality="CT")
    for source in (frames, tmp_path / "tilted"):
        series = Series(source)
        reference = series.read_all()[0]
        labels = (sitk.GetArrayFromImage(reference) > 400).astype(np.uint8)
        result = Maps(labels, labels.astype(np.float32), [255 * (1 - labels), 255 * labels], (0, 0, 0))
        report = REPORT | {"volumes": REPORT["volumes"][:1]}
        assert Exporter(series, "labelmap").write(tmp_path, result, LABELS[:1], report) == []
        image = pydicom.dcmread(tmp_path / "segmentation.dcm")
        assert np.array_equal(placed(image.pixel_array, image, reference), labels)


def test_an_empty_segmentation(tmp_path, source):
    empty = np.zeros(VALUES.shape, np.uint8)
    result = Maps(empty, empty.astype(np.float32), [empty + 255, empty, empty, empty], (0, 0, 0))
    for kind in ("labelmap", "binary"):
        assert Exporter(Series(source), kind).write(tmp_path, result, LABELS, REPORT) == []
        assert not pydicom.dcmread(tmp_path / "segmentation.dcm").pixel_array.any()


def test_an_object_that_cannot_be_made_is_a_warning(tmp_path, source, monkeypatch):
    from diffusion_segmentation.dicom import objects

    def fail(*_):
        raise ValueError(f"bad value {PATIENT}")

    monkeypatch.setattr(objects, "probabilities", fail)
    warnings = Exporter(Series(source), "labelmap").write(tmp_path, maps(), LABELS, REPORT)
    assert warnings == ["'probabilities.dcm' could not be made (ValueError) and is missing."]
    assert sorted(path.name for path in tmp_path.glob("*.dcm")) == ["entropy.dcm", "segmentation.dcm", "volumes.dcm"]


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


def head(tmp_path: Path) -> Path:
    z, y, x = np.ogrid[-1:1:36j, -1:1:44j, -1:1:40j]
    ball = 1000 * (x**2 + y**2 + z**2 < 0.6) + 50 * np.random.default_rng(0).standard_normal((36, 44, 40))
    write_series(tmp_path / "series", ball.astype(np.int16), OBLIQUE, pixel_mm=(2.5, 2.5))
    return tmp_path / "series"


@pytest.mark.slow
def test_command_from_series_to_dicom(tmp_path, a_model_folder, capfd):
    output = tmp_path / "out"
    command = ["segment", str(head(tmp_path)), "--output", str(output), "--model", str(a_model_folder)]
    command += ["--samples", "3", "--device", "cpu"]
    assert cli.main([*command, "--dicom"]) == 0
    said = "".join(capfd.readouterr())
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["input"]["series_uid"] == SERIES and set(export.NAMES) <= set(report["files"])
    assert not any(word in said + json.dumps(report) for word in ("Doe", "Jane", "Roe", "P-7", "A-5"))
    labels, bits = (sitk.ReadImage(str(output / name)) for name in ("segmentation.seg.nrrd", "entropy.nrrd"))
    image = pydicom.dcmread(output / "segmentation.dcm")
    assert np.array_equal(placed(image.pixel_array, image, labels), sitk.GetArrayFromImage(labels))
    image = pydicom.dcmread(output / "entropy.dcm")
    stored = np.frombuffer(image.FloatPixelData, "<f4").reshape(bits.GetSize()[::-1])
    assert np.array_equal(placed(stored, image, bits), sitk.GetArrayFromImage(bits))
    groups = hd.sr.srread(output / "volumes.dcm").content.get_volumetric_roi_measurement_groups()
    assert [group.get_measurements()[0].value for group in groups] == [one["consensus_ml"] for one in report["volumes"]]
    assert cli.main(command) == 0  # replaces the result, with the DICOM files that it does not write
    assert not any((output / name).exists() for name in export.NAMES)


def test_without_a_series_nothing_is_written(tmp_path, a_head_file, capsys):
    assert cli.main(["segment", str(a_head_file), "--output", str(tmp_path / "out"), "--dicom"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "--dicom needs a DICOM series as input; give its folder, or leave out --dicom."
    assert not (tmp_path / "out").exists()


def test_without_the_extra_nothing_is_written(tmp_path, source, monkeypatch):
    from diffusion_segmentation.dicom import extra

    series = Series(source)
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"--dicom needs further packages; install them with: pip install 'diff.*dicom"
    ):
        Exporter(series, "labelmap")
