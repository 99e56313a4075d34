"""Files of a case with several inputs or colours: order, names, grids, and refusals in one sentence."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.errors import GeometryError, InputError
from diffusion_segmentation.images.case_files import CaseFiles
from diffusion_segmentation.images.input_names import Input, inputs_named, order_by_name, valid_names

TWO = (Input("T1"), Input("FLAIR"))
COLOUR = (Input("Colour", 3),)


def image(seed: int, size=(8, 7, 6), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)) -> sitk.Image:
    """A volume of random values, with `size` and `spacing` along i, j and k."""
    made = sitk.GetImageFromArray(np.random.default_rng(seed).normal(100, 20, size[::-1]).astype(np.float32))
    made.SetSpacing(spacing)
    made.SetOrigin(origin)
    return made


def write(path: Path, made: sitk.Image) -> Path:
    sitk.WriteImage(made, str(path))
    return path


def picture(path: Path, values: np.ndarray) -> Path:
    return write(path, sitk.GetImageFromArray(values.astype(np.uint8), isVector=values.ndim == 3))


def arrays(images: list[sitk.Image]) -> list[np.ndarray]:
    return [sitk.GetArrayFromImage(one) for one in images]


def refusal(files, inputs) -> str:
    with pytest.raises((InputError, GeometryError)) as caught:
        CaseFiles(files).read(inputs)
    sentence = str(caught.value)
    assert sentence.endswith(".") and ". " not in sentence and "; " in sentence
    return sentence


def test_files_are_read_in_the_order_of_the_inputs(tmp_path):
    first, second = image(0), image(1)
    files = [write(tmp_path / "a.nrrd", first), write(tmp_path / "b.nrrd", second)]
    expected = arrays([first, second])
    for given in (files, {"flair": files[1], "T 1": files[0]}):
        np.testing.assert_array_equal(arrays(CaseFiles(given).read(TWO)), expected)


def test_a_fourth_axis_holds_all_inputs(tmp_path):
    both = sitk.JoinSeries([image(0), image(1)])
    channels = CaseFiles(write(tmp_path / "c.nii.gz", both)).read(TWO)
    np.testing.assert_array_equal(arrays(channels), arrays([image(0), image(1)]))
    assert channels[0].GetDimension() == 3


def test_files_with_a_fourth_axis_say_what_they_were_taken_for(tmp_path):
    files = CaseFiles(write(tmp_path / "c.nii.gz", sitk.JoinSeries([image(0), image(1)])))
    files.read(TWO)
    assert files.warnings == ["The volumes of the volume 'c.nii.gz' were taken for T1, FLAIR."]


def test_a_series_is_no_colour_and_colours_are_no_inputs(tmp_path):
    series = write(tmp_path / "cine.nii.gz", sitk.JoinSeries([image(n, size=(8, 7, 1)) for n in range(4)]))
    for inputs in (COLOUR, (Input("Image"),)):
        assert "is a series of 4 volumes; give one of them" in refusal(series, inputs)
    colours = picture(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (9, 11, 3)))
    assert "The input 'FLAIR' is missing" in refusal(colours, (Input("T1"), Input("FLAIR"), Input("T2")))


@pytest.mark.parametrize("stated_first", [True, False])
def test_a_picture_without_a_position_lies_on_the_grid_of_the_other(tmp_path, stated_first):
    values = np.random.default_rng(0).integers(0, 255, (9, 11)).astype(np.uint8)
    stated = sitk.GetImageFromArray(values[None])
    stated.SetSpacing((0.8, 0.8, 3.0))
    stated.SetOrigin((4, 5, 6))
    paths = [write(tmp_path / "stated.nrrd", stated), picture(tmp_path / "plain.png", values)]
    files = CaseFiles(paths if stated_first else paths[::-1])
    first, second = files.read(TWO)
    np.testing.assert_array_equal(*arrays([first, second]))
    assert first.GetOrigin() == second.GetOrigin() and any("does not state its position" in w for w in files.warnings)
    other = picture(tmp_path / "other.png", values[:-1])
    assert "differ in size" in refusal([paths[0], other], TWO)


def test_another_grid_is_resampled_to_that_of_the_first_with_a_warning(tmp_path):
    plain = sitk.Image([8, 8, 8], sitk.sitkFloat32)
    ramp = sitk.GetImageFromArray(np.arange(8.0, dtype=np.float32)[:, None, None] + np.zeros((8, 8, 8), np.float32))
    shifted = sitk.GetImageFromArray(sitk.GetArrayFromImage(ramp)[:, ::-1].copy())
    shifted.SetDirection(np.diag([1.0, -1, 1]).ravel())
    shifted.SetOrigin((0, 7, 0))
    plain = ramp + 0
    files = CaseFiles([write(tmp_path / "a.nrrd", plain), write(tmp_path / "b.nrrd", shifted)])
    first, second = arrays(files.read(TWO))
    np.testing.assert_allclose(first, second, atol=1e-4)
    assert files.warnings == ["The input FLAIR was resampled to the grid of the first input."]


def test_a_small_overlap_is_a_warning_and_none_an_error(tmp_path):
    first = write(tmp_path / "a.nrrd", image(0))
    partly = CaseFiles([first, write(tmp_path / "b.nrrd", image(1, origin=(6.0, 0, 0)))])
    partly.read(TWO)
    assert "covers only 25 % of the first input" in partly.warnings[1]
    assert "no voxel in common" in refusal([first, write(tmp_path / "c.nrrd", image(1, origin=(50.0, 0, 0)))], TWO)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], "The input 'FLAIR' is missing: the model has the inputs T1, FLAIR"),
        (["a", "b", "c"], "3 files were given and the model has 2 inputs"),
        (["a", "a"], "The same file was given for two inputs"),
        ({"T1": "a"}, "The input 'FLAIR' is missing"),
        ({"T1": "a", "T2": "b"}, "has no input 'T2'; its inputs are T1, FLAIR"),
        ({"T1": "a", "t-1": "b"}, "given twice"),
    ],
)
def test_missing_repeated_and_unknown_inputs_are_named(tmp_path, names, words):
    paths = {name: write(tmp_path / f"{name}.nrrd", image(n)) for n, name in enumerate("abc")}
    given = {key: paths[name] for key, name in names.items()} if isinstance(names, dict) else [paths[n] for n in names]
    assert words in refusal(given, TWO)


def test_one_input_and_two_files_is_refused(tmp_path):
    paths = [write(tmp_path / f"{n}.nrrd", image(n)) for n in range(2)]
    assert "the model has 1 input (Image)" in refusal(paths, (Input("Image"),))


def test_colours_become_channels_and_transparency_is_ignored(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (9, 11, 4))
    files = CaseFiles(picture(tmp_path / "rgba.png", values))
    channels = files.read(COLOUR)
    np.testing.assert_array_equal(np.squeeze(arrays(channels), 1), np.moveaxis(values[..., :3], -1, 0))
    assert files.is_picture and files.warnings == ["The transparency of the volume 'rgba.png' was ignored."]
    assert channels[0].GetSize() == (11, 9, 1) and channels[0].GetSpacing() == (1, 1, 1)


def test_grey_values_that_are_stored_as_colours_are_one_channel(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (9, 11))
    (channel,) = arrays(CaseFiles(picture(tmp_path / "a.png", np.stack([grey] * 3, -1))).read((Input("Image"),)))
    np.testing.assert_array_equal(channel[0], grey)
    colours = picture(tmp_path / "b.png", np.random.default_rng(0).integers(0, 255, (9, 11, 3)))
    assert "has colours" in refusal(colours, (Input("Image"),))


def test_a_grey_picture_is_refused_by_a_model_of_colours(tmp_path):
    grey = picture(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (9, 11)))
    assert "has 1 value per voxel; the model needs 3" in refusal(grey, COLOUR)


def test_a_constant_input_is_named(tmp_path):
    files = [write(tmp_path / "a.nrrd", image(0)), write(tmp_path / "flat.nrrd", image(0) * 0)]
    assert "'flat.nrrd' has the same value everywhere" in refusal(files, TWO)


def test_names_of_channels():
    assert inputs_named(["Red", "green", "B"]) == (Input("Red"), Input("green"), Input("B"))
    assert inputs_named(["R", "G", "B"]) == inputs_named(["RGB"]) == COLOUR
    assert valid_names(["T1", "T1", "", "a\nb", "FLAIR"]) == ["Image 1", "Image 2", "Image 3", "Image 4", "FLAIR"]
    assert order_by_name(["flair", "t1"], TWO) == [1, 0]


def test_files_that_the_user_never_saw_are_called_by_their_inputs(tmp_path):
    flat, other = image(0) * 0, image(1, origin=(1.0, 0, 0))
    files = {"T1": write(tmp_path / "input.nrrd", image(0)), "FLAIR": write(tmp_path / "input-1-flair.nrrd", flat)}
    with pytest.raises(InputError, match=r"^The volume for FLAIR has the same value everywhere; "):
        CaseFiles(files, called="The volume").read(TWO)
    with pytest.raises(InputError, match=r"^The volume has the same value everywhere; "):
        CaseFiles(files["FLAIR"], called="The volume").read((Input("Image"),))
    files["FLAIR"] = write(tmp_path / "input-1-flair.nrrd", other)
    read = CaseFiles(files, called="The volume")
    read.read(TWO)
    assert read.warnings and not any("nrrd" in warning for warning in read.warnings)
