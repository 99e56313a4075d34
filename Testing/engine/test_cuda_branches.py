"""What only a graphics card makes the engine do, on the stand-in of gpu_standin.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from gpu_standin import CARD, CPU

from diffusion_segmentation.calibration.start import labelled, samples
from diffusion_segmentation.diffusion.copula import Covariance
from diffusion_segmentation.errors import InputError, OutOfMemoryError
from diffusion_segmentation.evaluation import cost
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.networks import Denoiser
from diffusion_segmentation.runtime import devices, memory
from diffusion_segmentation.segmentation import memory_plan
from diffusion_segmentation.segmentation.pipeline import ModelCache, Request, segment
from diffusion_segmentation.segmentation.sampler import EncodedVolume, draw
from diffusion_segmentation.segmentation.tiling import Tiling
from diffusion_segmentation.study import adapt, fit, pool, study
from diffusion_segmentation.study.sampling import VariantSampler
from diffusion_segmentation.study.tasks import Sizes, prepare
from diffusion_segmentation.study.variants import Variant
from diffusion_segmentation.training import train

PHANTOM = "boundary:16x16"


@pytest.fixture
def run(a_head_file: Path, a_model_folder: Path, tmp_path: Path) -> Callable[..., dict]:
    """Runs the random model, with two steps on a CPU and four on a GPU."""
    model = models.load(a_model_folder)
    model.section["steps"] = {"cpu": 2, "gpu": 4}
    models.save(tmp_path / "model", model.metadata, model.encoder, model.denoiser)

    def go(device: str, cache: ModelCache | None = None, **changed: Any) -> dict:
        given = {"model": str(tmp_path / "model"), "samples": 3, "keep_samples": True, "device": device} | changed
        return segment(Request(a_head_file, tmp_path / device, **given), models=cache).report

    return go


def assert_the_same(one: Path, other: Path) -> None:
    for file in ("segmentation.seg.nrrd", "samples.seq.nrrd", "entropy.nrrd"):
        first, second = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / file))) for folder in (one, other))
        # Several samples at a time, as on a graphics card, differ from one at a time by rounding.
        assert first.any() and (np.abs(first.astype(float) - second) > 1e-3).mean() < 1e-4, file


def test_the_stand_in_detects_tensors_that_were_not_moved(card: list) -> None:
    here, there = torch.ones(3), torch.ones(3).to(torch.device("cuda"))
    assert there.device == CARD and (there + there).device == CARD and torch.zeros(2, device=CARD).device == CARD
    for wrong in (lambda: here + there, lambda: torch.cat([there, here]), lambda: there.mul_(here)):
        with pytest.raises(RuntimeError, match="same device"):
            wrong()
    with pytest.raises((TypeError, RuntimeError), match="numpy"):
        there.numpy()
    assert type(there.cpu()) is torch.Tensor and (there * torch.tensor(2.0)).cpu().tolist() == [2.0] * 3
    assert torch.autograd.grad((p := there.requires_grad_()).square().sum(), p)[0].device == CARD


@pytest.mark.slow
def test_a_run_on_a_graphics_card_equals_that_on_the_cpu(
    card: list, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, groups, cache = EncodedVolume.sample, [], ModelCache()

    def watched(self: EncodedVolume, seeds: list[int], *rest: Any) -> np.ndarray:
        groups.append((self.device, len(seeds)))
        return sample(self, seeds, *rest)

    monkeypatch.setattr(EncodedVolume, "sample", watched)
    report = run("auto", cache)
    assert report["device"] == "cuda:0" and report["memory_bytes"]["gpu_peak"] == 123_456 and report["steps"] == 4
    assert groups == [(CARD, 1), (CARD, 2)]  # one by itself for the first preview, then as many as there are
    assert ("reset_peak_memory_stats", CARD) in card and report["warnings"] == run("cpu", steps=4)["warnings"]
    assert_the_same(tmp_path / "auto", tmp_path / "cpu")
    card.clear()
    cache.clear()
    assert ("empty_cache",) in card


@pytest.mark.slow
def test_a_graphics_card_with_too_little_memory(
    card: list, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First fewer samples at a time, then smaller windows, whose features are in main memory."""
    monkeypatch.setattr(memory_plan, "MIN_WINDOW_SHARE", 0.25)  # the head is small
    limit, forward, encoded, computed, feature_devices = [2], Denoiser.forward, EncodedVolume.__init__, set(), []

    def limited(network: Denoiser, x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if len(x) * math.prod(x.shape[2:]) >= limit[0] * 14 * 16 * 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        computed.update({x.device, rest[-1].device})
        return forward(network, x, *rest)

    def watched(self: EncodedVolume, *given: Any) -> None:
        encoded(self, *given)
        feature_devices.append({tensor.device for tensor in self._direct})

    run("cpu", steps=4)
    monkeypatch.setattr(Denoiser, "forward", limited)
    monkeypatch.setattr(EncodedVolume, "__init__", watched)
    assert any("fewer samples" in sentence for sentence in run("cuda")["warnings"]) and ("empty_cache",) in card
    assert_the_same(tmp_path / "cuda", tmp_path / "cpu")
    limit[0] = 1
    report = run("cuda")
    assert feature_devices == [{CARD}, {CARD}, {CPU}] and computed == {CARD} and report["windows"] > 1
    assert f"The memory of 'cuda:0' is short, so {memory_plan.SMALLER_WINDOWS}." in report["warnings"]
    limit[0] = 0
    with pytest.raises(OutOfMemoryError, match="The memory of 'cuda:0' did not suffice") as caught:
        run("cuda")
    assert caught.value.try_device == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("start", [None, models.Start(Covariance((4.0,), np.full((3, 1), 0.9), np.full(3, 0.1)), -1.0)])
def test_samples_of_a_graphics_card_equal_those_of_the_cpu(
    card: list, a_model_folder: Path, start: models.Start | None
) -> None:
    image, outputs = np.random.default_rng(0).random((16, 16, 16), np.float32), []
    for device, steps in ((CPU, {"cpu": 4, "gpu": 2}), (CARD, {"cpu": 2, "gpu": 4})):
        model = models.load(a_model_folder).to(device).with_start(start)
        model.section["steps"] = steps
        sampled = samples(model, labelled(model, image, image > 0.5), 2, 0)
        outputs.append((*sampled, *vars(draw(model, image, 3, model.step_grid(4), 0)).values()))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(*outputs, strict=True))


def test_a_graphics_card_is_chosen_by_its_number(card: list, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.choose_device("auto") == devices.choose_device("cuda") == devices.choose_device("cuda:0") == CARD
    with pytest.raises(InputError, match="'cuda:1'"):
        devices.choose_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose_device("cuda:1") == torch.device("cuda", 1)
    assert devices.devices()[2] == {"id": "cuda:1", "name": "Stand-in", "totalBytes": 8 * 10**9, "freeBytes": 6 * 10**9}


@pytest.mark.slow
def test_free_memory_includes_unused_reserved_memory_of_torch(card: list) -> None:
    assert devices.free_bytes(CARD) == 6 * 10**9 + 300 - 100 and devices.free_bytes(CPU) is None
    assert {("mem_get_info", CARD), ("memory_reserved", CARD), ("memory_allocated", CARD)} <= set(card)
    for device in (CPU, CARD):
        card.clear()
        devices.empty_cache(device)
        assert (("empty_cache",) in card) == (device == CARD)


def test_memory_of_networks_on_a_graphics_card_is_not_required_of_main_memory(
    card: list, a_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load(a_model_folder)
    model.section["window"] = [128, 128, 128]
    model.encoder = SimpleNamespace(width=128, levels=model.encoder.levels)
    plans = [memory_plan.MemoryPlan(model, device) for device in (CPU, CARD)]
    whole = Tiling((128, 128, 128), (128, 128, 128), 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_300_000_000, 8_000_000_000))
    assert [plan.group_size(whole) for plan in plans] == [1, 2]  # of 302 MB each, in half of what is free
    free = plans[0].encoding_bytes(whole) - 1
    monkeypatch.setattr(memory, "available_memory", lambda: free)
    for plan in plans:
        plan.require(lambda plan=plan: Tiling(whole.shape, plan.window, 4), 1000, 1000)
    assert "smaller windows" in plans[0].notes[0] and plans[1].notes == [] and plans[1].window == (128, 128, 128)


def test_an_evaluation_reports_the_graphics_card(card: list, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cost.machine(CARD).startswith("Stand-in, ") and cost.machine(CPU).startswith("CPU")
    assert "gpu_peak" not in cost.peak_memory()  # no card was used
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: [5, 9, 7][index])
    assert cost.peak_memory()["gpu_peak"] == 9


@pytest.fixture
def training(tmp_path: Path) -> train.Run:
    source, changed = train.open_source(PHANTOM, tmp_path), {"steps": {"cpu": 4, "gpu": 6}}
    changed["network"] = {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8]}}
    settings = train.merged(source.settings(), {"diffusion_segmentation": changed})
    return train.Run(settings, train.Optimisation(batch=2, warm_up=1), source, None)


@pytest.mark.parametrize(
    ("cards", "expected"), [(0, ("cpu", 1, "auto")), (1, ("gpu", [0], "auto")), (2, ("gpu", [0, 1], "ddp"))]
)
def test_a_training_uses_all_graphics_cards(
    training: train.Run, cards: int, expected: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_options: dict[str, Any] = {}

    class Trainer:
        is_global_zero, save_checkpoint, global_step, global_rank = cards < 2, trainer_options.get, 0, 1

        def __init__(self, **given: Any) -> None:
            trainer_options.update(given)

        def fit(self, task: Any, loader: Any, **_: Any) -> None:
            loader.trainer = self
            trainer_options["workers"] = loader.train_dataloader().num_workers

    monkeypatch.setattr(train.lightning, "Trainer", Trainer)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert training.go(tmp_path / "checkpoint") == (cards < 2)  # with two, another process writes the model
    assert (trainer_options["accelerator"], trainer_options["devices"], trainer_options["strategy"]) == expected
    assert trainer_options["workers"] == (2, 3, 1)[cards]  # half of the cores without a card, else all but one a card


@pytest.mark.slow
def test_a_training_step_and_its_end_on_a_graphics_card(card: list, training: train.Run, tmp_path: Path) -> None:
    batch = next(iter(torch.utils.data.DataLoader(training.source.stream(training.optimisation, 0), 2)))
    task = training.task.to(CARD)
    optimiser = task.configure_optimizers()
    task.training_step([part.to(CARD) for part in batch], 0).backward()
    optimiser.step()
    task.to(CPU)
    unseen = next(iter(training.source.unseen(training.optimisation)))
    training.source.unseen = lambda optimisation: [unseen]  # one case is quicker
    metadata = training.metadata()
    assert metadata["diffusion_segmentation"]["training"]["device"] == "Stand-in"
    assert next(task.parameters()).device == CARD  # where the loss curve was measured
    models.save(tmp_path / "model", metadata, task.encoder, task.denoiser)
    request = adapt.AdaptOptions(PHANTOM, str(tmp_path / "model"), tmp_path / "adapted", "cuda", Sizes(1, 2, 2))
    assert adapt.adapt(request)["steps"] == 6 and models.load(tmp_path / "adapted" / "model")


@pytest.mark.slow
def test_a_study_runs_on_a_graphics_card(card: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def fitted(module: Any, journal: Any, checkpoint: Path, interval: Any, gpus: list[int]) -> None:
        calls.append((journal.clock, gpus))
        checkpoint.touch()

    monkeypatch.setattr(fit, "fit", fitted)
    task, variant = prepare(PHANTOM, tmp_path, Sizes(4, 2, 2)), Variant(PHANTOM, state="shuffled")
    drawer = VariantSampler(
        fit.trained(variant, task, 0.01, tmp_path / "network.safetensors", str(CARD)), variant, task
    )
    assert calls == [(fit.time.perf_counter, [0])]  # the process waits while the card works
    assert drawer.device == CARD and drawer.sample(task.case(0).image, 2, np.linspace(-8, 5, 3), 0).masks.shape[0] == 2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9 * 2**30, 80 * 2**30))
    monkeypatch.setattr(pool.os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert (pool.processes("cuda:0", 64**2), pool.processes("cuda:0", 64**3), pool.processes("cpu", 64**3)) == (
        8,
        2,
        16,
    )
    assert (
        study._machine("cuda:0", 2) == "Stand-in, shared by 2 processes" and study._machine("cuda:0", 1) == "Stand-in"
    )
