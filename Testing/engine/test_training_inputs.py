"""Training on data sets of several inputs, of pictures, and of slices; and the layouts of such data sets."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from test_training_folder import SMALL

from diffusion_segmentation.errors import InputError
from diffusion_segmentation.images.dataset import read_dataset
from diffusion_segmentation.images.input_names import Input, require_same_inputs
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.segmentation.pipeline import Request, segment
from diffusion_segmentation.training import train
from diffusion_segmentation.training.folder import Folder
from diffusion_segmentation.training.settings import Optimisation

CASES = 4


def listing(folder, channels, **entries):
    (folder / "dataset.json").write_text(
        json.dumps({"name": "Two", "channel_names": channels, "labels": {"background": 0, "square": 1}, **entries})
    )


def square(shape, rng):
    """Labels with a square in each slice, and an image of it."""
    labels = np.zeros(shape, np.uint8)
    labels[..., 6:16, 8:20] = 1
    return labels, (100 + 50 * labels + rng.normal(0, 5, shape)).astype(np.float32)


def write(path, values, vector=False):
    path.parent.mkdir(exist_ok=True, parents=True)
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=vector), str(path))


@pytest.fixture
def two_inputs(tmp_path):
    """Volumes of two inputs, each a file of its own; the square is in the second."""
    rng = np.random.default_rng(0)
    for n in range(CASES):
        labels, image = square((20, 24, 28), rng)
        write(tmp_path / "data" / "imagesTr" / f"c{n}_0000.nrrd", rng.normal(100, 20, image.shape).astype(np.float32))
        write(tmp_path / "data" / "imagesTr" / f"c{n}_0001.nrrd", image)
        write(tmp_path / "data" / "labelsTr" / f"c{n}.nrrd", labels)
    listing(tmp_path / "data", {"0": "T1", "1": "FLAIR"})
    return tmp_path / "data"


@pytest.fixture
def colour_pictures(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(CASES):
        labels, image = square((24, 28), rng)
        colours = np.clip(np.stack([image, image + 20, 255 - image], -1), 0, 255).astype(np.uint8)
        write(tmp_path / "data" / "imagesTr" / f"c{n}_0000.png", colours, vector=True)
        write(tmp_path / "data" / "labelsTr" / f"c{n}.png", labels)
    listing(tmp_path / "data", {"0": "R", "1": "G", "2": "B"})
    return tmp_path / "data"


def trained(data, tmp_path, shape, slices=False):
    config = {**SMALL, "optimisation": {**SMALL["optimisation"], "shapes": [shape]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return train.main(str(data), tmp_path / "model", tmp_path / "config.json", slices=slices)


def test_further_inputs_are_found_beside_the_first(two_inputs):
    dataset = read_dataset(two_inputs)
    assert dataset.inputs == (Input("T1"), Input("FLAIR")) and dataset.modalities == ("MR", "MR")
    names = [[path.name for path in case.images] for case in dataset.training]
    assert names == [[f"c{n}_0000.nrrd", f"c{n}_0001.nrrd"] for n in range(CASES)] and dataset.unlabelled == 0
    (two_inputs / "imagesTr" / "c1_0001.nrrd").rename(two_inputs / "imagesTr" / "c1_0002.nrrd")
    case = read_dataset(two_inputs).training[1]
    with pytest.raises(InputError, match="The input 'FLAIR' is missing"):
        Folder(two_inputs, two_inputs.parent / "p").prepare([case])


@pytest.mark.parametrize("listed", [["a_0000.nrrd", "a_0001.nrrd"], "a_0000.nrrd", "a.nrrd"])
def test_lists_of_cases_with_several_inputs(tmp_path, listed):
    for name in ("a_0000", "a_0001", "a"):
        write(tmp_path / f"{name}.nrrd", np.zeros((3, 3, 3), np.uint8))
    write(tmp_path / "label.nrrd", np.zeros((3, 3, 3), np.uint8))
    listing(tmp_path, {"0": "T1", "1": "FLAIR"}, training=[{"image": listed, "label": "label.nrrd"}])
    (case,) = read_dataset(tmp_path).training
    expected = ["a.nrrd"] if listed == "a.nrrd" else ["a_0000.nrrd", "a_0001.nrrd"]
    assert [path.name for path in case.images] == expected and case.name == "a"


def test_three_images_of_two_channels_are_refused(tmp_path):
    for name in "abcl":
        write(tmp_path / f"{name}.nrrd", np.zeros((3, 3, 3), np.uint8))
    images = ["a.nrrd", "b.nrrd", "c.nrrd"]
    listing(tmp_path, {"0": "T1", "1": "FLAIR"}, training=[{"image": images, "label": "l.nrrd"}])
    with pytest.raises(InputError, match="has 3 images and its dataset.json lists 2 channels"):
        read_dataset(tmp_path)


@pytest.mark.slow
def test_a_model_of_two_inputs_trains_and_uses_both(two_inputs, tmp_path):
    model = trained(two_inputs, tmp_path, [16, 16, 16])
    section = models.load(model).section
    assert section["inputs"] == [{"name": "T1"}, {"name": "FLAIR"}] and section["network"]["inputs"] == 2
    files = read_dataset(two_inputs).training[0].images
    reports = []
    for order in (files, {"flair": files[1], "t1": files[0]}, files[::-1]):
        request = Request(order, tmp_path / f"out{len(reports)}", str(model), samples=2, steps=2, device="cpu")
        reports.append(segment(request).report)
    volumes = [report["volumes"][0]["samples_ml"] for report in reports]
    assert volumes[0] == volumes[1] and volumes[0] != volumes[2]
    assert list(reports[0]["input"]["further_sha256"]) == ["FLAIR"]
    with pytest.raises(InputError, match="The input 'FLAIR' is missing"):
        segment(Request(files[0], tmp_path / "one", str(model), samples=2, steps=2, device="cpu"))
    assert not (tmp_path / "one").exists()


def test_inputs_are_normalised_by_themselves(two_inputs):
    source = Folder(two_inputs, two_inputs.parent / "prepared")
    source.configure(source.settings()["diffusion_segmentation"])
    ((image, masks),) = source.prepare(source.seen[:1])
    values = np.load(image)
    assert values.shape[0] == 2 and values.shape[1:] == np.load(masks).shape[1:]
    assert all(0 <= channel.min() and 0.8 < np.quantile(channel, 0.99) < 1.2 for channel in values.astype(np.float32))


def test_ct_and_another_input_have_their_own_scales(two_inputs):
    listing(two_inputs, {"0": "CT", "1": "FLAIR"})
    section = Folder(two_inputs, two_inputs.parent / "p").settings()["diffusion_segmentation"]
    assert section["intensity"] == [{"window": [-200.0, 300.0]}, None]


@pytest.mark.slow
def test_a_model_of_colour_pictures_trains_and_segments(colour_pictures, tmp_path):
    model = trained(colour_pictures, tmp_path, [16, 16])
    section = models.load(model).section
    assert section["inputs"] == [{"name": "Colour", "channels": 3}] and section["network"]["dims"] == 2
    files = read_dataset(colour_pictures).training[0].images
    report = segment(Request(files, tmp_path / "out", str(model), samples=2, steps=2, device="cpu")).report
    assert report["unit"] == "px" and report["input"]["size_ijk"] == [28, 24, 1]


def test_windows_of_pictures_have_their_axes_and_the_squares_of_the_labels(colour_pictures):
    source = Folder(colour_pictures, colour_pictures.parent / "prepared")
    source.configure(source.settings()["diffusion_segmentation"])
    windows = source.stream(Optimisation(shapes=((24, 28),), draws=1), 1)
    windows.augment = False
    assert source.settings()["diffusion_segmentation"]["input_range"]["unit"] == "px"
    image, labels = next(iter(windows))
    assert image.shape == (3, 24, 28) and labels.shape == (1, 24, 28)
    inside = labels[0] == 1
    assert inside.sum() == 120 and image[0][inside].mean() > image[0][~inside].mean() + 0.3
    assert image[2][inside].mean() < image[2][~inside].mean() - 0.3


@pytest.mark.slow
def test_volumes_train_as_stacks_of_slices_by_choice(two_inputs, tmp_path):
    model = trained(two_inputs, tmp_path, [16, 16], slices=True)
    assert models.load(model).dims == 2
    files = read_dataset(two_inputs).training[0].images
    report = segment(Request(files, tmp_path / "out", str(model), samples=2, steps=2, device="cpu")).report
    assert report["unit"] == "ml" and any("20 slices were segmented one by one" in text for text in report["warnings"])
    source = Folder(two_inputs, tmp_path / "prepared", slices=True)
    source.configure(models.load(model).section)
    image, labels = next(source.labelled(1, 0))
    assert image.shape[0] == 2 and image.shape[1:] == labels.shape and labels.ndim == 2


def test_the_plane_of_the_slices_is_noted(two_inputs):
    source = Folder(two_inputs, two_inputs.parent / "prepared", slices=True)
    in_range = source.settings()["diffusion_segmentation"]["input_range"]
    assert (in_range["plane"], in_range["unit"]) == ("axial", "mm")


def test_pictures_beside_volumes_are_refused(two_inputs):
    for channel in range(2):
        write(two_inputs / "imagesTr" / f"c0_000{channel}.nrrd", np.arange(12.0).reshape(1, 3, 4))
    with pytest.raises(InputError, match="both pictures .1. and volumes .3."):
        Folder(two_inputs, two_inputs.parent / "p").settings()


@pytest.mark.parametrize("change", ["names", "order", "dims"])
def test_data_of_other_inputs_than_the_model_are_refused(two_inputs, tmp_path, change):
    section = Folder(two_inputs, tmp_path / "p").settings()["diffusion_segmentation"]
    channels = {"names": ["T1", "T2"], "order": ["FLAIR", "T1"], "dims": ["T1", "FLAIR"]}[change]
    listing(two_inputs, {str(n): name for n, name in enumerate(channels)})
    with pytest.raises(InputError, match="The model (has the inputs T1, FLAIR|is for volumes)"):
        Folder(two_inputs, tmp_path / "p", slices=change == "dims").configure(section)


def test_pixels_of_micrometres_keep_their_size(colour_pictures):
    for path in [*(colour_pictures / "imagesTr").iterdir(), *(colour_pictures / "labelsTr").iterdir()]:
        picture = sitk.ReadImage(str(path))
        picture.SetSpacing((0.004, 0.004))
        path.unlink()
        sitk.WriteImage(picture, str(path.with_suffix(".nrrd")))
    section = Folder(colour_pictures, colour_pictures.parent / "p").settings()["diffusion_segmentation"]
    assert section["working_spacing_mm"] == 0.004


def test_an_evaluation_on_inputs_in_another_order_is_refused(two_inputs):
    with pytest.raises(InputError, match="The model has the inputs T1, FLAIR and the data set 'x' FLAIR, T1"):
        require_same_inputs((Input("T1"), Input("FLAIR")), (Input("FLAIR"), Input("T1")), "x")
    require_same_inputs((Input("MRI"),), (Input("T1"),), "x")
