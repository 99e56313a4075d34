"""Too little memory: a smaller try with the same answer, another device, or one sentence with the figures."""

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

from diffusion_segmentation.errors import DeviceLostError, GpuError, InputError, OutOfMemoryError, is_out_of_memory
from diffusion_segmentation.images.compressed_mask import CompressedMask
from diffusion_segmentation.model.folder import load, save
from diffusion_segmentation.networks import Denoiser, Encoder
from diffusion_segmentation.runtime import devices, memory
from diffusion_segmentation.runtime.devices import choose_device, explain_gpu_error, out_of_memory_error
from diffusion_segmentation.segmentation import memory_plan, partial_results, watershed
from diffusion_segmentation.segmentation import pipeline as segment
from diffusion_segmentation.segmentation.memory_plan import MemoryPlan
from diffusion_segmentation.segmentation.pipeline import ModelCache, Progress, Request
from diffusion_segmentation.segmentation.tiling import Tiling

CELLS = 14 * 16 * 16
"""Of the head's body on the working grid: one window."""

SMALLER = f"The memory of 'cpu' is short, so {memory_plan.SMALLER_WINDOWS}."


def about_memory(report: dict) -> list[str]:
    """The warnings on what was made smaller; the model of the tests has another one, on its spread."""
    return [sentence for sentence in report["warnings"] if "memory" in sentence]


class Limit:
    """A memory in which a pass of a network over more than `cells`, of all samples together, does not fit."""

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


@pytest.fixture
def run(a_head_file: Path, a_model_folder: Path, tmp_path: Path) -> Callable[..., dict]:
    def go(name: str, **changed: Any) -> dict:
        options = {key: changed.pop(key) for key in ("progress", "cancel", "models") if key in changed}
        given = {"model": str(a_model_folder), "samples": 9, "device": "cpu", "keep_samples": True} | changed
        return segment.segment(Request(a_head_file, tmp_path / name, **given), **options).report

    return go


def image(tmp_path: Path, name: str, file: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / file)))


def assert_the_same(tmp_path: Path, one: str, other: str) -> None:
    for file in ("segmentation.seg.nrrd", "samples.seq.nrrd"):
        first, second = (image(tmp_path, name, file) for name in (one, other))
        assert first.any() and (first != second).mean() < 1e-4, file
    first, second = (image(tmp_path, name, "entropy.nrrd") for name in (one, other))
    assert np.abs(first - second).max() < 1e-3


def test_fewer_samples_at_a_time_give_the_same(limit: Limit, run: Callable, tmp_path: Path) -> None:
    assert about_memory(run("whole")) == [] and limit.largest == 8
    said: list[Progress] = []
    limit.cells, limit.largest = 3 * CELLS, 0
    report = run("fewer", progress=said.append)
    assert limit.failures == 2 and limit.largest == 2  # of eight and of four
    assert report["samples"] == 9 and report["windows"] == 1
    (sentence,) = about_memory(report)
    assert sentence == "The memory of 'cpu' is short, so fewer samples are drawn at a time."
    assert any(now.note == sentence and now.stage == "sampling" and now.step for now in said)
    assert_the_same(tmp_path, "whole", "fewer")


def test_smaller_windows_give_what_a_model_with_such_windows_gives_of_the_same_noise(
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
        segment._Run, "_tiling", lambda self: Tiling(self.array.shape, self.plan.window, model.multiple, lattice)
    )
    assert run("made so", samples=3, model=str(tmp_path / "model"))["windows"] == 18
    assert_the_same(tmp_path, "smaller", "made so")


def test_the_features_go_before_smaller_windows_are_looked_at(
    limit: Limit, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[weakref.ref] = []
    alive: list[int] = []
    begin = segment.EncodedVolume.__init__

    def watched(self: segment.EncodedVolume, *given: Any) -> None:
        alive.append(sum(one() is not None for one in encoded))
        encoded.append(weakref.ref(self))
        begin(self, *given)

    def fill(now: Progress) -> None:
        limit.cells = CELLS / 2 if now.stage == "sampling" and now.sample == 2 else limit.cells

    monkeypatch.setattr(segment.EncodedVolume, "__init__", watched)
    run("later", samples=3, progress=fill)
    assert alive == [0, 0]


@pytest.mark.parametrize("previews", [False, True])
def test_a_run_removes_no_folder_of_the_person(
    run: Callable, tmp_path: Path, previews: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        partial_results, "INTERVAL_SECONDS", 0.0
    )  # so that the run makes and removes folders of like names
    mine = tmp_path / "out" / "finished-subjects" / "a.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("of years")
    run("out", samples=4, previews=previews)
    assert mine.read_text() == "of years" and [path.name for path in mine.parents[1].glob("finished-*")] == [
        "finished-subjects"
    ]


def test_a_run_is_forgotten_at_its_end(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cycle that the garbage collector must find: until then a GPU's memory, or 1 GB, would stay taken."""
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


def test_a_seed_means_the_same_noise_with_smaller_windows(a_model_folder: Path) -> None:
    model, image = load(a_model_folder), np.zeros((22, 26, 30), np.float32)
    whole = Tiling(image.shape, (64, 64, 64), 16)
    smaller = Tiling(image.shape, (16, 16, 16), 16, whole.padded)
    assert whole.padded == smaller.padded == (32, 32, 32) != Tiling(image.shape, (16, 16, 16), 16).padded
    cpu = torch.device("cpu")
    noise, same = (segment.EncodedVolume(model, image, cpu, tiling)._noise(3) for tiling in (whole, smaller))
    torch.testing.assert_close(noise, same, rtol=0, atol=0)


def test_what_is_drawn_stays_where_windows_become_smaller_later(limit: Limit, run: Callable, tmp_path: Path) -> None:
    def fill(now: Progress) -> None:
        if now.stage == "sampling" and now.sample == 2 and limit.cells == math.inf:
            limit.cells = CELLS / 2

    run("whole", samples=3)
    report = run("later", samples=3, progress=fill)
    assert report["samples"] == 3 and report["windows"] == 18 and len(about_memory(report)) == 2
    first, second = (image(tmp_path, name, "samples.seq.nrrd") for name in ("whole", "later"))
    assert (first[..., 0] == second[..., 0]).all()  # the list axis is the fastest


def test_stop_and_keep_still_works_while_it_looks_again(limit: Limit, run: Callable) -> None:
    def fill(now: Progress) -> None:
        limit.cells = CELLS / 2 if now.stage == "sampling" and now.sample == 2 else limit.cells

    report = run("kept", samples=3, progress=fill, cancel=lambda: "keep" if limit.failures > 1 else None)
    assert report["samples"] == 1 and report["partial"]


def test_windows_are_not_smaller_than_a_half_of_the_models(
    limit: Limit, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench memory` shows why: with a quarter the shipped model's masks are others, whatever the report says."""
    monkeypatch.undo()
    limit = Limit(monkeypatch)
    limit.cells = CELLS / 2
    with pytest.raises(OutOfMemoryError, match="not even for small windows"):
        run("half")  # which is 32 voxels here, and the head has 28 x 32 x 32
    assert limit.failures == 1


def test_where_nothing_is_left_to_make_smaller_it_is_one_sentence(limit: Limit, run: Callable, tmp_path: Path) -> None:
    limit.cells = 100
    with pytest.raises(OutOfMemoryError, match="did not suffice, not even for small windows; close") as caught:
        run("none")
    assert caught.value.kind == "memory" and caught.value.try_device is None
    assert not (tmp_path / "none").exists()


def test_a_full_gpu_offers_the_cpu() -> None:
    error = out_of_memory_error(torch.device("cuda", 1))
    assert error.try_device == "cpu" and "'cuda:1'" in str(error) and "use the CPU" in str(error)


def test_a_model_that_does_not_fit_on_the_device_is_the_same_sentence(run: Callable) -> None:
    class Full(ModelCache):
        def get(self, *_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="not even for small windows"):
        run("none", models=Full())


def test_groups_fit_into_half_of_what_is_free(a_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = MemoryPlan(load(a_model_folder), torch.device("cuda"))
    tiling = Tiling((28, 32, 32), (64, 64, 64), 4)
    one = 12 * 4 * 8 * 3 * CELLS
    for free, group in ((0, 1), (2 * one, 1), (7 * one, 3), (100 * one, 8)):
        monkeypatch.setattr(devices, "free_bytes", lambda device, free=free: free)
        assert plan.group_size(tiling) == group


def test_a_run_that_cannot_fit_is_refused_with_the_figures_before_a_network_runs(
    limit: Limit, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000)
    limit.cells = 0
    words = r"^Segmenting this volume needs about 0\.0 GB of memory and 0\.0 GB are free; crop it, or close"
    with pytest.raises(OutOfMemoryError, match=words) as caught:
        run("refused")
    assert caught.value.kind == "memory" and limit.failures == 0


def test_windows_become_smaller_before_the_system_would_end_the_process(a_model_folder: Path) -> None:
    """On a CPU an allocation seldom fails, so the encoder's pass must be seen to fit before it begins."""
    model = load(a_model_folder)

    def tiling() -> Tiling:
        return Tiling((128, 128, 128), plan.window, 4)

    model.section["window"] = [128, 128, 128]
    model.section["network"]["encoder"]["channels"][0] = 128
    plan = MemoryPlan(model, torch.device("cpu"))
    whole, drawing = plan.encoding_bytes(tiling()), plan.sampling_bytes(tiling())
    assert drawing < whole  # else smaller windows would not help
    free = whole - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available_memory", lambda: free)
        plan.require(tiling, 1000, 1000)
        assert plan.window == (64, 64, 64) and plan.encoding_bytes(tiling()) < free
        assert plan.notes == [SMALLER]
        patch.setattr(memory, "available_memory", lambda: 1000)
        with pytest.raises(OutOfMemoryError, match="needs about"):
            plan.require(tiling, 1000, 1000)


def test_what_a_run_needs_grows_with_the_volume_and_not_with_the_samples(a_model_folder: Path) -> None:
    plan = MemoryPlan(load(a_model_folder), torch.device("cpu"))
    small, large = (Tiling((n, n, n), (64, 64, 64), 4) for n in (64, 128))
    assert plan.encoding_bytes(large) > plan.encoding_bytes(small) > 4 * 8 * 64**3
    assert plan.sampling_bytes(large) == pytest.approx(8 * plan.sampling_bytes(small), rel=0.3)


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


def test_thinning_places_does_not_keep_every_list_that_was_left() -> None:
    places = np.argwhere(np.ones((60, 60, 60), bool))
    tracemalloc.start()
    try:
        kept = watershed._thinned(places, np.ones(3), 10.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Views of all lists would have kept 143 times the first.
    assert len(kept) > 100 and peak < 6 * places.nbytes


def test_compressed_masks_are_the_masks(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (4, 5, 6), np.uint8)
    packed = CompressedMask(mask[:, ::-1])
    assert packed.shape == mask.shape and len(packed) == 4
    np.testing.assert_array_equal(packed.whole(), mask[:, ::-1])


PROC = Path("/proc")
MEMINFO = "MemTotal: 8000 kB\nMemAvailable:    5000 kB\nSwapFree:    9000 kB\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc and a /sys/fs/cgroup of the test's own."""

    class Rooted(type(tmp_path)):
        def __new__(cls, *parts: str) -> Path:
            whole = Path(*parts)
            return tmp_path / "proc" / whole.relative_to(PROC) if whole.is_relative_to(PROC) else whole

    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text("")
    monkeypatch.setattr(memory, "Path", Rooted)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "groups")
    return tmp_path


def test_swap_is_no_memory(proc: Path) -> None:
    assert memory.available_memory() == 5_000 * 1024


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/job/step\n", "job/step", ("memory.max", "memory.current", "inactive_file")),
        ("0::/job/step\n", "job", ("memory.max", "memory.current", "inactive_file")),
        (
            "9:cpu,memory:/slurm/7\n1:pids:/x\n0::/\n",
            "memory/slurm/7",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
        # In a container of the first version the path is that of the host, and the mount shows the group as the root.
        ("4:memory:/docker/abc\n", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ],
)
def test_control_groups_of_both_versions_count(proc: Path, line: str, folder: str, names: tuple[str, ...]) -> None:
    (proc / "proc" / "self" / "cgroup").write_text(line)
    group = proc / "groups" / folder
    group.mkdir(parents=True)
    limit, held, cached = names
    (group / limit).write_text("4000000\n")
    (group / held).write_text("3000000\n")
    (group / "memory.stat").write_text(f"cache 5\n{cached} 500000\n")
    assert memory.available_memory() == 1_500_000
    (group / limit).write_text("9223372036854771712\n")
    assert memory.available_memory() == 5_000 * 1024


def test_a_container_has_what_its_control_group_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path(Path("/proc/self/cgroup").read_text().partition("0::/")[2].strip())
    folder = tmp_path / own
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    whole = memory.available_memory()
    for name, text in (("max", "50000000"), ("current", "30000000"), ("stat", "anon 5\ninactive_file 10000000\n")):
        (folder / f"memory.{name}").write_text(text)
    assert memory.available_memory() == 30_000_000
    (folder / "memory.max").write_text("max\n")
    assert memory.available_memory() == pytest.approx(whole, rel=0.2)


def test_apples_gpu_is_offered_where_it_is_and_used_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no Apple GPU here"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16_000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1_000)
    assert devices.devices()[-1] == {"id": "mps", "name": "Apple GPU", "totalBytes": 16_000, "freeBytes": 15_000}
    assert choose_device("mps").type == "mps" and choose_device("auto").type == "cpu"
    mps = torch.device("mps")
    assert explain_gpu_error(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), mps).kind == "memory"
    told = explain_gpu_error(NotImplementedError("The operator 'aten::x' is not implemented for the MPS device."), mps)
    assert isinstance(told, GpuError) and told.try_device == "cpu" and "Apple's GPU cannot run this model" in str(told)


GPU_ERRORS = {
    "CUDA error: out of memory": "did not suffice",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": "did not suffice",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`": "did not suffice",
    "GET was unable to find an engine to execute this computation": "did not suffice",
    "CUDA error: no kernel image is available for execution on the device": "does not support this graphics card",
    "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors": "Another program has",
    "CUDA error: unspecified launch failure": "stopped working; segment again",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED": "(cuDNN error: CUDNN_STATUS_EXECUTION_FAILED); use the CPU",
}


@pytest.mark.parametrize("said", GPU_ERRORS)
def test_each_failure_of_a_gpu_has_its_sentence_and_offers_the_cpu(said: str) -> None:
    error, gpu = RuntimeError(said), torch.device("cuda", 0)
    problem = explain_gpu_error(error, gpu)
    assert GPU_ERRORS[said] in str(problem) and "\n" not in str(problem) and problem.try_device == "cpu"
    assert isinstance(problem, OutOfMemoryError) == is_out_of_memory(error) == ("suffice" in GPU_ERRORS[said])
    assert isinstance(problem, DeviceLostError) == ("stopped" in str(problem))


def test_what_is_no_failure_of_a_gpu_stays_what_it_is() -> None:
    for device in (torch.device("cpu"), torch.device("cuda", 0)):
        assert explain_gpu_error(RuntimeError("shapes do not match"), device) is None
        assert explain_gpu_error(RuntimeError("DefaultCPUAllocator: can't allocate memory"), device) is None
        assert (
            explain_gpu_error(
                RuntimeError("Exception thrown in SimpleITK: Failed to allocate memory for image."), device
            )
            is None
        )
    assert isinstance(
        explain_gpu_error(type("AcceleratorError", (RuntimeError,), {})("reset"), torch.device("cpu")), GpuError
    )


def test_auto_takes_the_first_gpu_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    busy: set[int] = set()

    def memory_of(index: int) -> tuple[int, int]:
        if index in busy:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
        return 1, 2

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory_of)
    for full, chosen in ((-1, "cuda:0"), (0, "cuda:1"), (1, "cpu")):
        busy.add(full)
        assert str(choose_device("auto")) == chosen


def test_a_gpu_that_is_gone_is_told_from_one_that_is_full(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("CUDA error: unspecified launch failure")

    def reset(*_: Any) -> None:
        raise lost

    monkeypatch.setattr(Denoiser, "forward", reset)
    with pytest.raises(DeviceLostError, match="stopped working; segment again, or use the CPU") as caught:
        run("lost")
    assert caught.value.try_device == "cpu"
