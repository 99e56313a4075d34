"""Models of pictures: colour files, stacks of slices, and areas in place of volumes."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from diffusion_segmentation.errors import GeometryError, ModelError
from diffusion_segmentation.images.working_grid import Grid
from diffusion_segmentation.model.building import build
from diffusion_segmentation.model.folder import load, save
from diffusion_segmentation.segmentation.input_volume import check_grid, unstated_in_source
from diffusion_segmentation.segmentation.memory_plan import MemoryPlan
from diffusion_segmentation.segmentation.pipeline import Request, segment
from diffusion_segmentation.segmentation.tiling import Tiling
from diffusion_segmentation.segmentation.watershed import watershed_regions

NETWORK = {
    "dims": 2,
    "inputs": 3,
    "encoder": {"channels": [8, 16], "blocks": [1, 1]},
    "denoiser": {"channels": [8, 16], "blocks": 1},
}


def model_of_pictures(folder, inputs=({"name": "Colour", "channels": 3},), spacing=1.0, **section):
    """A model whose most probable class is 1 where the first channel is bright, whatever the other channels are."""
    network = {**NETWORK, "inputs": sum(one.get("channels", 1) for one in inputs)}
    torch.manual_seed(0)
    encoder, denoiser = build(network, 2)
    curve = {"log_snr": [-10.0, 8.0], "cross_entropy": [1.0, 0.1]}
    entries = {
        "schema": 1,
        "name": folder.name,
        "title": "Pictures",
        "map_source": "samples",
        "inputs": list(inputs),
        "working_spacing_mm": spacing,
        "labels": [{"label": 1, "id": "bright", "name": "Bright", "color": [1, 0, 0], "terminology": ""}],
        "network": network,
        "window": [32, 32],
        "steps": {"cpu": 2, "gpu": 2},
        "process": {"loss_curve": curve, "input_scale": 0.5},
        "input_range": {"modality": "Colour", "spacing_mm": [0.1, 10], "extent_mm": [4, 500]},
        **section,
    }

    def forward(image):
        bright = torch.nn.functional.pixel_unshuffle(40 * (image[:, :1] - 0.5), 2)
        logits = torch.stack([-bright, bright], 1).flatten(1, 2)
        return image.new_zeros((len(image), 8, *logits.shape[2:])), logits

    save(folder, {"version": "1", "diffusion_segmentation": entries}, encoder, denoiser)
    return forward


@pytest.fixture
def a_model(tmp_path, monkeypatch):
    """A folder of such a model; its encoder is replaced by the threshold, whose order of classes is that of cells."""
    from diffusion_segmentation.networks import Encoder

    forward = model_of_pictures(tmp_path / "model")
    monkeypatch.setattr(Encoder, "forward", lambda self, image: forward(image))
    return tmp_path / "model"


def bright_square(size=(40, 28)):
    values = np.full((*size[::-1], 3), 30, np.uint8)
    values[6:16, 20:34, 0] = 220
    return values


def run(model, volume, folder, **options):
    report = segment(Request(volume, folder, str(model), samples=2, device="cpu", **options)).report
    labels = sitk.ReadImage(str(folder / "segmentation.seg.nrrd"))
    return report, labels


def test_a_colour_picture_gets_labels_on_its_pixels_and_areas(a_model, tmp_path):
    values = bright_square()
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(tmp_path / "photo.png"))
    report, labels = run(a_model, tmp_path / "photo.png", tmp_path / "out", keep_samples=True)
    found = sitk.GetArrayFromImage(labels)
    assert found.shape == (1, 28, 40) and labels.GetSpacing() == (1, 1, 1)
    np.testing.assert_array_equal(found[0], values[..., 0] > 100)
    (volume,) = report["volumes"]
    assert report["unit"] == "px" and volume["consensus_px"] == 140 and len(volume["samples_px"]) == 2
    assert report["expected_error_px"] >= 0 and not any(key.endswith("_ml") for key in (*report, *volume))


def test_a_picture_without_a_size_is_not_said_to_have_one(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(bright_square()[..., 0]), str(tmp_path / "grey.png"))
    image = sitk.GetImageFromArray(bright_square()[None, ..., 0])
    assert unstated_in_source(tmp_path / "grey.png", image) == []


IN_MM = {"spacing_mm": [0.25, 1.6], "extent_mm": [4, 500], "unit": "mm"}


def test_pixels_of_unknown_size_are_said_to_be_taken_for_1_mm_by_a_model_in_mm():
    (warning,) = check_grid((40, 28), (1, 1), IN_MM, is_stated=False)
    assert "does not state the size of its pixels, so they were taken to be 1 mm" in warning
    assert "made for 0.25 to 1.6 mm" in warning and warning.endswith("give it with --spacing.")
    fine = {**IN_MM, "spacing_mm": [0.01, 0.04]}
    with pytest.raises(GeometryError, match="the picture does not state the size of its pixels: give it with"):
        check_grid((40, 28), (1, 1), fine, is_stated=False)
    for in_pixels in ({**IN_MM, "unit": "px"}, {"spacing_mm": [0.5, 2.0], "extent_mm": [4, 500]}):  # and older models
        assert check_grid((40, 28), (1, 1), in_pixels, is_stated=False) == []
    assert check_grid((40, 28), (1, 1), IN_MM) == []


def test_a_picture_outside_the_range_is_called_a_picture():
    with pytest.raises(GeometryError, match=r"pixel size is 9 x 9 px, .* 0.5 to 2 px; choose another picture or model"):
        check_grid((40, 28), (9, 9), {"spacing_mm": [0.5, 2.0], "extent_mm": [4, 500]})


@pytest.mark.slow
def test_a_run_says_that_the_size_of_pixels_is_unknown_and_that_areas_are_meant(a_model, tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(bright_square(), isVector=True), str(tmp_path / "photo.png"))
    report, _ = run(a_model, tmp_path / "photo.png", tmp_path / "out")
    assert sum("does not state the size of its pixels" in warning for warning in report["warnings"]) == 1
    assert sum("its intervals can be too narrow" in warning for warning in report["warnings"]) == 1
    report, _ = run(a_model, tmp_path / "photo.png", tmp_path / "sized", spacing=(1.0, 1.0, 1.0))
    assert not any("size of its pixels" in warning for warning in report["warnings"])


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_slices_in_another_plane_than_those_of_the_training_are_a_warning(tmp_path, plane):
    in_plane = {"spacing_mm": [0.1, 10], "extent_mm": [4, 500], "plane": "sagittal"}
    model_of_pictures(tmp_path / "model", inputs=[{"name": "Grey"}], input_range=in_plane)
    stack = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 20, (2, 24, 32)).astype(np.float32))
    if plane == "sagittal":
        stack.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))
    sitk.WriteImage(stack, str(tmp_path / "stack.nrrd"))
    report, _ = run(tmp_path / "model", tmp_path / "stack.nrrd", tmp_path / "out")
    expected = "The slices are axial and the model was trained on sagittal ones; do not trust the result."
    assert (expected in report["warnings"]) == (plane == "axial")


def test_pixels_with_a_size_give_mm2(a_model, tmp_path):
    image = sitk.GetImageFromArray(bright_square()[None], isVector=True)
    image.SetSpacing((0.5, 0.5, 1.0))
    sitk.WriteImage(image, str(tmp_path / "photo.nrrd"))
    report, labels = run(a_model, tmp_path / "photo.nrrd", tmp_path / "out")
    assert report["unit"] == "mm2" and labels.GetSpacing() == (0.5, 0.5, 1.0)
    assert report["volumes"][0]["consensus_mm2"] == pytest.approx(35, rel=0.1)


def test_a_stack_is_segmented_slice_by_slice_and_says_so(a_model, tmp_path):
    first, other = bright_square(), np.roll(bright_square(), -8, axis=1)
    image = sitk.GetImageFromArray(np.stack([first, other, first]), isVector=True)
    image.SetSpacing((1.0, 1.0, 5.0))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))  # slices along L
    sitk.WriteImage(image, str(tmp_path / "stack.nrrd"))
    report, labels = run(a_model, tmp_path / "stack.nrrd", tmp_path / "out")
    expected = np.stack([part[..., 0] > 100 for part in (first, other, first)])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), expected)
    assert labels.GetDirection() == (0, 0, 1, 1, 0, 0, 0, 1, 0) and report["unit"] == "ml"
    assert any("the 3 slices were segmented one by one" in warning for warning in report["warnings"])


@pytest.mark.slow
def test_samples_of_two_slices_differ_and_repeat_with_the_seed(tmp_path):
    model_of_pictures(tmp_path / "model", inputs=[{"name": "Grey"}])
    values = np.random.default_rng(0).normal(100, 20, (24, 32)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([values, values])), str(tmp_path / "two.nrrd"))
    stored = []
    for name in ("a", "b"):
        run(tmp_path / "model", tmp_path / "two.nrrd", tmp_path / name, keep_samples=True)
        stored.append(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / "samples.seq.nrrd"))))
    np.testing.assert_array_equal(*stored)
    assert (stored[0][0] != stored[0][1]).any(), "equal slices get different noise"


def test_a_picture_is_refused_by_a_model_of_volumes(tmp_path, a_model_folder):
    values = np.random.default_rng(0).normal(100, 20, (24, 32)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(values[None]), str(tmp_path / "a.nrrd"))
    with pytest.raises(GeometryError, match="32 x 24 x 1 voxels; give a volume of several slices"):
        run(a_model_folder, tmp_path / "a.nrrd", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "inputs",
    [
        [{"name": "a"}],
        [{"name": "a", "channels": 2}],
        [{"name": "a"}, {"name": "A"}, {"name": "b"}],
        [{"name": "a", "channels": "3"}],
        [{"name": "a\nb", "channels": 3}],
        [{"channels": 3}],
        "abc",
        3,
    ],
)
def test_metadata_with_other_inputs_than_those_of_the_network_are_refused(tmp_path, inputs):
    from diffusion_segmentation.model.metadata import read_metadata

    model_of_pictures(tmp_path / "model")
    path = tmp_path / "model" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["diffusion_segmentation"]["inputs"] = inputs
    path.write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match="in its entry '(inputs|intensity)'"):
        read_metadata(tmp_path / "model")


@pytest.mark.parametrize("spacing", [0.7, 1.0, 3.0])
def test_the_working_grid_of_a_picture_covers_it_in_its_own_plane(spacing):
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(2, 21, 33)).astype(np.float32))
    image.SetSpacing((1.3, 1.3, 4.0))
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    image.SetDirection(turned.ravel())
    image.SetOrigin((5, -3, 8))
    working = Grid(spacing, (), [], 2).resampled(image)
    assert working.GetSize()[2] == 2 and working.GetSpacing() == (spacing, spacing, 4.0)
    centres = [
        np.array(one.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in one.GetSize()]))
        for one in (image, working)
    ]
    np.testing.assert_allclose(*centres, atol=1e-6)
    for size, step, n in zip(working.GetSize()[:2], working.GetSpacing()[:2], (33, 21), strict=True):
        assert -1e-6 <= size * step - n * 1.3 < step


def test_a_stack_needs_the_memory_of_all_its_slices(tmp_path):
    covariance = {"scales_mm": [3.0], "weights": [[0.9]] * 2, "shared": [0.1] * 2}
    model_of_pictures(tmp_path / "model", start={"covariance": covariance, "log_snr": None})
    plan, tiling = MemoryPlan(load(tmp_path / "model"), torch.device("cpu")), Tiling((32, 32), (32, 32), 4)
    one = plan.sampling_bytes(tiling)
    plan.slices = 5
    assert plan.sampling_bytes(tiling) == 5 * one


def test_a_start_for_pixels_of_micrometres_is_valid(tmp_path):
    covariance = {"scales_mm": [0.0064], "weights": [[0.9]] * 2, "shared": [0.1] * 2}
    model_of_pictures(tmp_path / "model", spacing=0.004, start={"covariance": covariance, "log_snr": -3.0})
    assert load(tmp_path / "model").start.covariance.scales_mm == (0.0064,)


def test_regions_of_pictures_have_a_size_in_pixels_whatever_the_pixels_are(a_model, tmp_path):
    """15 mm are 3750 pixels of 4 micrometres."""
    image = sitk.GetImageFromArray(bright_square()[None], isVector=True)
    image.SetSpacing((0.004, 0.004, 1.0))
    sitk.WriteImage(image, str(tmp_path / "micro.nrrd"))
    path = a_model / "metadata.json"
    metadata = json.loads(path.read_text())
    section = metadata["diffusion_segmentation"]
    section |= {"working_spacing_mm": 0.004}
    section["input_range"] = {"modality": "Colour", "spacing_mm": [0.001, 0.01], "extent_mm": [0.01, 5]}
    path.write_text(json.dumps(metadata))
    report, labels = run(a_model, tmp_path / "micro.nrrd", tmp_path / "out")
    assert report["region_mm"] == pytest.approx(15 * 0.004) and sitk.GetArrayFromImage(labels).sum() == 140
    error = np.zeros((1, 60, 60))
    error[0, 30] = 0.4
    pixels = watershed_regions(error, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(watershed_regions(error, (1.0, 0.004, 0.004), 0.06, 0.012), pixels)
    assert watershed_regions(error, (1.0, 0.004, 0.004)).max() == 1 < pixels.max()
