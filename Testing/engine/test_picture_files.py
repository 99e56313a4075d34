"""Pictures as cameras and programs write them: EXIF orientations, and grey values with transparency."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, ImageOps

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.images.case_files import CaseFiles
from diffusion_segmentation.images.headers.picture import orientation
from diffusion_segmentation.images.input_names import Input
from diffusion_segmentation.images.label_file import read_label_numbers
from diffusion_segmentation.segmentation.input_volume import unstated_in_source

GREY, COLOUR = (Input("Image"),), (Input("Colour", 3),)


def pixels(*shape: int) -> np.ndarray:
    """Smooth values, which JPEG keeps nearly unchanged."""
    rows = np.add.outer(np.linspace(0, 120, shape[0]), np.linspace(0, 90, shape[1]))
    return (
        np.stack([rows + 20 * n for n in range(3)], -1).astype(np.uint8)[..., : shape[2] if shape[2:] else 1].squeeze()
    )


def jpeg(path: Path, values: np.ndarray, turn: int) -> Path:
    """A picture with an entry of a turned camera; a JPEG, or another file by the ending of its name."""
    picture = Image.fromarray(values)
    exif = picture.getexif()
    exif[0x0112] = turn
    options = {"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}
    picture.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("inputs", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_picture_of_a_turned_camera_is_read_as_viewers_show_it(
    turn: int, inputs: tuple, ending: str, tmp_path: Path
) -> None:
    values = pixels(18, 30, 3 if inputs is COLOUR else 1)
    files = CaseFiles(jpeg(tmp_path / f"é.{ending}", values, turn))
    channels = files.read(inputs)
    # Pillow turns some kinds of TIFF by itself.
    shown = np.asarray(ImageOps.exif_transpose(Image.open(jpeg(tmp_path / "same.png", values, turn))))
    read = np.stack([sitk.GetArrayFromImage(channel)[0] for channel in channels], -1).squeeze()
    np.testing.assert_allclose(read, shown, atol=3)
    assert files.first.size == (shown.shape[1], shown.shape[0], 1)
    said = [warning for warning in files.warnings if "(EXIF)" in warning]
    assert len(said) == (turn != 1) and all("was put upright" in warning for warning in said)


def test_a_mask_of_a_turned_camera_lies_on_the_picture(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "a.jpg", pixels(18, 30), 6)
    (image,) = CaseFiles(path).read(GREY)
    mask = np.zeros((18, 30), np.uint8)
    mask[:8, :8] = 255  # a whole block of JPEG, which stays exact
    labels, _ = read_label_numbers(jpeg(tmp_path / "m.jpg", mask, 6), image, "mask")
    np.testing.assert_array_equal(labels[0] > 127, np.rot90(mask, -1) > 0)
    Image.fromarray(mask).save(tmp_path / "stored.png")
    with pytest.raises(InputError, match="does not lie on its image's grid"):
        read_label_numbers(tmp_path / "stored.png", image, "mask")


def test_a_program_that_loads_a_picture_as_it_is_stored_gets_no_warning(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "a.jpg", pixels(18, 30), 3)
    assert unstated_in_source(path, sitk.GetImageFromArray(pixels(18, 30)[None])) == []


@pytest.mark.parametrize("cut", [3, 12, 20, 30, 38, 60])
def test_an_exif_part_that_is_cut_off_states_nothing(cut: int, tmp_path: Path) -> None:
    data = jpeg(tmp_path / "a.jpg", pixels(18, 30), 6).read_bytes()
    assert orientation(data) == 6 and orientation(data[:cut]) in (1, 6)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_file_that_is_cut_off_is_not_turned(ending: str, tmp_path: Path) -> None:
    path = jpeg(tmp_path / f"a.{ending}", pixels(18, 30), 6)
    data = path.read_bytes()
    for cut in (9, 30, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:cut])
        with contextlib.suppress(InputError):
            CaseFiles(path).read(GREY)


def test_pixels_of_16_bits_and_transparent_grey_are_turned(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (9, 11), np.uint16)
    (read,) = CaseFiles(jpeg(tmp_path / "deep.tif", values, 8)).read(GREY)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read)[0], np.rot90(values))
    pair = np.stack([pixels(9, 11), np.full((9, 11), 255, np.uint8)], -1)
    (grey,) = CaseFiles(jpeg(tmp_path / "grey.png", pair, 8)).read(GREY)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(grey)[0], np.rot90(pair[..., 0]))


def test_a_stack_of_several_pages_is_not_turned(tmp_path: Path) -> None:
    pages = [Image.fromarray(pixels(9, 11) + n) for n in range(3)]
    exif = pages[0].getexif()
    exif[0x0112] = 6
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:], exif=exif)
    assert CaseFiles(tmp_path / "stack.tif", (1.0, 1.0, 1.0)).first.size == (11, 9, 3)


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_values_with_opaque_pixels_are_read(bits: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (9, 11))
    path = grey_with_alpha(tmp_path / "a.png", values, np.full_like(values, 2**bits - 1), bits)
    files = CaseFiles(path)
    (channel,) = files.read(GREY)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(channel)[0], values)
    assert files.warnings == []
    numbers, _ = read_label_numbers(path, channel, "mask")
    np.testing.assert_array_equal(numbers[0], values)


@pytest.mark.parametrize("bits", [8, 16])
def test_transparency_of_grey_values_is_ignored_with_a_warning_and_refused_for_masks(bits: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (9, 11))
    path = grey_with_alpha(tmp_path / "a.png", values, values[::-1], bits)
    files = CaseFiles(path)
    (channel,) = files.read(GREY)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(channel)[0], values)
    assert files.warnings == ["The transparency of the volume 'a.png' was ignored."]
    with pytest.raises(InputError, match="2 values per voxel"):
        read_label_numbers(path, channel, "mask")


def test_a_damaged_png_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (9, 11))
    path = grey_with_alpha(tmp_path / "a.png", values, values, 8)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be read"):
        CaseFiles(path)


def grey_with_alpha(path: Path, values: np.ndarray, alpha: np.ndarray, bits: int) -> Path:
    """A PNG of colour type 4, which Pillow writes with 8 bits only."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    stored = np.stack([values, alpha], -1).astype(f">u{bits // 8}")
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    header = struct.pack(">2I5B", values.shape[1], values.shape[0], bits, 4, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path
