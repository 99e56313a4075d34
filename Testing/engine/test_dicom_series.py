"""DICOM series as input: voxels and geometry, and what is told apart."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("pydicom", reason="the series of these tests are written with pydicom, extra [dicom]")

import pydicom
from dicom_series import OBLIQUE, PATIENT, SERIES, compressed, write_multi_frame, write_series
from pydicom.data import get_testdata_file

from diffusion_segmentation.dicom import extra
from diffusion_segmentation.errors import DiffusionSegmentationError, GeometryError, InputError
from diffusion_segmentation.images.case_files import CaseFiles
from diffusion_segmentation.images.input_names import ONE_INPUT

VALUES = np.random.default_rng(0).integers(-50, 900, (6, 20, 24)).astype(np.int16)


def read(path: Path, **options) -> tuple[np.ndarray, sitk.Image, list[str]]:
    files = CaseFiles(path, **options)
    image = files.read(ONE_INPUT)[0]
    return sitk.GetArrayFromImage(image), image, files.warnings


def placed(step):
    """A `change` that moves the slices to these distances along z, mm."""
    return lambda k, image: setattr(image, "ImagePositionPatient", [0, 0, round(step[k], 6)])


def test_oblique_anisotropic_series_with_rescaled_values(tmp_path):
    write_series(tmp_path, VALUES, OBLIQUE, slope=0.5, intercept=-10)
    values, image, warnings = read(tmp_path)
    assert np.array_equal(values, VALUES * np.float32(0.5) - 10) and warnings == []
    row, column, normal = (0.6, 0.8, 0.0), (0.0, 0.0, -1.0), (-0.8, 0.6, 0.0)
    assert np.allclose(np.reshape(image.GetDirection(), (3, 3)).T, [row, column, normal], atol=1e-9)
    assert np.allclose(image.GetSpacing(), (2.0, 1.5, 2.5), atol=1e-6)
    last = np.array((-40.0, 12.5, 30.0)) + 23 * 2.0 * np.array(row) + 19 * 1.5 * np.array(column)
    last += 5 * 2.5 * np.array(normal)
    assert np.allclose(image.TransformIndexToPhysicalPoint((23, 19, 5)), last, atol=1e-4)


def test_each_slice_has_its_own_rescaling(tmp_path):
    write_series(tmp_path, VALUES, change=lambda k, image: setattr(image, "RescaleSlope", k + 1.0))
    assert np.array_equal(read(tmp_path)[0], VALUES * np.arange(1, 7, dtype=np.float32)[:, None, None])


def test_slices_may_run_from_head_to_foot(tmp_path):
    write_series(tmp_path, VALUES, step=(0, 0, -2.5))
    values, image, _ = read(tmp_path)
    assert np.array_equal(values, VALUES[::-1])
    assert np.allclose(image.GetOrigin(), (-40, 12.5, 30 - 5 * 2.5)) and image.GetDirection()[8] == 1


def test_compressed_series(tmp_path):
    write_series(tmp_path, VALUES, change=compressed)
    assert np.array_equal(read(tmp_path)[0], VALUES)


@pytest.mark.parametrize("kind", ["RLE", "jp2klossless", "jpeg_ls_lossless", "implicit", "bigendian", "padded"])
def test_transfer_syntaxes(tmp_path, kind):
    """An MR image that pydicom has in several transfer syntaxes."""
    for name in ("MR_small", f"MR_small_{kind}"):
        (tmp_path / name).mkdir()
        shutil.copy(get_testdata_file(f"{name}.dcm", download=False), tmp_path / name)
    assert np.array_equal(read(tmp_path / f"MR_small_{kind}")[0], read(tmp_path / "MR_small")[0])


def test_gantry_tilt_is_resampled_with_a_warning(tmp_path):
    # Values rise with y, by 10 per mm, whatever the slice: a rectangular grid has the same ramp in each slice.
    y = 12.5 + 1.5 * np.arange(20)[None, :, None] - 0.7 * np.arange(6)[:, None, None]
    write_series(
        tmp_path, np.broadcast_to(np.rint(100 * y), (6, 20, 24)), step=(0, -0.7, 2.5), slope=0.1, modality="CT"
    )
    values, image, warnings = read(tmp_path)
    assert warnings == [
        "The series was scanned with a gantry tilted by 15.6 degrees, and it was resampled onto a rectangular grid."
    ]
    assert image.GetSize() == (24, 23, 6) and np.allclose(image.GetSpacing(), (2.0, 1.5, 2.5), atol=1e-6)
    assert np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-9)
    for k in range(6):
        for j in range(4, 19):
            assert values[k, j, 5] == pytest.approx(10 * image.TransformIndexToPhysicalPoint((5, j, k))[1], abs=0.1)


@pytest.mark.parametrize(
    ("positions", "sentence"),
    [
        ([0, 2.5, 7.5, 10, 12.5, 15], "has a gap after image 2 of 6: about 1 image is missing; export it again"),
        ([0, 2.5, 7.5], "has a gap after image 2 of 3: about 1 image is missing; export it again"),
        ([0, 2.5, 5, 7.5, 20, 22.5], "has a gap after image 4 of 6: about 4 images are missing; export it again"),
        ([0, 2.5, 5.4, 8.8, 12.6, 17], r"has images 2.5 to 4.4 mm apart; resample it to even distances first"),
        ([0, 0, 2.5, 2.5, 5, 5], "has 2 images at each position, such as echoes or time points; export one"),
        ([0, 2.5, 5, 5, 7.5, 10], "has several images at one position; export one volume"),
    ],
)
def test_positions_without_an_even_grid_are_refused(tmp_path, positions, sentence):
    write_series(tmp_path, VALUES[: len(positions)], change=placed(positions))
    with pytest.raises(GeometryError, match=sentence):
        read(tmp_path)


def test_slightly_uneven_distances_are_a_warning(tmp_path):
    write_series(tmp_path, VALUES, change=placed([0, 2.5, 5.05, 7.5, 10, 12.5]))
    _, image, warnings = read(tmp_path)
    assert warnings == ["The series has images 2.45 to 2.55 mm apart, and their mean distance was used."]
    assert image.GetSpacing()[2] == pytest.approx(2.5)


def test_shifted_images_are_refused(tmp_path):
    write_series(
        tmp_path, VALUES, change=lambda k, image: setattr(image, "ImagePositionPatient", [3 * (k == 3), 0, 2.5 * k])
    )
    with pytest.raises(GeometryError, match="has images that are shifted against each other; resample it first"):
        read(tmp_path)


def changed(name, value, where=lambda k: k > 3):
    return lambda k, image: setattr(image, name, value) if where(k) else None


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (changed("ImageOrientationPatient", [1, 0, 0, 0, 0, 1]), GeometryError, "has images in 2 orientations"),
        (changed("PixelSpacing", [1.5, 1.5]), GeometryError, "has images of different sizes"),
        (changed("ImagePositionPatient", None), GeometryError, "does not state where its images lie"),
        (changed("PixelSpacing", [0, 0], bool), GeometryError, "does not state where its images lie"),
        (changed("PhotometricInterpretation", "MONOCHROME1"), InputError, "has colours or inverted grey values"),
        (changed("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), InputError, "has mosaics of all slices"),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path, change, error, sentence):
    write_series(tmp_path, VALUES, change=change)
    with pytest.raises(error, match=sentence):
        read(tmp_path)


def test_copies_and_localizers_are_left_out_with_a_warning(tmp_path):
    files = write_series(tmp_path, VALUES, change=changed("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    shutil.copy(files[0], tmp_path / "copy")
    values, _, warnings = read(tmp_path)
    assert np.array_equal(values, VALUES[:4])
    assert warnings == [
        "The series has 1 file that is a copy of another and was left out.",
        "The series has 2 localizer images, which were left out.",
    ]


def test_several_series_need_a_choice(tmp_path):
    write_series(tmp_path / "a", VALUES)
    write_series(tmp_path / "b", 2 * VALUES, series=f"{SERIES}.9")
    with pytest.raises(InputError, match=rf"has 2 series; choose one with --series UID: {SERIES} \(MR, 6 images\), "):
        read(tmp_path)
    assert np.array_equal(read(tmp_path, series=f"{SERIES}.9")[0], 2 * VALUES)
    with pytest.raises(InputError, match="The folder has no series 1.2; it has "):
        read(tmp_path, series="1.2")


def test_single_images_of_other_series_are_left_out_with_a_warning(tmp_path):
    write_series(tmp_path / "a", VALUES)
    write_series(tmp_path / "b", VALUES[:1], series=f"{SERIES}.9")
    values, _, warnings = read(tmp_path)
    assert np.array_equal(values, VALUES)
    assert warnings == ["Another series of the folder, of localizers or single images, was left out."]


def test_multi_frame_image_in_any_order_of_frames(tmp_path):
    order = [2, 0, 1, 3, 4, 5]
    path = tmp_path / "frames.dcm"
    write_multi_frame(path, VALUES, [(0, 0, 2.5 * k) for k in order], slopes=[1, 1, 1, 1, 1, 2])
    expected = VALUES[np.argsort(order)] * np.array([1, 1, 1, 1, 1, 2], np.float32)[:, None, None]
    for source in (path, tmp_path):  # the file, and its folder
        values, image, warnings = read(source)
        assert np.array_equal(values, expected) and warnings == []
        assert image.GetSpacing() == (2.0, 1.5, 2.5) and image.GetOrigin() == (0, 0, 0)


def test_compressed_multi_frame_images(tmp_path):
    path = tmp_path / "frames.dcm"
    write_multi_frame(path, VALUES, [(0, 0, 2.5 * k) for k in range(6)])
    image = pydicom.dcmread(path)
    compressed(0, image)
    image.save_as(path)
    assert np.array_equal(read(path)[0], VALUES)
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # High-Throughput JPEG 2000
    image.save_as(path)
    sentence = r"The multi-frame DICOM image is compressed \(High-Throughput JPEG 2000.*\) and cannot be read here"
    with pytest.raises(InputError, match=sentence):
        read(path)


def test_multi_frame_images_without_positions_of_frames_are_refused(tmp_path):
    path = tmp_path / "frames.dcm"
    write_multi_frame(path, VALUES, [(0, 0, 2.5 * k) for k in range(6)])
    image = pydicom.dcmread(path)
    del image.PerFrameFunctionalGroupsSequence
    image.save_as(path)
    with pytest.raises(InputError, match="The multi-frame DICOM image does not state where its frames lie"):
        read(path)


def test_multi_frame_image_with_a_gap_is_refused(tmp_path):
    write_multi_frame(tmp_path / "frames.dcm", VALUES, [(0, 0, 2.5 * k) for k in (0, 1, 2, 3, 5, 6)])
    with pytest.raises(GeometryError, match="has a gap after image 4 of 6"):
        read(tmp_path)


def test_without_the_extra_a_plain_series_is_read_and_a_multi_frame_image_is_refused(tmp_path, monkeypatch):
    write_series(tmp_path / "plain", VALUES)
    (tmp_path / "frames").mkdir()
    write_multi_frame(tmp_path / "frames" / "frames.dcm", VALUES, [(0, 0, 2.5 * k) for k in range(6)])
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: None)
    assert np.array_equal(read(tmp_path / "plain")[0], VALUES)
    sentence = r"A multi-frame DICOM image needs further packages; install them with: pip install 'diffusion-seg.*dicom"
    with pytest.raises(InputError, match=sentence):
        read(tmp_path / "frames")


def test_spacing_must_agree(tmp_path):
    write_series(tmp_path, VALUES)
    assert np.array_equal(read(tmp_path, spacing=(2.0, 1.5, 2.5))[0], VALUES)
    with pytest.raises(GeometryError, match="The series states voxels of 2 x 1.5 x 2.5 mm; leave out the spacing"):
        read(tmp_path, spacing=(1.0, 1.0, 1.0))


def test_a_folder_without_images_and_a_series_of_a_file_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="No DICOM image of a scan was found; give the folder of a series."):
        read(tmp_path)
    with pytest.raises(InputError, match="--series chooses a series of a DICOM folder"):
        CaseFiles(tmp_path / "notes.txt", series="1.2")


@pytest.mark.parametrize("change", [lambda k, image: None, compressed])
def test_truncated_images_are_refused(tmp_path, change):
    files = write_series(tmp_path, VALUES, change=change)
    files[2].write_bytes(files[2].read_bytes()[:-300])
    with pytest.raises(InputError, match=f"The DICOM image '{files[2].name}' is damaged or incomplete; copy it again."):
        read(tmp_path)


def test_sizes_and_lengths_beyond_the_file_need_no_memory(tmp_path):
    files = write_series(tmp_path, VALUES)
    whole = [file.read_bytes() for file in files]
    long = whole[2].replace(b"\x10\x00\x10\x00PN", b"\x09\x00\x10\x00OB\0\0\xf0\xff\xff\x7f\x10\x00\x10\x00PN", 1)
    files[2].write_bytes(long)  # an element of 2 GB before the patient's name
    with pytest.raises(InputError, match="is damaged or incomplete; copy it again"):
        read(tmp_path)
    for file, content in zip(files, whole, strict=True):  # 65535 rows
        file.write_bytes(
            content.replace(b"\x28\x00\x10\x00US\x02\x00\x14\x00", b"\x28\x00\x10\x00US\x02\x00\xff\xff", 1)
        )
    with pytest.raises(InputError, match="is damaged or incomplete; copy it again"):
        read(tmp_path)


def test_an_image_with_fewer_voxels_than_it_states_is_refused(tmp_path):
    def shorten(k, image):
        if k == 2:
            image.PixelData = image.PixelData[:-300]

    write_series(tmp_path, VALUES, change=shorten)
    with pytest.raises(InputError, match="is damaged or incomplete; copy it again"):
        read(tmp_path)


def test_an_image_cut_before_its_voxels_is_missed(tmp_path):
    files = write_series(tmp_path, VALUES)
    files[5].write_bytes(files[5].read_bytes()[:700])  # the last one leaves no gap
    values, _, warnings = read(tmp_path)
    assert len(values) == 5
    assert warnings == ["1 DICOM file of the folder without an image of a scan was left out."]


def test_neither_warnings_nor_messages_name_the_patient_or_the_folder(tmp_path, caplog, capfd):
    folder = tmp_path / PATIENT
    files = write_series(folder, VALUES, change=placed([0, 2.5, 5.05, 7.5, 10, 12.5]))
    shutil.copy(files[0], folder / "copy")
    _, _, warnings = read(folder)
    write_series(folder, VALUES[:1], series=f"{SERIES}.9")
    with pytest.raises(GeometryError) as error:
        read(folder, series=f"{SERIES}.9", spacing=(1.0, 1.0, 1.0))
    said = " ".join([*warnings, str(error.value), caplog.text, *capfd.readouterr()])
    assert len(warnings) == 2 and not any(word in said for word in ("Doe", "Jane", "Roe", "P-7", "A-5"))


@pytest.mark.slow
@pytest.mark.parametrize("multi_frame", [False, True])
def test_damaged_headers_end_in_a_sentence(tmp_path, multi_frame):
    """Random changes of a header: the values are read, or there is an error with a sentence."""
    random = np.random.default_rng(1)
    if multi_frame:
        file = tmp_path / "frames.dcm"
        write_multi_frame(file, VALUES, [(0, 0, 2.5 * k) for k in range(6)])
    else:
        file = write_series(tmp_path, VALUES)[3]
    whole = file.read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(132, min(len(whole), 2200), random.integers(1, 5)):
            damaged[at] = random.choice([0, 1, 127, 255])
        file.write_bytes(damaged)
        try:
            read(tmp_path)
            outcomes["read"] += 1
        except DiffusionSegmentationError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0
