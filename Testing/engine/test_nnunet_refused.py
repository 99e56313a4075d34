"""Trained folders of nnU-Net that cannot be run, or are damaged or mixed, are refused in one sentence."""

from __future__ import annotations

import copy
import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_folders import checkpoint, dataset, plans, refusal, stand_in_weights, write_folder
from safetensors import SafetensorError

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import ModelError, explain
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.request import Request


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


def configured(**changes: Any) -> dict[str, Any]:
    """Plans with other entries of the configuration; `network` and `options` change those of the network."""
    content = copy.deepcopy(plans())
    configuration = content["configurations"]["3d_fullres"]
    configuration["architecture"]["arch_kwargs"] |= changes.pop("options", {})
    configuration["architecture"] |= changes.pop("network", {})
    configuration |= changes
    return content


def regions(order: list[int] | None, **labels: Any) -> dict[str, Any]:
    return {"dataset_json": dataset({"background": 0, **labels}, order=order)}


UNSAFE = "os.system"
TRAINED_WITH = {"configuration": "3d_fullres", "plans": plans(), "dataset_json": dataset()}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "several inputs": ({"dataset_json": dataset(channels=("T1", "FLAIR"))}, "has 2 inputs in its dataset.json and 1"),
    "regions": (regions([1, 2], a=[1, 2], b=[2, 3]), "overlapping regions"),
    "regions the wrong way": (
        {"dataset_json": dataset({"background": 0, "a": 1, "b": [1, 2]}, order=[1, 2])},
        "overlap",
    ),
    "order of regions": (
        {"dataset_json": dataset({"background": 0, "a": [1, 2], "b": 2}, order=[1, 3])},
        "labels other",
    ),
    "no order of regions": (regions(None, a=[1, 2], b=2), "no list of labels"),
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
    "configuration": ({"init_args": {**TRAINED_WITH, "configuration": "3d_mine"}}, "plans.json that is incomplete"),
    "no plans": ({"init_args": {"configuration": "3d_fullres"}}, "not one of nnU-Net's"),
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


OTHER_TRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    "spacing": ("plans", configured(spacing=[1.0, 1.0, 1.0])),
    "transpose": ("plans", {**plans(), "transpose_forward": [2, 1, 0], "transpose_backward": [2, 1, 0]}),
    "statistics": ("plans", configured(normalization_schemes=["CTNormalization"])),
    "swapped labels": ("dataset", dataset({"background": 0, "core": 1, "ball": 2})),
    "other input": ("dataset", dataset(channels=("CT",))),
}


@pytest.mark.parametrize("case", OTHER_TRAINING)
@pytest.mark.parametrize("fold", [0, 1])
def test_files_of_another_training_than_a_fold_are_refused(case: str, fold: int, tmp_path: Path, root: Path) -> None:
    file, content = OTHER_TRAINING[case]
    trained = write_folder(tmp_path / "trained")
    init = {**TRAINED_WITH, {"plans": "plans", "dataset": "dataset_json"}[file]: content}
    other = checkpoint(stand_in_weights(fold), plans(), fold, init_args=init)
    torch.save(other, trained / f"fold_{fold}/checkpoint_final.pth")
    assert f"has a {file}.json of another training than 'fold_{fold}'; copy both again" in refusal(trained, root)


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


def damage_no_plans(folder: Path) -> None:
    (folder / "plans.json").unlink()


def damage_fold_twice(folder: Path) -> None:
    shutil.copytree(folder / "fold_0", folder / "fold_00")


DAMAGE: dict[Callable[[Path], None], str] = {
    damage_missing_dataset: "has no dataset.json",
    damage_no_fold: "has no fold",
    damage_unfinished_fold: "has no checkpoint_final.pth in fold_1",
    damage_cut_off: "damaged or contains more than weights",
    damage_other_network: "folds of different networks",
    damage_json: "plans.json that is not valid",
    damage_no_plans: "The nnU-Net in 'trained' has no plans.json that can be read; copy its whole folder again",
    damage_fold_twice: "has a fold twice, such as fold_0 and fold_00",
    damage_link: "has a link in place of the checkpoint",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_folders_are_refused_in_one_sentence(
    damage: Callable[[Path], None], tmp_path: Path, root: Path
) -> None:
    trained = write_folder(tmp_path / "trained")
    damage(trained)
    assert DAMAGE[damage] in refusal(trained, root)


def test_folders_beside_a_trained_one_are_refused_with_its_name(tmp_path: Path, root: Path) -> None:
    for name in ("a__3d_fullres", "b__2d"):
        write_folder(tmp_path / "Dataset001_Ball" / name, folds=("0",))
    sentence = refusal(tmp_path / "Dataset001_Ball/b__2d/fold_0", root)
    assert "'fold_0' is one fold of an nnU-Net; give the folder 'b__2d' above it" in sentence
    sentence = refusal(tmp_path / "Dataset001_Ball", root)
    assert (
        "'Dataset001_Ball' has folders of trained nnU-Nets in it; give one of these: 'a__3d_fullres', 'b__2d'."
        in sentence
    )
    both = Path(shutil.make_archive(str(tmp_path / "both"), "zip", tmp_path / "Dataset001_Ball"))
    assert "The archive 'both.zip' has 2 nnU-Nets; give the archive of one" in refusal(both, root)


def test_digits_of_other_scripts_are_no_fold(tmp_path: Path, root: Path) -> None:
    assert "has no fold" in refusal(write_folder(tmp_path / "trained", folds=("\u0663",)), root)


def test_a_damaged_archive_of_a_trained_folder_is_refused(tmp_path: Path, root: Path) -> None:
    write_folder(tmp_path / "packed", folds=("0",))
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "packed"))
    data = bytearray(archive.read_bytes())
    data[200] ^= 255
    archive.write_bytes(data)
    sentence = refusal(archive, root)
    assert "archive.zip' is damaged" in sentence or "copy its" in sentence


def test_a_trained_folder_that_was_not_added_cannot_be_run(tmp_path: Path) -> None:
    trained = write_folder(tmp_path / "trained", folds=("0",))
    with pytest.raises(ModelError, match="'trained' is a trained nnU-Net; add it first with `diffusion-segmentation"):
        any_model.segment(Request(tmp_path / "a.nrrd", tmp_path / "result", str(trained)))
    with pytest.raises(ModelError, match="There is no model 'nothing'"):
        any_model.segment(Request(tmp_path / "a.nrrd", tmp_path / "result", "nothing"))


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("place", "error", "sentence"),
    [
        ("model.weights.safetensors.save_file", SafetensorError(FULL), "The disk is full; free some space"),
        ("model.pickled_weights.torch.load", MemoryError(), None),
        ("model.pickled_weights.torch.load", RuntimeError("DefaultCPUAllocator: can't allocate memory"), None),
    ],
)
def test_problems_of_the_computer_are_not_blamed_on_an_archive(
    place: str, error: Exception, sentence: str | None, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = write_folder(tmp_path / "trained", folds=("0",))

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(f"diffusion_segmentation.{place}", fail)
    if sentence is not None:
        assert sentence in refusal(trained, root)
        return
    with pytest.raises(type(error)) as caught:
        any_model.add(trained)
    assert explain(caught.value)[0] == "memory" and list(root.iterdir()) == []


def test_a_folder_without_permission_is_refused(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, is_file = write_folder(tmp_path / "trained", folds=("0",)), Path.is_file

    def denied(path: Path) -> bool:
        if path.parent == trained:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", denied)
    assert "cannot be read or written: there is no permission" in refusal(trained, root)
