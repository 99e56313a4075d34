"""Folders with random faults in their JSON files are converted or refused in one sentence, and nothing they name is
imported."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
from hostile_json import BAIT, damaged, outcome
from nnunet_folders import checkpoint, dataset, plans, stand_in_weights, write_folder

from diffusion_segmentation import any_model
from diffusion_segmentation.model.nnunet_metadata import digest_of_model
from diffusion_segmentation.nnunet.model import read_model
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE

FOLDERS = 100


@pytest.fixture
def bait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that an import of BAIT creates."""
    file = tmp_path / "imported"
    (tmp_path / f"{BAIT}.py").write_text(f"open({str(file)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return file


def build(folder: Path) -> None:
    """What a run does before it sees a volume, as far as nnU-Net is installed."""
    model = read_model(folder)
    assert model.plans() and model.dataset()
    if importlib.util.find_spec("nnunetv2"):
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        from diffusion_segmentation.nnunet.network import FoldNetwork

        assert sum(parameter.numel() for parameter in FoldNetwork(model).module.parameters()) > 0
        configuration = PlansManager(model.plans()).get_configuration(model.settings["configuration"])
        assert configuration.resampling_fn_data and configuration.preprocessor_class


@pytest.mark.parametrize("residual", [False, True])
def test_faults_of_a_trained_folder(
    residual: bool, tmp_path: Path, bait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    draw, accepted = random.Random(int(residual)), 0
    sound = plans(residual=residual)
    trained = write_folder(tmp_path / "trained", sound, folds=("0",))
    for number in range(FOLDERS // 2):
        which = draw.choice(("plans", "plans", "plans", "dataset"))
        content = damaged(sound if which == "plans" else dataset(), draw)
        files = {"plans": sound, "dataset": dataset()} | {which: content}
        for file, value in files.items():
            (trained / f"{file}.json").write_text(json.dumps(value), encoding="utf-8")
        if number % 4:  # the same faults in the checkpoint, with which the files are compared
            trained_with = {"configuration": "3d_fullres", "plans": files["plans"], "dataset_json": files["dataset"]}
            weights = checkpoint(stand_in_weights(0), sound, 0, init_args=trained_with)
            torch.save(weights, trained / "fold_0/checkpoint_final.pth")
        name = f"model-{number}"
        if outcome(lambda name=name: any_model.add(trained, name)):
            accepted += 1
            build(tmp_path / "installed" / name)
    print(f"{accepted} of {FOLDERS // 2} folders were accepted")
    assert 0 < accepted < FOLDERS // 2 and not bait.exists()


def test_faults_of_the_metadata_of_a_converted_folder(
    tmp_path: Path, bait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    folder = any_model.add(write_folder(tmp_path / "trained"), "mine")
    sound = json.loads((folder / "metadata.json").read_text())
    draw, accepted = random.Random(2), 0
    for _ in range(FOLDERS):
        content = damaged(sound, draw)
        with contextlib.suppress(KeyError, TypeError):  # the author of a hostile folder can compute its checksum
            section = content["diffusion_segmentation"]
            section["sha256"] = digest_of_model(section)
        (folder / "metadata.json").write_text(json.dumps(content), encoding="utf-8")
        accepted += outcome(lambda: build(folder))
    print(f"{accepted} of {FOLDERS} folders were accepted")
    assert 0 < accepted < FOLDERS and not bait.exists()
