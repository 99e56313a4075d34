"""Too little memory in a run: fewer samples at a time, smaller windows with the same result, or one sentence."""

from __future__ import annotations

import gc
import math
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from diffusion_segmentation.errors import OutOfMemoryError
from diffusion_segmentation.images.compressed_mask import CompressedMask
from diffusion_segmentation.model.folder import load, save
from diffusion_segmentation.networks import Denoiser, Encoder
from diffusion_segmentation.runtime import memory
from diffusion_segmentation.segmentation import memory_plan, partial_results, watershed
from diffusion_segmentation.segmentation import pipeline as segment
from diffusion_segmentation.segmentation.pipeline import ModelCache, Progress
from diffusion_segmentation.segmentation.sampler import EncodedVolume
from diffusion_segmentation.segmentation.tiling import Tiling

CELLS = 14 * 16 * 16
"""Cells of the head's body box on the working grid, which is one window."""

SMALLER = f"The memory of 'cpu' is short, so {memory_plan.SMALLER_WINDOWS}."


def about_memory(report: dict) -> list[str]:
    """The warnings about memory; the model of the tests has another one, about its spread."""
    return [sentence for sentence in report["warnings"] if "memory" in sentence]


class Limit:
    """A memory limit: a pass of a network over more than `cells`, of all samples together, fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cells = math.inf
        self.failures = 0
        self.largest = 0  # samples that were drawn together
        for network, finer in ((Encoder, 8), (Denoiser, 1)):
            monkeypatch.setattr(network, "forward", self._guarded(network.forward, finer))

    def _guarded(self, forward: Callable, finer: int) -> Callable:
        def limited(network: torch.nn.Module, x: torch.Tensor, *rest: Any) -> Any:
            if len(x) * math.prod(x.shape[2:]) / finer > self.cells:
                self.failures += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            self.largest = max(self.largest, len(x))
            return forward(network, x, *rest)

        return limited


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    monkeypatch.setattr(memory_plan, "max_group_size", lambda device: 8)  # as on a GPU
    monkeypatch.setattr(memory_plan, "MIN_WINDOW_SHARE", 0.25)  # the head is small
    return Limit(monkeypatch)


def image(tmp_path: Path, name: str, file: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / file)))


def assert_the_same(tmp_path: Path, one: str, other: str) -> None:
    for file in ("segmentation.seg.nrrd", "samples.seq.nrrd"):
        first, second = (image(tmp_path, name, file) for name in (one, other))
        assert first.any() and (first != second).mean() < 1e-4, file
    first, second = (image(tmp_path, name, "entropy.nrrd") for name in (one, other))
    assert np.abs(first - second).max() < 1e-3


def test_fewer_samples_at_a_time_give_the_same_result(limit: Limit, run: Callable, tmp_path: Path) -> None:
    assert about_memory(run("whole")) == [] and limit.largest == 8
    progress: list[Progress] = []
    limit.cells, limit.largest = 3 * CELLS, 0
    report = run("fewer", progress=progress.append)
    assert limit.failures == 2 and limit.largest == 2  # of eight and of four
    assert report["samples"] == 9 and report["windows"] == 1
    (sentence,) = about_memory(report)
    assert sentence == "The memory of 'cpu' is short, so fewer samples are drawn at a time."
    assert any(now.note == sentence and now.stage == "sampling" and now.step for now in progress)
    assert_the_same(tmp_path, "whole", "fewer")


def test_smaller_windows_give_the_result_of_a_model_with_such_windows(
    limit: Limit, run: Callable, tmp_path: Path, a_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit.cells = CELLS / 2
    report = run("smaller", samples=3)
    assert report["windows"] == 18 and limit.failures == 1 and limit.largest == 1
    assert about_memory(report) == [SMALLER]
    model = load(a_model_folder)
    model.section["window"] = [16, 16, 16]
    save(tmp_path / "model", model.metadata, model.encoder, model.denoiser)
    limit.cells = math.inf
    lattice = Tiling((28, 32, 32), (64, 64, 64), model.multiple).padded
    monkeypatch.setattr(
        segment._Run, "_tiling", lambda self: Tiling(self.image.shape[1:], self.plan.window, model.multiple, lattice)
    )
    assert run("made so", samples=3, model=str(tmp_path / "model"))["windows"] == 18
    assert_the_same(tmp_path, "smaller", "made so")


def test_features_are_released_before_smaller_windows_are_encoded(
    limit: Limit, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[weakref.ref] = []
    alive: list[int] = []
    begin = EncodedVolume.__init__

    def watched(self: EncodedVolume, *given: Any) -> None:
        alive.append(sum(one() is not None for one in encoded))
        encoded.append(weakref.ref(self))
        begin(self, *given)

    def fill(now: Progress) -> None:
        limit.cells = CELLS / 2 if now.stage == "sampling" and now.sample == 2 else limit.cells

    monkeypatch.setattr(EncodedVolume, "__init__", watched)
    run("later", samples=3, progress=fill)
    assert alive == [0, 0]


@pytest.mark.parametrize("previews", [False, True])
def test_a_run_removes_no_folder_of_the_user(
    run: Callable, tmp_path: Path, previews: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        partial_results, "INTERVAL_SECONDS", 0.0
    )  # so that the run makes and removes folders of like names
    user_file = tmp_path / "out" / "finished-subjects" / "a.txt"
    user_file.parent.mkdir(parents=True)
    user_file.write_text("of years")
    run("out", samples=4, previews=previews)
    assert user_file.read_text() == "of years" and [path.name for path in user_file.parents[1].glob("finished-*")] == [
        "finished-subjects"
    ]


def test_the_memory_of_a_run_is_released_at_its_end(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without reference cycles: these would keep a GPU's memory, or 1 GB, until garbage collection."""
    runs: list[weakref.ref] = []
    begin = segment._Run.__init__
    monkeypatch.setattr(
        segment._Run, "__init__", lambda self, *given: (runs.append(weakref.ref(self)), begin(self, *given))[1]
    )
    run("first", samples=2)
    gc.collect()
    gc.disable()
    try:
        run("second", samples=2, progress=lambda now: None, cancel=lambda: None)
        assert runs[1]() is None
    finally:
        gc.enable()


def test_a_seed_gives_the_same_noise_with_smaller_windows(a_model_folder: Path) -> None:
    model, image = load(a_model_folder), np.zeros((22, 26, 30), np.float32)
    whole = Tiling(image.shape, (64, 64, 64), 16)
    smaller = Tiling(image.shape, (16, 16, 16), 16, whole.padded)
    assert whole.padded == smaller.padded == (32, 32, 32) != Tiling(image.shape, (16, 16, 16), 16).padded
    cpu = torch.device("cpu")
    noise, same = (EncodedVolume(model, image, cpu, tiling)._noise(3) for tiling in (whole, smaller))
    torch.testing.assert_close(noise, same, rtol=0, atol=0)


def test_finished_samples_are_kept_when_windows_become_smaller(limit: Limit, run: Callable, tmp_path: Path) -> None:
    def fill(now: Progress) -> None:
        if now.stage == "sampling" and now.sample == 2 and limit.cells == math.inf:
            limit.cells = CELLS / 2

    run("whole", samples=3)
    report = run("later", samples=3, progress=fill)
    assert report["samples"] == 3 and report["windows"] == 18 and len(about_memory(report)) == 2
    first, second = (image(tmp_path, name, "samples.seq.nrrd") for name in ("whole", "later"))
    assert (first[..., 0] == second[..., 0]).all()  # the list axis is the fastest


def test_stop_and_keep_works_during_a_new_encoding(limit: Limit, run: Callable) -> None:
    def fill(now: Progress) -> None:
        limit.cells = CELLS / 2 if now.stage == "sampling" and now.sample == 2 else limit.cells

    report = run("kept", samples=3, progress=fill, cancel=lambda: "keep" if limit.failures > 1 else None)
    assert report["samples"] == 1 and report["partial"]


def test_windows_are_at_least_half_as_large_as_the_models(
    limit: Limit, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench memory` shows why: with a quarter the shipped model gives other masks."""
    monkeypatch.undo()
    limit = Limit(monkeypatch)
    limit.cells = CELLS / 2
    with pytest.raises(OutOfMemoryError, match="not even for small windows"):
        run("half")  # which is 32 voxels here, and the head has 28 x 32 x 32
    assert limit.failures == 1


def test_too_little_memory_for_the_smallest_windows_is_one_sentence(
    limit: Limit, run: Callable, tmp_path: Path
) -> None:
    limit.cells = 100
    with pytest.raises(OutOfMemoryError, match="did not suffice, not even for small windows; close") as caught:
        run("none")
    assert caught.value.kind == "memory" and caught.value.try_device is None
    assert not (tmp_path / "none").exists()


def test_a_model_that_does_not_fit_on_the_device_gives_the_memory_error(run: Callable) -> None:
    class Full(ModelCache):
        def get(self, *_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="not even for small windows"):
        run("none", models=Full())


def test_a_run_that_cannot_fit_is_refused_before_a_network_runs(
    limit: Limit, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000)
    limit.cells = 0
    words = r"^Segmenting this volume needs about 0\.0 GB of memory and 0\.0 GB are free; crop it, or close"
    with pytest.raises(OutOfMemoryError, match=words) as caught:
        run("refused")
    assert caught.value.kind == "memory" and limit.failures == 0


def test_peak_memory_does_not_grow_with_the_number_of_samples(run: Callable) -> None:
    def peak(samples: int) -> int:
        tracemalloc.start()
        try:
            run(f"of {samples}", samples=samples, steps=2)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # what is imported late
    few, many = peak(4), peak(40)
    # As arrays, 36 more masks would be 36 * 40 * 48 * 30 bytes, two megabytes; and noise, as here, packs badly.
    assert many - few < 800_000, (few, many)


def test_thinning_needs_less_memory_than_the_list_of_places() -> None:
    places = np.argwhere(np.ones((60, 60, 60), bool))
    tracemalloc.start()
    try:
        thinned = watershed._thinned(places, (60, 60, 60), np.ones(3), 10.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(thinned) > 100 and peak < places.nbytes


def test_compressed_masks_are_the_masks(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (4, 5, 6), np.uint8)
    packed = CompressedMask(mask[:, ::-1])
    assert packed.shape == mask.shape and len(packed) == 4
    np.testing.assert_array_equal(packed.whole(), mask[:, ::-1])
