"""Trained folders of nnU-Net are converted once, into models whose files are checked whenever they are read."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_folders import checkpoint, dataset, plans, stand_in_weights, write_folder
from safetensors.torch import load_file

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import DiffusionSegmentationError, ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model import installed
from diffusion_segmentation.nnunet import library
from diffusion_segmentation.nnunet.model import read_model
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.request import Request


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


def test_a_folder_becomes_a_model_that_is_listed_found_and_removed(tmp_path: Path, root: Path) -> None:
    trained = write_folder(tmp_path / "trained", folds=("0", "3"))
    folder = any_model.add(trained)
    assert folder == root / "Dataset001_Ball-3d_fullres" == models.find(folder.name)
    assert {path.name for path in folder.iterdir()} == {
        "metadata.json",
        "source.json",
        "fold_0.safetensors",
        "fold_3.safetensors",
    }
    model = read_model(folder)
    assert model.section["kind"] == "nnunet" and [fold["name"] for fold in model.folds] == ["0", "3"]
    assert [label["name"] for label in model.labels] == ["ball", "core"]
    assert model.settings["trainer"] == "nnUNetTrainer" and model.settings["mirror_axes"] == [0, 1, 2]
    [listed] = [m for m in installed.installed() if m["diffusion_segmentation"]["name"] == folder.name]
    assert listed["installed"]["source"] == str(trained.resolve())
    assert installed.remove(folder.name) == folder and not folder.exists()


def test_each_tensor_is_stored_once_and_unchanged(tmp_path: Path) -> None:
    folder = any_model.add(write_folder(tmp_path / "trained"), "mine")
    for n in range(2):
        weights, stored = stand_in_weights(n), load_file(folder / f"fold_{n}.safetensors")
        assert set(stored) == {
            "encoder.stages.0.0.convs.0.conv.weight",
            "encoder.stages.0.0.convs.0.norm.weight",
            "decoder.seg_layers.0.weight",
        }
        assert all(torch.equal(tensor, weights[name]) for name, tensor in stored.items())


def test_a_converted_folder_can_be_added_elsewhere(tmp_path: Path, root: Path) -> None:
    folder = any_model.add(write_folder(tmp_path / "trained"), "mine")
    assert any_model.add(folder, "copy") == root / "copy"
    assert read_model(root / "copy").section["sha256"] == read_model(folder).section["sha256"]


@pytest.mark.parametrize("kind", ["zip", "gztar"])
@pytest.mark.parametrize("inner", [".", "Dataset001_Ball/nnUNetTrainer__nnUNetPlans__3d_fullres"])
def test_an_archive_of_a_trained_folder_is_converted(kind: str, inner: str, tmp_path: Path, root: Path) -> None:
    trained = write_folder(tmp_path / "packed" / inner, folds=("0", "1"))
    (trained / "crossval_results_folds_0_1").mkdir()
    (trained / "crossval_results_folds_0_1/postprocessing.pkl").write_bytes(b"a pickle")
    (trained / "fold_0/other.txt").write_text("not read")
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), kind, tmp_path / "packed"))
    folder = any_model.add(archive, "mine")
    assert [fold["name"] for fold in read_model(folder).folds] == ["0", "1"]
    assert read_model(folder).section["has_postprocessing"] is True
    assert [path.name for path in root.iterdir()] == ["mine"]
    assert any_model.add(trained, "other") and (
        read_model(root / "other").section["sha256"] == read_model(folder).section["sha256"]
    )


def test_an_archive_of_a_converted_folder_is_no_trained_one(tmp_path: Path, root: Path) -> None:
    folder = any_model.add(write_folder(tmp_path / "trained", folds=("0",)), "mine")
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", folder))
    assert any_model.add(archive, "copy") == root / "copy" and read_model(root / "copy").folds


def test_a_name_that_is_taken_is_refused_before_the_conversion(tmp_path: Path, monkeypatch: Any) -> None:
    trained = write_folder(tmp_path / "trained", folds=("0",))
    any_model.add(trained, "mine")
    monkeypatch.setattr("diffusion_segmentation.nnunet.convert.read_checkpoint", None)
    with pytest.raises(ModelError, match="There is a model 'mine' already"):
        any_model.add(trained, "mine")


def test_altered_weights_are_not_added(tmp_path: Path, root: Path) -> None:
    folder = any_model.add(write_folder(tmp_path / "trained"), "mine")
    moved = folder.rename(tmp_path / "moved")
    data = bytearray((moved / "fold_1.safetensors").read_bytes())
    data[-1] ^= 1
    (moved / "fold_1.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="differ from their checksum"):
        any_model.add(moved)


def test_ignored_labels_are_left_out_and_single_ones_in_lists_are_labels(tmp_path: Path) -> None:
    labels = {"background": 0, "ball": [1], "core": 2, "ignore": 3}
    folder = any_model.add(write_folder(tmp_path / "trained", dataset_json=dataset(labels)), "mine")
    assert [label["name"] for label in read_model(folder).labels] == ["ball", "core"]


def test_all_is_a_fold_if_there_is_no_other(tmp_path: Path) -> None:
    single = any_model.add(write_folder(tmp_path / "single", folds=("all",)), "single")
    both = any_model.add(write_folder(tmp_path / "both", folds=("all", "0")), "both")
    assert [[f["name"] for f in read_model(f).folds] for f in (single, both)] == [["all"], ["0"]]


def test_plans_of_old_versions_are_read(tmp_path: Path) -> None:
    old = plans()
    configuration = old["configurations"]["3d_fullres"]
    del configuration["architecture"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [1, 2],
        "n_conv_per_stage_decoder": [1],
        "num_pool_per_axis": [1, 1, 1],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    }
    network = read_model(any_model.add(write_folder(tmp_path / "trained", old), "mine")).settings["network"]
    assert network["features_per_stage"] == [4, 6] and network["norm"] == "instance"


def test_inherited_configurations_are_resolved(tmp_path: Path) -> None:
    inheriting = plans()
    full = inheriting["configurations"].pop("3d_fullres")
    inheriting["configurations"] = {"3d_lowres": {"inherits_from": "base", "spacing": [5, 5, 5]}, "base": full}
    folder = tmp_path / "trained"
    path = folder / "fold_0"
    path.mkdir(parents=True)
    init = {"configuration": "3d_lowres", "plans": inheriting, "dataset_json": dataset()}
    content = checkpoint(stand_in_weights(0), plans(), 0, init_args=init)
    torch.save(content, path / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(inheriting))
    (folder / "dataset.json").write_text(json.dumps(dataset()))
    settings = read_model(any_model.add(folder, "mine")).settings
    assert settings["spacing_mm"] == [5, 5, 5] and settings["patch_size"] == [16, 24, 16]


def test_without_nnunet_a_run_says_how_to_install_it(
    tmp_path: Path, a_head_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_model.add(write_folder(tmp_path / "trained"), "mine")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'nnunetv2 that runs it is missing; .*: pip install "nnunetv2>=2.5,<3"$'):
        any_model.segment(Request(a_head_file, tmp_path / "result", "mine"))


@pytest.mark.parametrize(("version", "suits"), [("2.4.2", False), ("2.5", True), ("2.10.1", True), ("3.0a1", False)])
def test_the_version_of_nnunet_is_checked(version: str, suits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    if suits:
        library.require_nnunetv2()
    else:
        with pytest.raises(ModelError, match=f"Version {version} of nnunetv2 cannot run this model; install it"):
            library.require_nnunetv2()


def test_the_package_that_messages_name_is_that_of_the_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["nnunet"] == [library.REQUIREMENT]


def test_what_needs_a_denoiser_refuses_an_nnunet(tmp_path: Path) -> None:
    folder = any_model.add(write_folder(tmp_path / "trained"), "mine")
    with pytest.raises(DiffusionSegmentationError, match="`segment` can run it"):
        models.load(folder)


def test_metadata_of_an_nnunet_are_validated(tmp_path: Path) -> None:
    folder = any_model.add(write_folder(tmp_path / "trained"), "mine")
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["diffusion_segmentation"]["nnunet"]["network"]["class"] = "os.system"
    path.write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match="wrong in its entry 'nnunet'"):
        read_model(folder)
    metadata["diffusion_segmentation"]["kind"] = "other"
    path.write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match="wrong in its entry 'kind'"):
        read_model(folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("nnunet", "transpose"), [2, 1, 0]),
        (("nnunet", "mirror_axes"), []),
        (("labels", 0, "name"), "core"),
        (("inputs", 0, "name"), "CT"),
        (("folds",), []),
    ],
    ids=str,
)
def test_edited_metadata_are_refused(place: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    folder = any_model.add(write_folder(tmp_path / "trained"), "mine")
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text())
    part = metadata["diffusion_segmentation"]
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value or part[place[-1]][:1]
    path.write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match=r"metadata.json of the model 'mine' differs from its checksum; copy"):
        read_model(folder)
    assert "mine" not in [m["diffusion_segmentation"]["name"] for m in installed.installed()]
