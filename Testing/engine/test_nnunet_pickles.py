"""A pickle in a trained folder of nnU-Net never runs, and the numbers that nnU-Net pickles are read."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_folders import checkpoint, plans, refusal, stand_in_weights, write_folder

from diffusion_segmentation import any_model
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    return tmp_path / "installed"


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
