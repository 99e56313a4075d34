"""A single slice is segmented by a 2d nnU-Net, as nnU-Net does, and refused by one of three axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunet_folders import dataset, plans, write_folder

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import GeometryError
from diffusion_segmentation.nnunet.model import read_model
from diffusion_segmentation.nnunet.run import required_bytes
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.request import Request


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))


@pytest.fixture
def a_slice(tmp_path: Path) -> Path:
    """A disc in zeros: 26 x 40 pixels."""
    j, i = np.ogrid[:40, :26]
    radius = np.sqrt(((j - 20) / 15) ** 2 + ((i - 12) / 11) ** 2)
    noise = np.random.default_rng(0).standard_normal((40, 26))
    values = (60 + 10 * noise + 40 * (radius < 0.4)) * (radius < 1)
    image = sitk.GetImageFromArray(values.astype(np.float32)[None])
    image.SetSpacing((1.7, 2.0, 5.0))
    sitk.WriteImage(image, str(tmp_path / "slice.nrrd"))
    return tmp_path / "slice.nrrd"


def test_the_labels_of_a_slice_are_those_of_nnunet(tmp_path: Path, a_slice: Path) -> None:
    pytest.importorskip("nnunetv2")
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trained = write_folder(tmp_path / "trained", plans(axes=2), trained=True)
    any_model.add(trained, "flat")
    report = any_model.segment(Request(a_slice, tmp_path / "out", "flat", device="cpu")).report
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained), (0, 1))
    values, properties = predictor.plans_manager.image_reader_writer_class().read_images([str(a_slice)])
    expected = predictor.predict_single_npy_array(values, dict(properties))
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "segmentation.seg.nrrd")))
    assert report["unit"] == "mm2" and len(np.unique(expected)) > 1
    # The mean of probabilities, and nnU-Net's of logits, can differ in the most probable class of a few pixels.
    assert (found != expected).mean() < 0.02


def test_a_slice_is_refused_by_a_network_of_three_axes(tmp_path: Path, a_slice: Path) -> None:
    pytest.importorskip("nnunetv2")
    any_model.add(write_folder(tmp_path / "trained", plans()), "deep")
    with pytest.raises(GeometryError, match="26 x 40 x 1 voxels; give a volume of several slices"):
        any_model.segment(Request(a_slice, tmp_path / "out", "deep", device="cpu"))


def test_a_slice_across_those_of_the_network_is_refused(tmp_path: Path, a_slice: Path) -> None:
    image = sitk.ReadImage(str(a_slice), sitk.sitkFloat32)
    for number, transposed in enumerate((False, True)):
        orders = {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]} if transposed else {}
        trained = write_folder(tmp_path / f"trained{number}", {**plans(axes=2), **orders}, dataset())
        model = read_model(any_model.add(trained, f"flat{number}"))
        if transposed:
            with pytest.raises(GeometryError, match="lies across the slices that the model sees"):
                required_bytes(model, [image], on_cpu=True)
        else:
            assert required_bytes(model, [image], on_cpu=True) > 0
