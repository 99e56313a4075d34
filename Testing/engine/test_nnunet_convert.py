"""Trained folders of nnU-Net are converted once, or refused in one sentence; a pickle in them never runs."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_folders import checkpoint, dataset, plans, stand_in_weights, write_folder
from safetensors.torch import load_file

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import DiffusionSegmentationError, ModelError
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model import installed
from diffusion_segmentation.nnunet.model import read_model
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.request import Request


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


def refusal(folder: Path, root: Path) -> str:
    """The sentence with which a folder is refused; nothing is left behind."""
    with pytest.raises(ModelError) as caught:
        any_model.add(folder)
    sentence = str(caught.value)
    assert len(re.findall(r"[.?!](?=\s|$)", sentence)) == 1 and sentence.endswith("."), sentence
    assert "\n" not in sentence and len(sentence) < 400
    assert list(root.iterdir()) == []
    return sentence


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
    init = {"configuration": "3d_lowres"}
    content = checkpoint(stand_in_weights(0), plans(), 0, init_args=init)
    torch.save(content, path / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(inheriting))
    (folder / "dataset.json").write_text(json.dumps(dataset()))
    settings = read_model(any_model.add(folder, "mine")).settings
    assert settings["spacing_mm"] == [5, 5, 5] and settings["patch_size"] == [16, 24, 16]


def configured(**changes: Any) -> dict[str, Any]:
    """Plans with other entries of the configuration; `network` and `options` change those of the network."""
    content = copy.deepcopy(plans())
    configuration = content["configurations"]["3d_fullres"]
    configuration["architecture"]["arch_kwargs"] |= changes.pop("options", {})
    configuration["architecture"] |= changes.pop("network", {})
    configuration |= changes
    return content


UNSAFE = "os.system"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "several inputs": ({"dataset_json": dataset(channels=("T1", "FLAIR"))}, "has 2 inputs in its dataset.json and 1"),
    "regions": ({"dataset_json": dataset({"background": 0, "whole": [1, 2], "core": 2})}, "overlapping regions"),
    "gap in the labels": ({"dataset_json": dataset({"background": 0, "ball": 2})}, "labels other than"),
    "no background": ({"dataset_json": dataset({"ball": 1, "core": 2})}, "labels other than"),
    "cascade": ({"plans_json": configured(previous_stage="3d_lowres")}, "second stage of a cascade"),
    "trainer": ({"trainer_name": "nnUNetTrainerMine"}, "was trained by 'nnUNetTrainerMine'"),
    "batch norm trainer": ({"trainer_name": "nnUNetTrainerBN"}, "was trained by 'nnUNetTrainerBN'"),
    "network": ({"plans_json": configured(network={"network_class_name": "my.package.Net"})}, "'my.package.Net'"),
    "code": ({"plans_json": configured(network={"network_class_name": UNSAFE})}, "'os.system' as its network"),
    "layer": ({"plans_json": configured(options={"conv_op": UNSAFE})}, "'os.system' as its layer"),
    "activation": ({"plans_json": configured(options={"nonlin": "torch.nn.Softsign"})}, "'Softsign' as its layer"),
    "option": ({"plans_json": configured(options={"block": UNSAFE})}, "'block' as its option of the network"),
    "preprocessor": ({"plans_json": configured(preprocessor_name="Mine")}, "'Mine' as its preprocessor"),
    "resampling": ({"plans_json": configured(resampling_fn_data=UNSAFE)}, "'os.system' as its resampling"),
    "normalisation": ({"plans_json": configured(normalization_schemes=["Mine"])}, "'Mine' as its normalisation"),
    "reader": ({"plans_json": {**plans(), "image_reader_writer": "Tiff3DIO"}}, "'Tiff3DIO' as its reader"),
    "label manager": ({"plans_json": {**plans(), "label_manager": "Mine"}}, "'Mine' as its label manager"),
    "configuration": ({"init_args": {"configuration": "3d_mine"}}, "plans.json that is incomplete"),
    "circle": ({"plans_json": configured(inherits_from="3d_fullres")}, "in a circle"),
    "window": ({"plans_json": configured(patch_size=[15, 24, 16])}, "entry for 'patch_size'"),
    "one voxel": ({"plans_json": configured(patch_size=[2, 2, 2])}, "entry for 'patch_size'"),
    "wrong types": ({"plans_json": configured(spacing="fine")}, "plans.json|'spacing'"),
    "no number": ({"plans_json": configured(spacing=[float("nan")] * 3)}, "entry for 'spacing'"),
    "no weights": ({"network_weights": {}}, "not one of nnU-Net's"),
    "weights of other types": ({"network_weights": {"a": "b"}}, "not one of nnU-Net's"),
    "expanded weights": ({"network_weights": {"a": torch.ones(1).expand(10**12)}}, "not one of nnU-Net's"),
    "mirroring": ({"inference_allowed_mirroring_axes": (7,)}, "entry for 'mirror_axes'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_refused_in_one_sentence(case: str, tmp_path: Path, root: Path) -> None:
    changes, words = REFUSED[case]
    assert re.search(words, refusal(write_folder(tmp_path / "trained", **changes), root))


def damage_missing_dataset(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def damage_no_fold(folder: Path) -> None:
    for fold in folder.glob("fold_*"):
        fold.rename(folder / fold.name.replace("fold", "old"))


def damage_unfinished_fold(folder: Path) -> None:
    (folder / "fold_1/checkpoint_final.pth").rename(folder / "fold_1/checkpoint_best.pth")


def damage_cut_off(folder: Path) -> None:
    path = folder / "fold_0/checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:-200])


def damage_other_network(folder: Path) -> None:
    weights = {name: torch.zeros(2) for name in stand_in_weights(0)}
    torch.save(checkpoint(weights, plans(), 1), folder / "fold_1/checkpoint_final.pth")


def damage_json(folder: Path) -> None:
    (folder / "plans.json").write_text("[" * 100_000)


def damage_link(folder: Path) -> None:
    path = folder / "fold_0/checkpoint_final.pth"
    path.symlink_to(path.rename(folder / "elsewhere.pth"))


DAMAGE: dict[Callable[[Path], None], str] = {
    damage_missing_dataset: "has no dataset.json",
    damage_no_fold: "has no fold",
    damage_unfinished_fold: "has no checkpoint_final.pth in fold_1",
    damage_cut_off: "damaged or contains more than weights",
    damage_other_network: "folds of different networks",
    damage_json: "plans.json that is not valid",
    damage_link: "has a link in place of the checkpoint",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_folders_are_refused_in_one_sentence(
    damage: Callable[[Path], None], tmp_path: Path, root: Path
) -> None:
    trained = write_folder(tmp_path / "trained")
    damage(trained)
    assert DAMAGE[damage] in refusal(trained, root)


class Canary:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def zipped_pickle(content: Any, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3")


def plain_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize(
    "write",
    [
        torch.save,
        zipped_pickle,
        plain_pickle,
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    ],
    ids=["torch", "zip", "pickle", "old torch"],
)
@pytest.mark.parametrize("forced", [False, True])
def test_a_pickle_never_runs(
    write: Callable[[Any, Path], None], forced: bool, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, canary = write_folder(tmp_path / "trained"), tmp_path / "canary"
    content = checkpoint(stand_in_weights(0), plans(), 0, logging=Canary(canary))
    path = trained / "fold_0/checkpoint_final.pth"
    write(content, path)
    if forced:  # a switch of PyTorch for programs that do not ask for safe loading themselves
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert "contains more than weights" in refusal(trained, root)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert canary.exists()  # it would have been created


@pytest.mark.parametrize("name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_of_both_versions_of_numpy_are_read(name: str, tmp_path: Path) -> None:
    trained = write_folder(tmp_path / "trained", folds=("0",))
    path = trained / "fold_0/checkpoint_final.pth"
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = next(file for file in members if file.endswith("data.pkl"))
    old = np.float64(0).__reduce__()[0].__module__
    assert f"c{old}\nscalar\n".encode() in members[pickled]
    members[pickled] = members[pickled].replace(f"c{old}\n".encode(), f"c{name}\n".encode())
    content = path.with_name("other.pth")
    with zipfile.ZipFile(content, "w") as archive:
        for file, data in members.items():
            archive.writestr(file, data)
    os.replace(content, path)
    assert any_model.add(trained, "mine").is_dir()


def test_without_nnunet_a_run_says_how_to_install_it(
    tmp_path: Path, a_head_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_model.add(write_folder(tmp_path / "trained"), "mine")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"install it with: pip install 'diffusion-segmentation\[nnunet\]'"):
        any_model.segment(Request(a_head_file, tmp_path / "result", "mine"))


def test_what_needs_a_denoiser_refuses_an_nnunet(tmp_path: Path) -> None:
    folder = any_model.add(write_folder(tmp_path / "trained"), "mine")
    with pytest.raises(DiffusionSegmentationError, match="only `segment` can run it"):
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
