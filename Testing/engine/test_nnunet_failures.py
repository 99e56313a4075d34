"""A run of an nnU-Net that is cancelled or fails leaves no thread and no memory behind."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunet_folders import write_folder

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import Cancelled
from diffusion_segmentation.nnunet import prediction
from diffusion_segmentation.nnunet.model import read_model
from diffusion_segmentation.nnunet.prediction import Prediction
from diffusion_segmentation.runtime.locations import MODELS_VARIABLE
from diffusion_segmentation.segmentation.request import Progress, Request
from diffusion_segmentation.segmentation.run_control import RunControl

pytest.importorskip("nnunetv2")

CPU = torch.device("cpu")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an installed nnU-Net with two folds."""
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "installed"))
    any_model.add(write_folder(tmp_path / "trained", trained=True), "mine")
    return "mine"


@pytest.fixture(scope="module")
def a_volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in 20 x 40 x 30 voxels, for which the network needs several windows."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((20, 40, 30), np.float32))
    image.SetSpacing((3.0, 3.0, 4.0))
    path = tmp_path_factory.mktemp("volumes") / "noise.nrrd"
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def threads() -> Iterator[None]:
    """Fails if a thread is left behind."""
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert [name for name in left if name != "tqdm_monitor"] == []  # tqdm has one for the whole process


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception, int, int], None]:
    """Function that lets layers raise an exception, from the n-th on, a number of times."""
    whole = torch.nn.Conv3d.forward

    def fail(error: Exception, first: int, times: int) -> None:
        numbers = iter(range(10**6))

        def forward(layer: torch.nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
            if first <= next(numbers) < first + times:
                raise error
            return whole(layer, x)

        monkeypatch.setattr(torch.nn.Conv3d, "forward", forward)

    return fail


@pytest.mark.usefixtures("threads")
def test_a_run_is_cancelled_within_a_fold(installed: str, tmp_path: Path, a_volume: Path) -> None:
    passes: list[Progress] = []

    def cancel() -> str | None:
        return "drop" if len([p for p in passes if p.stage == "sampling" and p.steps]) >= 3 else None

    with pytest.raises(Cancelled):
        any_model.segment(Request(a_volume, tmp_path / "result", installed), passes.append, cancel=cancel)
    assert len([p for p in passes if p.steps]) == 3 and not (tmp_path / "result").exists()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("a defect")], ids=str)
def test_an_exception_of_a_layer_is_raised_after_nnunets_thread_has_ended(
    error: Exception, installed: str, tmp_path: Path, a_volume: Path, failing: Callable[[Exception, int, int], None]
) -> None:
    failing(error, 20, 10**6)
    with pytest.raises(type(error), match=str(error)):
        any_model.segment(Request(a_volume, tmp_path / "result", installed))
    assert not (tmp_path / "result").exists()


@pytest.mark.usefixtures("threads", "installed")
def test_a_full_gpu_keeps_the_logits_in_main_memory_after_one_failure(
    tmp_path: Path, a_volume: Path, failing: Callable[[Exception, int, int], None]
) -> None:
    notes: list[str] = []
    model = read_model(tmp_path / "installed/mine")
    control = RunControl(lambda progress: notes.append(progress.note), lambda: None)
    predicted = Prediction(model, CPU, control, lambda done, of: None)
    case = predicted.preprocessed([sitk.ReadImage(str(a_volume), sitk.sitkFloat32)])
    expected = predicted.logits(case, model.folds[0])
    predicted._predictor.perform_everything_on_device = True  # as on a GPU
    failing(RuntimeError("CUDA out of memory. Tried to allocate 1 GiB"), 5, 1)
    assert torch.equal(predicted.logits(case, model.folds[0]), expected)
    assert notes == [prediction.SUMS_IN_MAIN_MEMORY]
    failing(RuntimeError("CUDA out of memory. Tried to allocate 1 GiB"), 5, 1)
    with pytest.raises(RuntimeError, match="out of memory"):
        predicted.logits(case, model.folds[0])


def test_a_run_frees_its_network(
    installed: str, tmp_path: Path, a_volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[Any] = []
    start = Prediction.__init__

    def kept(self: Prediction, *arguments: Any) -> None:
        start(self, *arguments)
        networks.append(weakref.ref(self._network.module))

    monkeypatch.setattr(Prediction, "__init__", kept)
    emptied: list[torch.device] = []
    monkeypatch.setattr("diffusion_segmentation.segmentation.predicted_run.empty_cache", emptied.append)
    gc.disable()
    try:
        any_model.segment(Request(a_volume, tmp_path / "result", installed))
        assert [reference() for reference in networks] == [None]
    finally:
        gc.enable()
    assert emptied[-1] == CPU


@pytest.mark.usefixtures("threads")
def test_ctrl_c_within_a_fold_leaves_no_thread(installed: str, tmp_path: Path, a_volume: Path) -> None:
    passes: list[Progress] = []

    def press(progress: Progress) -> None:
        if progress.stage == "sampling" and progress.steps:
            passes.append(progress)
            if len(passes) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        any_model.segment(Request(a_volume, tmp_path / "result", installed), press)
    assert len(passes) == 2 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not (tmp_path / "result").exists()
