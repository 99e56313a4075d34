"""A network of nested regions gives class probabilities that agree with nnU-Net's regions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunet_folders import dataset, plans, write_folder

from diffusion_segmentation import any_model
from diffusion_segmentation.nnunet.labels import Labels, read_labels
from diffusion_segmentation.nnunet.regions import class_probabilities
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.request import Request

ORDER = [2, 1, 3]
NESTED = dataset({"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}, order=ORDER)


def test_each_class_is_a_region_without_the_next_one() -> None:
    expected = ["core without enhancing", "whole without core", "enhancing"]
    assert read_labels(NESTED) == Labels(expected, ORDER)
    single = dataset({"background": 0, "lesion": [1, 2], "ignore": 3}, order=[1])
    assert read_labels(single) == Labels(["lesion"], [1])


def test_class_probabilities_sum_to_1_and_keep_nested_regions() -> None:
    p = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    result = class_probabilities(p, ORDER)
    assert result.shape == (4, 4, 5, 6) and result.min() >= 0
    np.testing.assert_allclose(result.sum(0), 1, atol=1e-6)
    nested = np.sort(p, axis=0)[::-1]  # as a consistent network predicts
    result = class_probabilities(nested, ORDER)
    np.testing.assert_allclose(result[[2, 1, 3]].sum(0), nested[0], atol=1e-6)
    np.testing.assert_allclose(result[[1, 3]].sum(0), nested[1], atol=1e-6)
    np.testing.assert_allclose(result[3], nested[2], atol=1e-6)
    impossible = np.array([0.2, 0.9, 0.5], np.float32)[:, None]  # a core outside of the whole
    np.testing.assert_allclose(class_probabilities(impossible, ORDER)[:, 0], [0.8, 0, 0, 0.2], atol=1e-6)


@pytest.mark.parametrize("order", [[1, 1, 3], [1, 2], [0, 1, 2], "123"])
def test_edited_regions_are_refused(order: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion_segmentation.model.metadata import read_metadata, wrong_entry

    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    metadata = read_metadata(any_model.add(write_folder(tmp_path / "trained", dataset_json=NESTED), "mine"))
    metadata["diffusion_segmentation"]["regions"] = order
    assert wrong_entry(metadata) == "regions"


def test_a_run_agrees_with_nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nnunetv2")
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    trained = write_folder(tmp_path / "trained", plans(), NESTED, folds=("0", "1"), trained=True)
    shutil.rmtree(trained / "fold_0")  # the other one predicts all labels
    any_model.add(trained, "mine")
    values = np.random.default_rng(0).random((20, 30, 24), np.float32)
    image = sitk.GetImageFromArray(np.pad(values, 3))
    image.SetSpacing((3.0, 3.0, 4.0))
    sitk.WriteImage(image, str(tmp_path / "noise.nrrd"))
    request = Request(tmp_path / "noise.nrrd", tmp_path / "result", "mine", keep_samples=True)
    report = any_model.segment(request).report

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained), (1,))
    array, properties = sitk.GetArrayFromImage(image)[None], {"spacing": [4.0, 3.0, 3.0]}
    labels, p = predictor.predict_single_npy_array(array, properties, save_or_return_probabilities=True)
    assert set(np.unique(labels)) == {0, 1, 2, 3} and (p[1] > p[0]).any(), "the comparison would be idle"

    expected = class_probabilities(p, ORDER)
    segmentation = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "result/segmentation.seg.nrrd")))
    np.testing.assert_array_equal(segmentation, expected.argmax(0))
    share = 100 * np.mean(expected.argmax(0) != labels)
    assert share > 0 and any(f"differ from nnU-Net's in {share:.2g} % of the voxels" in w for w in report["warnings"])
    assert [volume["name"] for volume in report["volumes"]] == read_labels(NESTED).names
    # Where the regions are consistent and no class is undecided, the labels are those of nnU-Net.
    sure = (np.diff(p, axis=0) <= 0).all(0) & (np.sort(expected, 0)[-1] > 0.5)
    assert sure.any() and (segmentation[sure] == labels[sure]).all()
