"""Folders with random faults in their JSON files are converted or refused in one sentence, and nothing they name is
imported."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_folders import checkpoint, dataset, plans, stand_in_weights, write_folder

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.model.nnunet_metadata import digest_of_model
from diffusion_segmentation.nnunet.model import read_model
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE

FOLDERS = 100
BAIT = "nnunet_bait"
"""Name of a module that creates a file when it is imported."""
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 2.5, 10**30, 1e308, float("nan"), float("inf"), "", "\ud800", "a\nb", "\u202e", "x" * 5000),
    *([], {}, [[]], {"a": {}}, [1, 2, 3], [0.0] * 3, [True, False, None], list(range(10_000))),
    *("os.system", BAIT, f"{BAIT}.Net", f"torch.nn.{BAIT}", f"dynamic_network_architectures.architectures.unet.{BAIT}"),
    *("__import__('os').system('true')", "../../etc/passwd", "torch.nn.modules.conv.Conv2d", "2d", "3d_lowres"),
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values within a content."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


def damaged(content: Any, draw: random.Random) -> Any:
    """A copy with one to three values removed, replaced, nested or exchanged."""
    content = copy.deepcopy(content)
    for _ in range(draw.randint(1, 3)):
        *path, key = draw.choice(places(content) or [()])
        parent = content
        for step in path:
            parent = parent[step]
        fault = draw.choice(("remove", "replace", "replace", "replace", "nest", "exchange", "add"))
        if fault == "remove":
            del parent[key]
        elif fault == "nest":
            parent[key] = [parent[key]]
        elif fault == "exchange":
            other = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            parent[key], parent[other] = parent[other], parent[key]
        elif fault == "add" and isinstance(parent, dict):
            parent[draw.choice((*"01234", "previous_stage", "inherits_from", "block", BAIT))] = copy.deepcopy(
                draw.choice(VALUES)
            )
        else:
            parent[key] = copy.deepcopy(draw.choice(VALUES))
        if not places(content):
            break
    return content


def outcome(work: Any) -> bool:
    """Whether a folder is accepted; a refusal must be one sentence."""
    try:
        work()
    except ModelError as error:
        sentence = str(error)
        assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < 500, sentence
        assert len(re.findall(r"[.?!](?=\s|$)", sentence)) == 1, sentence
        return False
    return True


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
