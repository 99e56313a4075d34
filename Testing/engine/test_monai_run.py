"""A run of a converted bundle gives the logits and labels of MONAI's own parser, transforms and inferer."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai_bundles import (
    NETWORKS,
    SCALED,
    SPACING,
    inference,
    metadata,
    network,
    postprocessing,
    random_network,
    transforms,
    write_bundle,
)
from monai_comparison import CROP, NORMALISED, compare, prediction_of, write_ball

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import Cancelled, GeometryError, ModelError
from diffusion_segmentation.monai_bundle.prediction import Prediction
from diffusion_segmentation.runtime import memory, terminal
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.request import Progress, Request

PERCENTILES = {
    "_target_": "ScaleIntensityRangePercentilesd",
    **{"lower": 1, "upper": 99, "b_min": -1, "b_max": 1, "clip": True, "channel_wise": True},
}
WINDOWS = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 3}


def oriented(axcodes: str) -> dict[str, Any]:
    return {"_target_": "Orientationd", "axcodes": axcodes}


SIGMOID = inference(postprocessing=postprocessing(sigmoid=True))
SIGMOID["network_def"]["out_channels"] = 1
SIMPLE = inference(inferer={"_target_": "SimpleInferer"}, preprocessing=transforms(CROP, SCALED))
SIMPLE["preprocessing"]["transforms"][2] |= {"k_divisible": [4, 4, 4]}
VARIANTS: dict[str, dict[str, Any]] = {
    **{
        name: inference(
            network_def=network(name), inferer={**WINDOWS, "roi_size": [64 if name == "SwinUNETR" else 32, 32, 32]}
        )
        for name in NETWORKS
    },
    "sigmoid": SIGMOID,
    "simple": SIMPLE,
    "gaussian": inference(inferer={**WINDOWS, "mode": "gaussian", "padding_mode": "replicate", "overlap": 0.625}),
    "whole axis": inference(inferer={**WINDOWS, "roi_size": [16, 16, 28]}),
    "nearest": inference(postprocessing=postprocessing(nearest=True)),
    "crop": inference(preprocessing=transforms(CROP, NORMALISED, SPACING)),
    "percentiles": inference(preprocessing=transforms({**SPACING, "pixdim": [3.0, -1, 4.0]}, PERCENTILES)),
    "intensity": inference(preprocessing=transforms({"_target_": "ScaleIntensityd", "minv": -1.0}, SPACING)),
    "RAS": inference(preprocessing=transforms(oriented("RAS"), SPACING, SCALED)),
    "PLI": inference(preprocessing=transforms(CROP, SPACING, oriented("PLI"), SCALED)),
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


@pytest.fixture(scope="module")
def a_volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ball(tmp_path_factory.mktemp("volumes") / "ball.nii.gz")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", [pytest.param(v, marks=pytest.mark.slow if v == "VNet" else ()) for v in VARIANTS])
def test_logits_and_labels_are_those_of_monai(variant: str, tmp_path: Path, a_volume: Path) -> None:
    names = ("ball",) if variant == "sigmoid" else ("background", "ball", "core")
    bundle = write_bundle(tmp_path / "bundle", VARIANTS[variant], metadata(names))
    compare(any_model.add(bundle, "mine"), bundle, variant, a_volume)


def test_weights_within_a_checkpoint_give_the_same(tmp_path: Path, a_volume: Path) -> None:
    state = random_network(inference()["network_def"]).state_dict()
    image = sitk.ReadImage(str(a_volume), sitk.sitkFloat32)
    results = []
    for n, content in enumerate((state, {"model": state, "epoch": 3}, {"state_dict": state})):
        bundle = write_bundle(tmp_path / f"bundle{n}", weights=content)
        prediction = prediction_of(any_model.add(bundle, f"model{n}"))
        results.append(prediction.logits(prediction.preprocessed([image])))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """Name of an installed bundle."""
    any_model.add(write_bundle(tmp_path / "bundle"), "mine")
    return "mine"


@pytest.mark.slow
def test_a_run_has_the_labels_and_entropy_of_the_class_probabilities(
    installed: str, root: Path, tmp_path: Path, a_volume: Path
) -> None:
    seen: list[Progress] = []
    request = Request(a_volume, tmp_path / "result", installed, keep_samples=True, samples=5)
    report = any_model.segment(request, seen.append).report
    files = {path.name for path in (tmp_path / "result").iterdir()}
    assert files == {
        "segmentation.seg.nrrd",
        "entropy.nrrd",
        "probabilities.seq.nrrd",
        "regions.nrrd",
        "report.json",
    }
    assert json.loads((tmp_path / "result/report.json").read_text()) == report
    assert (report["samples"], report["requested_samples"], report["map_source"]) == (0, 1, "network")
    assert report["network"] == {"class": "UNet", "bundle": "0.2.0"}
    assert report["model"]["title"] == "Ball and core (MONAI UNet)" and "no volume intervals" in report["warnings"][0]
    assert [volume["name"] for volume in report["volumes"]] == ["ball", "core"]
    assert report["volumes"][0]["interval90_ml"] is None and report["seed"] is None
    assert "number of samples that was set had no effect" in report["warnings"][1]
    assert report["working_spacing_mm"] == 2.0 and "monai" in report["versions"]
    assert "By Ball and core (MONAI UNet), on cpu." in terminal.summary(report, tmp_path)
    stages = list(dict.fromkeys(p.stage for p in seen))
    assert stages == ["reading", "model", "encoding", "sampling", "writing"]
    steps = [p for p in seen if p.stage == "sampling" and p.steps]
    assert steps[-1].step == steps[-1].steps > 1 and steps[-1].seconds_left == pytest.approx(0, abs=0.1)
    prediction = prediction_of(root / "mine")
    image = sitk.ReadImage(str(a_volume), sitk.sitkFloat32)
    p = prediction.probabilities(prediction.logits(prediction.preprocessed([image])))

    def read(name: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "result" / name)))

    bits = -(p * np.log2(np.maximum(p, 1e-30))).sum(0)
    np.testing.assert_allclose(read("entropy.nrrd"), bits, atol=1e-4)
    np.testing.assert_array_equal(read("segmentation.seg.nrrd"), p.argmax(0))


@pytest.mark.parametrize("answer", ["drop", "keep"])
def test_a_run_is_cancelled_between_windows(answer: str, installed: str, tmp_path: Path, a_volume: Path) -> None:
    passes: list[Progress] = []

    def cancel() -> str | None:
        return answer if len([p for p in passes if p.stage == "sampling" and p.steps]) >= 2 else None

    with pytest.raises(Cancelled):
        any_model.segment(Request(a_volume, tmp_path / "result", installed), passes.append, cancel=cancel)
    assert len([p for p in passes if p.steps]) == 2 and not (tmp_path / "result").exists()


def test_a_run_that_does_not_fit_into_memory_is_refused(
    installed: str, tmp_path: Path, a_volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 10**6)
    with pytest.raises(Exception, match="needs about .* GB of memory") as caught:
        any_model.segment(Request(a_volume, tmp_path / "result", installed))
    assert caught.value.kind == "memory"


@pytest.mark.slow
def test_a_volume_of_less_than_two_voxels_of_the_network_is_segmented(installed: str, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((4, 4, 4), np.float32))
    image.SetSpacing((0.3, 0.3, 0.3))
    sitk.WriteImage(image, str(tmp_path / "tiny.nrrd"))
    report = any_model.segment(Request(tmp_path / "tiny.nrrd", tmp_path / "result", installed)).report
    assert report["input"]["size_ijk"] == [4, 4, 4]


def test_a_volume_without_foreground_is_refused(tmp_path: Path) -> None:
    any_model.add(write_bundle(tmp_path / "bundle", VARIANTS["crop"]), "crop")
    values = -np.random.default_rng(0).random((20, 20, 20), np.float32) - 1
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "dark.nrrd"))
    with pytest.raises(GeometryError, match="no voxel above 0"):
        any_model.segment(Request(tmp_path / "dark.nrrd", tmp_path / "result", "crop"))


def test_a_network_that_cannot_see_the_whole_volume_is_refused(tmp_path: Path, a_volume: Path) -> None:
    any_model.add(write_bundle(tmp_path / "bundle", inference(inferer={"_target_": "SimpleInferer"})), "simple")
    with pytest.raises(GeometryError, match="cannot see 22 x 32 x 29 voxels at once"):
        any_model.segment(Request(a_volume, tmp_path / "result", "simple"))


def test_weights_that_give_no_numbers_are_refused(tmp_path: Path, a_volume: Path) -> None:
    state = random_network(inference()["network_def"]).state_dict()
    for name in [name for name in state if name.endswith("conv.weight")]:
        state[name] *= 1e30
    any_model.add(write_bundle(tmp_path / "bundle", weights=state), "large")
    with pytest.raises(ModelError, match="gives no numbers for this volume"):
        any_model.segment(Request(a_volume, tmp_path / "result", "large"))


@pytest.mark.slow
def test_altered_weights_are_refused(installed: str, root: Path, tmp_path: Path, a_volume: Path) -> None:
    file = root / installed / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelError, match="differ from their checksum"):
        any_model.segment(Request(a_volume, tmp_path / "result", installed))
    file.write_bytes(data[:-1])
    with pytest.raises(ModelError, match="weights of the model 'mine' are incomplete"):
        any_model.segment(Request(a_volume, tmp_path / "result", installed))


@pytest.mark.slow
def test_a_run_frees_its_network_and_its_volumes(
    installed: str, tmp_path: Path, a_volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Prediction]] = []

    class Watched(Prediction):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr("diffusion_segmentation.monai_bundle.run.Prediction", Watched)
    gc.disable()
    try:
        any_model.segment(Request(a_volume, tmp_path / "result", installed))
        assert [one() for one in made] == [None]
    finally:
        gc.enable()


@pytest.mark.slow
def test_nothing_is_printed_on_stdout(installed: str, tmp_path: Path, a_volume: Path, capfd: Any) -> None:
    any_model.segment(Request(a_volume, tmp_path / "result", installed))
    assert capfd.readouterr().out == ""
