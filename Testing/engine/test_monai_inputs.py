"""Bundles of several inputs are run as MONAI runs them, with their inputs in the order of the bundle."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from monai_bundles import SCALED, SPACING, inference, metadata, transforms, write_bundle
from monai_comparison import CROP, NORMALISED, compare, prediction_of, write_ball

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import InputError, ModelError
from diffusion_segmentation.images.case_files import Volumes
from diffusion_segmentation.monai_bundle.model import read_model
from diffusion_segmentation.monai_bundle.run import required_bytes
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.request import Request

NAMES = ("T1", "FLAIR")


def of_two_inputs(*between: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose network has two inputs."""
    config = inference(preprocessing=transforms(*between))
    config["network_def"]["in_channels"] = 2
    return config


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("volumes")
    return write_ball(folder / "t1.nii.gz"), write_ball(folder / "flair.nii.gz", seed=1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "between",
    [(SPACING, SCALED), (CROP, NORMALISED, SPACING), ({**NORMALISED, "channel_wise": False}, SPACING)],
    ids=["scaled", "crop", "together"],
)
def test_logits_and_labels_of_two_inputs_are_those_of_monai(
    between: tuple[dict[str, Any], ...], tmp_path: Path, volumes: tuple[Path, Path]
) -> None:
    bundle = write_bundle(tmp_path / "bundle", of_two_inputs(*between), metadata(inputs=NAMES))
    compare(any_model.add(bundle, "two"), bundle, "two inputs", *volumes)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Folder of an installed bundle of two inputs, whose reading says where they lie in a file."""
    config = of_two_inputs(SCALED)  # with Spacingd, rounding of a direction in a header could move the grid
    config["preprocessing"]["transforms"][1] |= {"channel_dim": -1}
    return any_model.add(write_bundle(tmp_path / "bundle", config, metadata(inputs=NAMES)), "two")


@pytest.mark.slow
def test_inputs_are_given_in_order_by_name_or_in_one_file(
    installed: Path, tmp_path: Path, volumes: tuple[Path, Path]
) -> None:
    assert read_model(installed).section["inputs"] == [{"name": "T1"}, {"name": "FLAIR"}]
    images = [sitk.ReadImage(str(path), sitk.sitkFloat32) for path in volumes]
    four = sitk.JoinSeries(images)
    sitk.WriteImage(four, str(tmp_path / "both.nii.gz"))
    prediction = prediction_of(installed)
    labels = prediction.probabilities(prediction.logits(prediction.preprocessed(images))).argmax(0)
    exchanged = prediction.probabilities(prediction.logits(prediction.preprocessed(images[::-1]))).argmax(0)
    assert (labels != exchanged).any(), "the comparison would be idle"
    cases: tuple[Volumes, ...] = (volumes, {"flair": volumes[1], "t1": volumes[0]}, tmp_path / "both.nii.gz")
    for number, files in enumerate(cases):
        output = tmp_path / f"result{number}"
        report = any_model.segment(Request(files, output, "two")).report
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(output / "segmentation.seg.nrrd")))
        np.testing.assert_array_equal(written, labels)
        assert list(report["input"]["further_sha256"]) == ["FLAIR"]


def test_a_missing_input_is_named(installed: Path, tmp_path: Path, volumes: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="input 'FLAIR' is missing: the model has the inputs T1, FLAIR"):
        any_model.segment(Request(volumes[0], tmp_path / "result", "two"))


def test_every_input_needs_memory(installed: Path, volumes: tuple[Path, Path]) -> None:
    model, image = read_model(installed), sitk.ReadImage(str(volumes[0]), sitk.sitkFloat32)
    needed = [required_bytes(model, [image] * count, on_cpu=True) for count in (2, 8)]
    assert needed[1] - needed[0] >= 6 * 4 * image.GetNumberOfPixels()


@pytest.mark.parametrize(
    ("inputs", "change", "words"),
    [
        (("T1",), {}, "no names of its 2 inputs in its metadata.json"),
        (("T1", "T2", "FLAIR"), {}, "no names of its 2 inputs in its metadata.json"),
        (NAMES, {**NORMALISED, "subtrahend": [1.0, 2.0]}, "value for 'subtrahend' of NormalizeIntensityd"),
        (NAMES, {"_target_": "EnsureChannelFirstd", "channel_dim": 1}, "value for 'channel_dim'"),
        (NAMES, {"_target_": "ConcatItemsd", "name": "image"}, "'ConcatItemsd' in its preprocessing"),
        (NAMES, {**SPACING, "keys": ["t1", "flair"]}, "not for 'image' alone"),
    ],
)
def test_inputs_that_cannot_be_run_are_refused_in_one_sentence(
    inputs: tuple[str, ...], change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = of_two_inputs(*([copy.deepcopy(change)] if change else []))
    with pytest.raises(ModelError) as caught:
        any_model.add(write_bundle(tmp_path / "bundle", config, metadata(inputs=inputs)))
    assert words in str(caught.value) and str(caught.value).count(". ") == 0


def test_a_single_input_needs_no_name(tmp_path: Path) -> None:
    folder = any_model.add(write_bundle(tmp_path / "bundle", described=metadata(inputs=())), "one")
    assert read_model(folder).section["inputs"] == [{"name": "Image 1"}]
