"""What only a graphics card makes the engine do, on a stand-in for one that needs none.

The stand-in's tensors say that they are on cuda:0 and hold CPU tensors which do the arithmetic. As with CUDA, an
operation on both kinds is an error, and so is the way to NumPy without `.cpu()`: a tensor that was not moved is found.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import gpu

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

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
PHANTOM = "boundary:16x16"
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class OnCard(torch.Tensor):
    """A tensor of the stand-in. For PyTorch's own code it is one on `meta`, which has no memory to read."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnCard:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, device="meta")
        tensor.held = held
        return tensor

    @property
    def device(self) -> torch.device:
        return CARD

    def __deepcopy__(self, memo: dict) -> OnCard:
        copy = OnCard(self.held.detach().clone()).requires_grad_(self.requires_grad)
        copy._is_param = getattr(self, "_is_param", False)
        return copy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        on_card = any(isinstance(tensor, OnCard) for tensor in tensors)
        # A number may lie anywhere.
        if on_card and func not in MOVES and any(type(t) is not OnCard and t.dim() for t in tensors):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cuda:0 and cpu")
        for wanted in (leaf for leaf in leaves if isinstance(leaf, torch.device)):
            on_card = wanted != CPU
        args, kwargs = tree_map_only(torch.device, lambda device: CPU, (args, kwargs or {}))
        args, kwargs = tree_map_only(OnCard, lambda tensor: tensor.held, (args, kwargs))
        found = func(*args, **kwargs)
        with torch.inference_mode(False):  # else a view of what was made before that mode fails
            return tree_map_only(torch.Tensor, OnCard, found) if on_card else found


class MadeOnCard(TorchDispatchMode):
    """Takes what is made on the card or moved there to the stand-in."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return OnCard.__torch_dispatch__(func, types, args, kwargs)


class FirstCard(TorchFunctionMode):
    """Reads "cuda" as "cuda:0", for which PyTorch would ask the driver."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        args, kwargs = tree_map_only(torch.device, lambda d: CARD if d.type == "cuda" else d, (args, kwargs or {}))
        return func(*args, **kwargs)


ANSWERS = dict.fromkeys(("_lazy_init", "synchronize", "empty_cache", "reset_peak_memory_stats")) | {
    **{"is_available": True, "is_bf16_supported": True, "device_count": 1, "get_device_name": "Stand-in"},
    **{"get_device_capability": (9, 0), "mem_get_info": (6 * 10**9, 8 * 10**9), "max_memory_allocated": 123_456},
    **{"is_initialized": False, "memory_reserved": 300, "memory_allocated": 100},
}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple]]:
    """A machine with the stand-in; the names and arguments with which torch.cuda was asked."""
    asked: list[tuple] = []
    for name, answer in ANSWERS.items():
        monkeypatch.setattr(
            torch.cuda, name, lambda *given, name=name, answer=answer: (asked.append((name, *given)), answer)[1]
        )
    with MadeOnCard(), FirstCard():
        yield asked


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
        # Several samples at a time, as on a card, differ from one at a time by rounding.
        assert first.any() and (np.abs(first.astype(float) - second) > 1e-3).mean() < 1e-4, file


def test_the_stand_in_finds_what_was_not_moved(card: list) -> None:
    here, there = torch.ones(3), torch.ones(3).to(torch.device("cuda"))
    assert there.device == CARD and (there + there).device == CARD and torch.zeros(2, device=CARD).device == CARD
    for wrong in (lambda: here + there, lambda: torch.cat([there, here]), lambda: there.mul_(here)):
        with pytest.raises(RuntimeError, match="same device"):
            wrong()
    with pytest.raises((TypeError, RuntimeError), match="numpy"):
        there.numpy()
    assert type(there.cpu()) is torch.Tensor and (there * torch.tensor(2.0)).cpu().tolist() == [2.0] * 3
    assert torch.autograd.grad((p := there.requires_grad_()).square().sum(), p)[0].device == CARD


def test_a_run_on_a_card_is_that_on_a_cpu(
    card: list, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, drawn, cache = EncodedVolume.sample, [], ModelCache()

    def watched(self: EncodedVolume, seeds: list[int], *rest: Any) -> np.ndarray:
        drawn.append((self.device, len(seeds)))
        return sample(self, seeds, *rest)

    monkeypatch.setattr(EncodedVolume, "sample", watched)
    report = run("auto", cache)
    assert report["device"] == "cuda:0" and report["memory_bytes"]["gpu_peak"] == 123_456 and report["steps"] == 4
    assert drawn == [(CARD, 1), (CARD, 2)]  # one by itself for the first preview, then as many as there are
    assert ("reset_peak_memory_stats", CARD) in card and report["warnings"] == run("cpu", steps=4)["warnings"]
    assert_the_same(tmp_path / "auto", tmp_path / "cpu")
    card.clear()
    cache.clear()
    assert ("empty_cache",) in card


@pytest.mark.slow
def test_a_card_that_is_short_of_memory(
    card: list, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First fewer samples at a time, then smaller windows, whose features wait in main memory."""
    monkeypatch.setattr(memory_plan, "MIN_WINDOW_SHARE", 0.25)  # the head is small
    limit, forward, encoded, computed, kept = [2], Denoiser.forward, EncodedVolume.__init__, set(), []

    def limited(network: Denoiser, x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if len(x) * math.prod(x.shape[2:]) >= limit[0] * 14 * 16 * 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        computed.update({x.device, rest[-1].device})
        return forward(network, x, *rest)

    def watched(self: EncodedVolume, *given: Any) -> None:
        encoded(self, *given)
        kept.append({tensor.device for tensor in self._direct})

    run("cpu", steps=4)
    monkeypatch.setattr(Denoiser, "forward", limited)
    monkeypatch.setattr(EncodedVolume, "__init__", watched)
    assert any("fewer samples" in said for said in run("cuda")["warnings"]) and ("empty_cache",) in card
    assert_the_same(tmp_path / "cuda", tmp_path / "cpu")
    limit[0] = 1
    report = run("cuda")
    assert kept == [{CARD}, {CARD}, {CPU}] and computed == {CARD} and report["windows"] > 1
    assert f"The memory of 'cuda:0' is short, so {memory_plan.SMALLER_WINDOWS}." in report["warnings"]
    limit[0] = 0
    with pytest.raises(OutOfMemoryError, match="The memory of 'cuda:0' did not suffice") as caught:
        run("cuda")
    assert caught.value.try_device == "cpu"


@pytest.mark.parametrize("start", [None, models.Start(Covariance((4.0,), np.full((3, 1), 0.9), np.full(3, 0.1)), -1.0)])
def test_samples_of_a_card_are_those_of_a_cpu(card: list, a_model_folder: Path, start: models.Start | None) -> None:
    images, found = np.random.default_rng(0).random((2, 16, 16, 16), np.float32), []
    for device, steps in ((CPU, {"cpu": 4, "gpu": 2}), (CARD, {"cpu": 2, "gpu": 4})):
        model = models.load(a_model_folder).to(device).with_start(start)
        model.section["steps"] = steps
        drawn = samples(model, labelled(model, images[0], images[0] > 0.5), 2, 0)
        found.append((*drawn, *vars(draw(model, images, 3, model.step_grid(4), 0)).values()))
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_a_card_by_its_number(card: list, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.choose_device("auto") == devices.choose_device("cuda") == devices.choose_device("cuda:0") == CARD
    with pytest.raises(InputError, match="'cuda:1'"):
        devices.choose_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose_device("cuda:1") == torch.device("cuda", 1)
    assert devices.devices()[2] == {"id": "cuda:1", "name": "Stand-in", "totalBytes": 8 * 10**9, "freeBytes": 6 * 10**9}


def test_free_memory_is_the_cards_and_what_torch_does_not_use_of_its_own(card: list) -> None:
    assert devices.free_bytes(CARD) == 6 * 10**9 + 300 - 100 and devices.free_bytes(CPU) is None
    assert {("mem_get_info", CARD), ("memory_reserved", CARD), ("memory_allocated", CARD)} <= set(card)
    for device in (CPU, CARD):
        card.clear()
        devices.empty_cache(device)
        assert (("empty_cache",) in card) == (device == CARD)


def test_what_the_networks_take_of_a_card_is_not_asked_of_main_memory(
    card: list, a_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load(a_model_folder)
    model.section["window"] = [128, 128, 128]
    model.section["network"]["encoder"]["channels"][0] = 128
    plans = [memory_plan.MemoryPlan(model, device) for device in (CPU, CARD)]
    whole = Tiling((128, 128, 128), (128, 128, 128), 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_300_000_000, 8_000_000_000))
    assert [plan.group_size(whole) for plan in plans] == [1, 2]  # of 302 MB each, in half of what is free
    free = plans[0].encoding_bytes(whole) - 1
    monkeypatch.setattr(memory, "available_memory", lambda: free)
    for plan in plans:
        plan.require(lambda plan=plan: Tiling(whole.shape, plan.window, 4), 1000, 1000)
    assert "smaller windows" in plans[0].notes[0] and plans[1].notes == [] and plans[1].window == (128, 128, 128)


def test_what_an_evaluation_says_of_a_card(card: list, monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("cards", "asked"), [(0, ("cpu", 1, "auto")), (1, ("gpu", [0], "auto")), (2, ("gpu", [0, 1], "ddp"))]
)
def test_a_training_takes_all_cards(
    training: train.Run, cards: int, asked: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}

    class Trainer:
        is_global_zero, save_checkpoint, global_step, global_rank = cards < 2, made.get, 0, 1

        def __init__(self, **given: Any) -> None:
            made.update(given)

        def fit(self, task: Any, loader: Any, **_: Any) -> None:
            loader.trainer = self
            made["workers"] = loader.train_dataloader().num_workers

    monkeypatch.setattr(train.lightning, "Trainer", Trainer)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert training.go(tmp_path / "checkpoint") == (cards < 2)  # with two, another process writes the model
    assert (made["accelerator"], made["devices"], made["strategy"]) == asked
    assert made["workers"] == 2 / max(1, cards)


@pytest.mark.slow
def test_a_step_of_a_training_and_its_end_on_a_card(card: list, training: train.Run, tmp_path: Path) -> None:
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


def test_a_study_on_a_card(card: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fitted(module: Any, journal: Any, checkpoint: Path, interval: Any, gpus: list[int]) -> None:
        asked.append((journal.clock, gpus))
        checkpoint.touch()

    monkeypatch.setattr(fit, "fit", fitted)
    task, arm = prepare(PHANTOM, tmp_path, Sizes(4, 2, 2)), Variant(PHANTOM, state="shuffled")
    drawer = VariantSampler(fit.trained(arm, task, 0.01, tmp_path / "network.safetensors", str(CARD)), arm, task)
    assert asked == [(fit.time.perf_counter, [0])]  # the process waits while the card works
    assert drawer.device == CARD and drawer.sample(task.case(0).image, 2, np.linspace(-8, 5, 3), 0).masks.shape[0] == 2
    assert pool.processes("cuda:0") == 1 and study._machine("cuda:0", 1) == "Stand-in"


@pytest.fixture
def measured(a_head_file: Path, a_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """The benchmark's exit status on a device, its tables, and all their rows."""
    monkeypatch.setattr(gpu, "REPEATS", 2)
    options = ["--model", str(a_model_folder), "--json", str(tmp_path / "found.json")]

    def go(device: str) -> tuple[int, dict[str, dict], dict[str, Any]]:
        status = gpu.main([str(a_head_file), *options, "--device", device])
        found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        return status, found, {name: value for rows in found.values() for name, value in rows.items()}

    return go


@pytest.mark.slow
def test_the_benchmark_measures_all_it_says(measured: Callable, capsys: pytest.CaptureFixture) -> None:
    status, found, rows = measured("cpu")
    printed = capsys.readouterr().out
    assert status == 0 and len(found) == len(gpu.MEASUREMENTS) and all(name in printed for name in (*found, *rows))
    assert all(math.isfinite(value) for value in rows.values() if not isinstance(value, str))
    agreement = found[gpu.agreement.__doc__]
    assert {v for k, v in agreement.items() if "Dice" in k} == {1} and sum("sample" in k for k in agreement) == 8
    assert {v for k, v in agreement.items() if "difference" in k} == {0}
    assert rows["encoding, estimate [MB]"] > 0 and rows["8 samples against the direct head [times]"] > 1
    assert rows["direct head, bfloat16, mean difference"] > 0 == rows["sample, float32 without TF32, max difference"]


@pytest.mark.slow
def test_the_benchmark_on_a_card(card: list, measured: Callable) -> None:
    status, found, rows = measured("cuda")
    worker = found.pop(gpu.worker.__doc__)  # a process of its own, which has no stand-in
    assert status == ("not measured" in worker) and not any("not measured" in table for table in found.values())
    assert rows["samples drawn together"] == 8 and rows["Dice of sample 8"] > 0.999 and ("synchronize", CARD) in card
    assert rows["weights [MB]"] == 0.123456 and rows["device"].startswith("Stand-in")


def test_without_a_card_the_benchmark_is_one_sentence(measured: Callable) -> None:
    with pytest.raises(SystemExit, match=r"^PyTorch \S+ .*: there is nothing to measure here\.$"):
        measured("cuda")
