"""A run of a converted nnU-Net gives the logits and labels of nnU-Net's own predictor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunet_folders import dataset, plans, random_network, write_folder

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import GeometryError, InputError, ModelError
from diffusion_segmentation.nnunet import run_warnings
from diffusion_segmentation.nnunet.model import read_model
from diffusion_segmentation.nnunet.network import FoldNetwork
from diffusion_segmentation.nnunet.prediction import Prediction
from diffusion_segmentation.runtime import terminal
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation import outputs, watershed
from diffusion_segmentation.segmentation.request import Progress, Request
from diffusion_segmentation.segmentation.run_control import RunControl
from diffusion_segmentation.segmentation.uncertain_regions import Ranking

pytest.importorskip("nnunetv2")

CPU = torch.device("cpu")
TURNED = (0.8, -0.6, 0, 0, 0, -1, 0.6, 0.8, 0)
"""Oblique directions whose axes are not in the order of the patient's."""


def changed(axes: int = 3, residual: bool = False, **top: Any) -> dict[str, Any]:
    return {**plans(axes, residual), **top}


TURNED_PLANS = {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]}
CT = plans()
CT["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"]
TORCH = plans()
for what, is_seg in (("data", False), ("seg", True), ("probabilities", False)):
    TORCH["configurations"]["3d_fullres"][f"resampling_fn_{what}"] = "resample_torch_fornnunet"
    TORCH["configurations"]["3d_fullres"][f"resampling_fn_{what}_kwargs"] = {
        "is_seg": is_seg,
        "force_separate_z": False,
    }
MASKED = plans()
MASKED["configurations"]["3d_fullres"]["use_mask_for_norm"] = [True]
VARIANTS = {
    "plain": plans(),
    "residual": plans(residual=True),
    "2d": plans(axes=2),
    "CT": CT,
    "masked": MASKED,
    "torch": TORCH,
    "transposed": changed(**TURNED_PLANS),
    "reoriented": changed(image_reader_writer="SimpleITKIOWithReorient"),
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


@pytest.fixture(scope="module")
def a_volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball in zeros: anisotropic, oblique, 26 x 40 x 18 voxels."""
    k, j, i = np.ogrid[:18, :40, :26]
    radius = np.sqrt(((k - 8) / 8) ** 2 + ((j - 20) / 15) ** 2 + ((i - 12) / 11) ** 2)
    noise = np.random.default_rng(0).standard_normal((18, 40, 26))
    image = sitk.GetImageFromArray(((60 + 10 * noise + 40 * (radius < 0.4)) * (radius < 1)).astype(np.float32))
    image.SetSpacing((1.7, 2.0, 5.0))
    image.SetOrigin((-30.0, 11.0, 4.0))
    image.SetDirection(TURNED)
    path = tmp_path_factory.mktemp("volumes") / "ball.nrrd"
    sitk.WriteImage(image, str(path))
    return path


def predictor_of(folder: Path, folds: tuple[int, ...]) -> Any:
    """nnU-Net's own predictor."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    return predictor


def nnunet_logits(predictor: Any, volume: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Logits and labels of nnU-Net's predictor, read by nnU-Net's reader; labels on the grid that it read."""
    reader = predictor.plans_manager.image_reader_writer_class()
    values, properties = reader.read_images([str(volume)])
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    settings = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    data = preprocessor.run_case_npy(values, None, dict(properties), *settings)[0]
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    return logits, predictor.predict_single_npy_array(values, dict(properties))


def labels_on_grid(variant: str, labels: np.ndarray, volume: Path) -> np.ndarray:
    """Labels on the grid of the volume; nnU-Net's own writer turns reoriented ones back."""
    if variant != "reoriented":
        return labels
    image = sitk.ReadImage(str(volume))
    turned = sitk.GetImageFromArray(labels.astype(np.uint8))
    turned.CopyInformation(sitk.DICOMOrient(image, "RAS"))
    resampled = sitk.Resample(turned, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    return sitk.GetArrayFromImage(resampled)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_labels_of_each_fold_are_those_of_nnunet(variant: str, tmp_path: Path, a_volume: Path) -> None:
    trained = write_folder(tmp_path / "trained", VARIANTS[variant], trained=True)
    model = read_model(any_model.add(trained, "mine"))
    image = sitk.ReadImage(str(a_volume), sitk.sitkFloat32)
    prediction = Prediction(model, CPU, RunControl(lambda _: None, lambda: None), lambda done, of: None)
    case = prediction.preprocessed([image])
    for number, fold in enumerate(model.folds):
        logits = prediction.logits(case, fold)
        expected, labels = nnunet_logits(predictor_of(trained, (number,)), a_volume)
        assert logits.shape == expected.shape and logits.std() > 0.1
        difference = float((logits.float() - expected.float()).abs().max())
        print(
            f"{variant}, fold {number}: logits differ by {difference:g}, their deviation is {logits.float().std():.3g}"
        )
        assert difference <= 1e-4
        p = prediction.probabilities(case, logits)
        assert p.shape == (3, 18, 40, 26) and np.abs(p.sum(0) - 1).max() < 1e-5
        assert len(np.unique(labels)) > 1, "the comparison would be idle"
        np.testing.assert_array_equal(p.argmax(0), labels_on_grid(variant, labels, a_volume))


def test_two_inputs_give_the_logits_of_nnunet_in_the_order_of_the_model(tmp_path: Path, a_volume: Path) -> None:
    content = plans()
    content["configurations"]["3d_fullres"] |= {
        "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
        "use_mask_for_norm": [False, False],
    }
    content["foreground_intensity_properties_per_channel"]["1"] = {
        **content["foreground_intensity_properties_per_channel"]["0"],
        "mean": 30.0,
    }
    trained = write_folder(tmp_path / "trained", content, dataset(channels=("T1", "FLAIR")), ("0",), trained=True)
    any_model.add(trained, "two")
    first = sitk.ReadImage(str(a_volume), sitk.sitkFloat32)
    second = sitk.Flip(first, (False, True, False))
    second.CopyInformation(first)
    sitk.WriteImage(second + 5, str(tmp_path / "flair.nrrd"))
    files = {"flair": tmp_path / "flair.nrrd", "t1": a_volume}
    any_model.segment(Request(files, tmp_path / "out", "two", device="cpu"))
    predictor = predictor_of(trained, (0,))
    values, properties = predictor.plans_manager.image_reader_writer_class().read_images(
        [str(a_volume), str(tmp_path / "flair.nrrd")]
    )
    expected = predictor.predict_single_npy_array(values, dict(properties))
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "segmentation.seg.nrrd")))
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)
    swapped = predictor.predict_single_npy_array(values[::-1].copy(), dict(properties))
    assert (swapped != expected).any()
    with pytest.raises(InputError, match="The input 'FLAIR' is missing"):
        any_model.segment(Request(a_volume, tmp_path / "one", "two", device="cpu"))
    assert not (tmp_path / "one").exists()


def test_a_checkpoint_of_a_real_trainer_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path))
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = write_folder(tmp_path / "trained", folds=("0",))
    trainer = nnUNetTrainer({**plans(), "continue_training": False}, "3d_fullres", 0, dataset(), device=CPU)
    trainer.network = random_network(plans(), 0)
    trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
    trainer.inference_allowed_mirroring_axes = (0, 1, 2)
    trainer.logger.log("mean_fg_dice", np.float64(0.5), 0)
    trainer.logger.log("dice_per_class_or_region", [np.float32(0.5)], 0)
    trainer.save_checkpoint(str(folder / "fold_0/checkpoint_final.pth"))
    model = read_model(any_model.add(folder, "real"))
    network = FoldNetwork(model)
    network.load(model.folds[0])
    expected = trainer.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.module.state_dict().items())


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """Name of an installed nnU-Net with two folds."""
    any_model.add(write_folder(tmp_path / "trained", trained=True), "mine")
    return "mine"


def test_a_run_has_the_mean_of_the_folds_and_their_masks_as_samples(
    installed: str, tmp_path: Path, a_volume: Path
) -> None:
    seen: list[Progress] = []
    request = Request(a_volume, tmp_path / "result", installed, keep_samples=True)
    report = any_model.segment(request, seen.append).report
    files = {path.name for path in (tmp_path / "result").iterdir()}
    assert files == {
        "segmentation.seg.nrrd",
        "entropy.nrrd",
        "mutual_information.nrrd",
        "disagreement.nrrd",
        "probabilities.seq.nrrd",
        "regions.nrrd",
        "samples.seq.nrrd",
        "report.json",
    }
    assert json.loads((tmp_path / "result/report.json").read_text()) == report
    assert (report["samples"], report["requested_samples"], report["map_source"]) == (2, 2, "folds")
    assert report["folds"]["names"] == ["0", "1"] and report["folds"]["configuration"] == "3d_fullres"
    assert report["model"]["name"] == "mine" and "not samples of the possible masks" in report["warnings"][0]
    assert [volume["name"] for volume in report["volumes"]] == ["ball", "core"]
    for volume in report["volumes"]:
        assert volume["interval50_ml"] is volume["interval90_ml"] is None and volume["method"] == "range"
        assert volume["range_ml"] == [min(volume["samples_ml"]), max(volume["samples_ml"])]
    assert run_warnings.NOT_AXIAL in report["warnings"]  # the slices of the volume are stacked from anterior
    assert "range of folds ml" in terminal.summary(report, tmp_path)
    assert "2 folds of Dataset001_Ball (nnU-Net 3d_fullres), on cpu." in terminal.summary(report, tmp_path)
    assert report["seed"] is None and not any("no effect" in warning for warning in report["warnings"])
    assert {"nnunetv2", "dynamic-network-architectures", "torch"} <= set(report["versions"])
    steps = [p for p in seen if p.stage == "sampling" and p.steps]
    assert {p.sample for p in steps} == {1, 2} and all(p.samples == 2 and p.step <= p.steps for p in steps)
    assert steps[-1].step == steps[-1].steps and steps[-1].seconds_left == pytest.approx(0, abs=0.1)

    def read(name: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "result" / name)))

    model = read_model(tmp_path / "installed" / "mine")
    prediction = Prediction(model, CPU, RunControl(lambda _: None, lambda: None), lambda done, of: None)
    case = prediction.preprocessed([sitk.ReadImage(str(a_volume), sitk.sitkFloat32)])
    folds = np.stack([prediction.probabilities(case, prediction.logits(case, fold)) for fold in model.folds])

    def bits_of(p: np.ndarray) -> np.ndarray:
        return -(p * np.log2(np.maximum(p, 1e-30))).sum(-4)

    bits = bits_of(folds.mean(0))
    np.testing.assert_allclose(read("entropy.nrrd"), bits, atol=1e-4)
    information = bits - bits_of(folds).mean(0)
    np.testing.assert_allclose(read("mutual_information.nrrd"), np.maximum(information, 0), atol=1e-4)
    np.testing.assert_array_equal(read("segmentation.seg.nrrd"), folds.mean(0).argmax(0))


def test_a_seam_is_as_wide_as_voxels_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A boundary that the network sees at 4 mm is uncertain over some voxels of 1 mm and still not reviewable."""
    coarse = plans()
    coarse["configurations"]["3d_fullres"]["spacing"] = [5.0, 4.0, 4.0]
    any_model.add(write_folder(tmp_path / "trained", coarse, trained=True), "coarse")
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((30, 30, 30), np.float32))
    sitk.WriteImage(image, str(tmp_path / "noise.nrrd"))
    seen: list[Any] = []

    def ranking(*arguments: Any) -> Ranking:
        seen.append(arguments[4])
        return Ranking(*arguments)

    def watershed_regions(error: np.ndarray, spacing_mm: Any, *settings: float) -> np.ndarray:
        seen.append(spacing_mm)
        return watershed.watershed_regions(error, spacing_mm, *settings)

    monkeypatch.setattr(outputs, "Ranking", ranking)
    monkeypatch.setattr(outputs, "watershed_regions", watershed_regions)
    report = any_model.segment(Request(tmp_path / "noise.nrrd", tmp_path / "result", "coarse")).report
    assert report["working_spacing_mm"] == 4.0
    assert seen == [(1.0, 1.0, 1.0), (9, 9, 9)]  # regions are sought on the grid of the volume


def test_one_fold_has_entropy_but_no_samples(tmp_path: Path, a_volume: Path) -> None:
    any_model.add(write_folder(tmp_path / "trained", folds=("all",), trained=True), "single")
    report = any_model.segment(Request(a_volume, tmp_path / "result", "single")).report
    assert report["samples"] == 0 and report["folds"]["names"] == ["all"]
    assert report["volumes"][0]["interval90_ml"] is None and "no volume intervals" in report["warnings"][0]
    assert "range_ml" not in report["volumes"][0] and "One fold of Dataset001" in terminal.summary(report, tmp_path)
    assert not (tmp_path / "result/mutual_information.nrrd").exists()


def test_finished_folds_become_the_result_if_a_run_is_stopped(installed: str, tmp_path: Path, a_volume: Path) -> None:
    seen: list[Progress] = []

    def cancel() -> str | None:
        return "keep" if any(p.sample == 2 for p in seen) else None

    outcome = any_model.segment(Request(a_volume, tmp_path / "result", installed), seen.append, cancel=cancel)
    assert outcome.partial and outcome.report["folds"]["names"] == ["0"]
    assert outcome.report["requested_samples"] == 2


def test_previews_are_written_between_folds(installed: str, tmp_path: Path, a_volume: Path) -> None:
    previews: list[Any] = []
    request = Request(a_volume, tmp_path / "result", installed, previews=True)
    (tmp_path / "result").mkdir()
    any_model.segment(request, preview=previews.append)
    assert [preview.samples for preview in previews] == [1] and previews[0].entropy.is_file()


def test_a_volume_of_less_than_a_voxel_of_the_network_is_refused(installed: str, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((4, 4, 4), np.float32))
    image.SetSpacing((0.3, 0.3, 0.3))
    sitk.WriteImage(image, str(tmp_path / "tiny.nrrd"))
    with pytest.raises(GeometryError, match="smaller than one voxel"):
        any_model.segment(Request(tmp_path / "tiny.nrrd", tmp_path / "result", installed))


def test_weights_of_another_network_are_refused(tmp_path: Path, a_volume: Path) -> None:
    any_model.add(write_folder(tmp_path / "trained"), "other")  # stand-ins for weights
    with pytest.raises(ModelError, match="do not fit its metadata"):
        any_model.segment(Request(a_volume, tmp_path / "result", "other"))


@pytest.mark.parametrize("size", [1e6, 1e30])
def test_weights_that_give_no_numbers_are_refused(size: float, tmp_path: Path, a_volume: Path) -> None:
    trained = write_folder(tmp_path / "trained", folds=("0",), trained=True)
    path = trained / "fold_0/checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["network_weights"]["decoder.seg_layers.0.weight"].mul_(size)
    torch.save(content, path)
    any_model.add(trained, "large")
    with pytest.raises(ModelError, match="gives no numbers for this volume"):
        any_model.segment(Request(a_volume, tmp_path / "result", "large"))


def test_a_missing_fold_is_noticed_before_the_first_one_runs(
    installed: str, root: Path, tmp_path: Path, a_volume: Path
) -> None:
    (root / installed / "fold_1.safetensors").unlink()
    seen: list[Progress] = []
    with pytest.raises(ModelError, match="The weights of the model 'mine' are incomplete; copy"):
        any_model.segment(Request(a_volume, tmp_path / "result", installed), seen.append)
    assert {progress.stage for progress in seen} == {"reading", "model"}


def test_altered_weights_are_refused(installed: str, root: Path, tmp_path: Path, a_volume: Path) -> None:
    file = root / installed / "fold_1.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelError, match="differ from their checksum"):
        any_model.segment(Request(a_volume, tmp_path / "result", installed))


def test_nothing_is_printed_on_stdout(installed: str, tmp_path: Path, a_volume: Path, capfd: Any) -> None:
    any_model.segment(Request(a_volume, tmp_path / "result", installed))
    assert capfd.readouterr().out == ""
