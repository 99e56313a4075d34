"""DICOM results of unusual sources, of the command, and where they cannot be written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("highdicom", reason="DICOM results need highdicom, extra [dicom]")

import highdicom as hd
import pydicom
from dicom_results import LABELS, REPORT, VALUES, maps, placed
from dicom_series import OBLIQUE, PATIENT, SERIES, write_multi_frame, write_series

from diffusion_segmentation import cli
from diffusion_segmentation.dicom import export
from diffusion_segmentation.dicom.export import Exporter
from diffusion_segmentation.dicom.extra import quiet
from diffusion_segmentation.dicom.maps import Maps
from diffusion_segmentation.dicom.series import Series
from diffusion_segmentation.errors import InputError


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dicom") / "series"
    write_series(folder, VALUES, OBLIQUE)
    return folder


def test_names_in_another_character_set(tmp_path, source):
    def rename(k, image):
        image.SpecificCharacterSet, image.PatientName = "ISO_IR 100", "Müller^Jörg"

    write_series(tmp_path / "series", VALUES, change=rename)
    Exporter(Series(tmp_path / "series"), "labelmap").write(tmp_path, maps(), LABELS, REPORT)
    assert pydicom.dcmread(tmp_path / "segmentation.dcm").PatientName == "Müller^Jörg"


def test_nothing_of_the_patient_is_logged(tmp_path, caplog, recwarn, capfd):
    """highdicom logs names of patients without a caret, and pydicom warns of values that are not valid."""

    def change(k, image):
        image.PatientName, image.StudyID = "Jane Doe", "Doe, a study with a long name"

    with quiet():
        write_series(tmp_path / "series", VALUES, change=change)
    Exporter(Series(tmp_path / "series"), "labelmap").write(tmp_path, maps(), LABELS, REPORT)
    said = " ".join([caplog.text, *(str(warning.message) for warning in recwarn.list), *capfd.readouterr()])
    assert "Doe" not in said
    assert pydicom.dcmread(tmp_path / "segmentation.dcm").PatientName == "Jane Doe"


def test_incomplete_and_invalid_patient_modules(tmp_path):
    def remove(k, image):
        del image.PatientName, image.StudyID, image.SeriesNumber
        image.PatientSex = "X"

    write_series(tmp_path / "series", VALUES, change=remove)
    assert Exporter(Series(tmp_path / "series"), "labelmap").write(tmp_path, maps(), LABELS, REPORT) == {}
    assert not pydicom.dcmread(tmp_path / "segmentation.dcm").PatientSex


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda k, image: image.__delattr__("FrameOfReferenceUID"), "The series has no frame of reference or no study"),
        (lambda k, image: setattr(image, "StudyInstanceUID", ""), "The series has no frame of reference or no study"),
        (lambda k, image: setattr(image, "SOPInstanceUID", "1.2.3"), "Several images of the series have one UID"),
        (
            lambda k, image: setattr(image, "StudyInstanceUID", f"1.2.{k}"),
            r"The headers of the series are not valid DICOM \(ValueError\)",
        ),
    ],
)
def test_unusable_headers_are_refused_before_a_run(tmp_path, change, sentence):
    write_series(tmp_path, VALUES, change=change)
    with pytest.raises(InputError, match=sentence) as raised:
        Exporter(Series(tmp_path), "labelmap")
    assert raised.value.__cause__ is None, "a traceback of --debug would quote the header"


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
        assert Exporter(series, "labelmap").write(tmp_path, result, LABELS[:1], report) == {}
        image = pydicom.dcmread(tmp_path / "segmentation.dcm")
        assert np.array_equal(placed(image.pixel_array, image, reference), labels)


def test_an_empty_segmentation(tmp_path, source):
    empty = np.zeros(VALUES.shape, np.uint8)
    result = Maps(empty, empty.astype(np.float32), [empty + 255, empty, empty, empty], (0, 0, 0))
    for kind in ("labelmap", "binary"):
        assert Exporter(Series(source), kind).write(tmp_path, result, LABELS, REPORT) == {}
        assert not pydicom.dcmread(tmp_path / "segmentation.dcm").pixel_array.any()


def test_an_object_that_cannot_be_made_is_a_warning(tmp_path, source, monkeypatch):
    from diffusion_segmentation.dicom import objects

    def fail(*_):
        raise ValueError(f"bad value {PATIENT}")

    monkeypatch.setattr(objects, "probabilities", fail)
    missing = Exporter(Series(source), "labelmap").write(tmp_path, maps(), LABELS, REPORT)
    assert missing == {"probabilities.dcm": "'probabilities.dcm' could not be made (ValueError) and is missing."}
    assert sorted(path.name for path in tmp_path.glob("*.dcm")) == ["entropy.dcm", "segmentation.dcm", "volumes.dcm"]


def head(tmp_path: Path) -> Path:
    z, y, x = np.ogrid[-1:1:36j, -1:1:44j, -1:1:40j]
    ball = 1000 * (x**2 + y**2 + z**2 < 0.6) + 50 * np.random.default_rng(0).standard_normal((36, 44, 40))
    write_series(tmp_path / "series", ball.astype(np.int16), OBLIQUE, pixel_mm=(2.5, 2.5))
    return tmp_path / "series"


@pytest.mark.slow
def test_command_from_series_to_dicom(tmp_path, a_model_folder, capfd, monkeypatch):
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
    assert report["missing_dicom"] == []

    def fail(*_):
        raise ValueError("bad value")

    monkeypatch.setattr("diffusion_segmentation.dicom.objects.segmentation", fail)
    monkeypatch.setattr(Exporter, "_require_usable", lambda self: None)
    assert cli.main([*command, "--dicom"]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last == "The result is complete but for segmentation.dcm, volumes.dcm, which could not be made."
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["missing_dicom"] == ["segmentation.dcm", "volumes.dcm"] and (output / "entropy.dcm").exists()
    assert cli.main(command) == 0  # replaces the result, with the DICOM files that it does not write
    assert not any((output / name).exists() for name in export.NAMES)


@pytest.mark.slow
def test_command_updates_the_result_of_a_series(tmp_path, a_model_folder, capsys):
    series, output, model = head(tmp_path), tmp_path / "out", tmp_path / "model"
    noise = np.random.default_rng(1).integers(0, 1000, (36, 44, 40), np.int16)
    write_series(series / "other", noise, OBLIQUE, (2.5, 2.5), series=f"{SERIES}.1")
    shutil.copytree(a_model_folder, model)
    metadata = json.loads((model / "metadata.json").read_text(encoding="utf-8"))
    covariance = {"scales_mm": [6.0], "weights": [[0.8]] * 3, "shared": [0.2] * 3}
    metadata["diffusion_segmentation"]["start"] = {"covariance": covariance, "log_snr": None}
    (model / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    options = ["--output", str(output), "--model", str(model), "--device", "cpu", "--series", SERIES]
    assert cli.main(["segment", str(series), *options, "--samples", "3"]) == 0
    labels = sitk.ReadImage(str(output / "segmentation.seg.nrrd"))
    facts = sitk.Image(labels.GetSize(), sitk.sitkUInt8) + 255
    facts.CopyInformation(labels)
    facts[12:20, 14:22, 10:16] = 2
    sitk.WriteImage(facts, str(tmp_path / "facts.nrrd"))
    update = ["update", str(output), str(series), "--facts", str(tmp_path / "facts.nrrd"), *options]
    assert cli.main([*update, "--dicom"]) == 0
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["facts"]["voxels"] == 384 and report["input"]["series_uid"] == SERIES
    labels, image = sitk.ReadImage(str(output / "segmentation.seg.nrrd")), pydicom.dcmread(output / "segmentation.dcm")
    stored = placed(image.pixel_array, image, labels)
    assert np.array_equal(stored, sitk.GetArrayFromImage(labels)) and (stored[10:16, 14:22, 12:20] == 2).all()
    capsys.readouterr()
    assert cli.main(update[:-2]) == 1 and "choose one with --series UID" in capsys.readouterr().err
    assert cli.main([*update[:-1], f"{SERIES}.1"]) == 1 and "not the one of the result" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["labelmap", "binary"])
def test_results_beside_a_series_are_no_scans(tmp_path, kind):
    write_series(tmp_path, VALUES, OBLIQUE)
    series = Series(tmp_path)
    (tmp_path / "result").mkdir()
    Exporter(series, kind).write(tmp_path / "result", maps(), LABELS, REPORT)
    again = Series(tmp_path)
    assert np.array_equal(*(sitk.GetArrayFromImage(one.read_all()[0]) for one in (again, series)))
    assert again.warnings == ["4 DICOM files of the folder without an image of a scan were left out."]


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
