"""Memory of a run beside its estimate, and the effect of smaller windows.

    python Testing/benchmarks/memory.py VOLUME [--model NAME|DIR] [--samples N]

First, each in a process of its own: the most memory of the stages of a run on the CPU, above what the process took
before it, for a few samples and for many, beside the plan's estimate (Linux). Then VOLUME with the model's windows and
with ones of half and of a quarter of their edge, as a full memory leads to: how alike the masks of the same seeds and
the consensus are, by Dice, and how far the entropy is apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from accuracy import mean_dice

from diffusion_segmentation.segmentation import memory_plan
from diffusion_segmentation.segmentation import pipeline as segment
from diffusion_segmentation.segmentation.memory_plan import MemoryPlan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--samples", type=int, default=16, help="the larger number, default: %(default)s")
    options = parser.parse_args()
    volume = options.volume.resolve()
    fresh = multiprocessing.get_context("spawn")
    print(f"{'':<28} {'samples':>8} {'estimate':>10} {'encoding':>10} {'sampling':>10} {'writing':>10}   MB")
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.nrrd"
        sitk.WriteImage(ball(160, 2.0), str(whole))
        for name, path in ((volume.name[:28], volume), ("ball, 160^3 of 2 mm", whole)):
            for samples in (2, options.samples):
                with fresh.Pool(1) as pool:
                    estimate, peaks = pool.apply(measure, (path, options.model, samples, Path(folder) / "out"))
                stages = " ".join(f"{peaks[stage] / 1e6:10.0f}" for stage in ("encoding", "sampling", "writing"))
                print(f"{name:<28} {samples:>8} {estimate / 1e6:10.0f} {stages}", flush=True)
        windows(volume, options.model, Path(folder))


def ball(edge: int, spacing: float) -> sitk.Image:
    """A ball in a ball, with noise: no air, and many uncertain voxels."""
    z, y, x = np.ogrid[(slice(-1, 1, edge * 1j),) * 3]
    radius = np.sqrt(z * z + y * y + x * x)
    noise = 3 * np.random.default_rng(0).standard_normal(radius.shape)
    image = sitk.GetImageFromArray((100 * (radius < 0.95) + 50 * (radius < 0.6) + noise).astype(np.float32))
    image.SetSpacing((spacing,) * 3)
    return image


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def measure(volume: Path, model: str, samples: int, output: Path) -> tuple[int, dict[str, int]]:
    """The estimate of a run, and the most that each stage took above what was there before the encoding, in bytes."""
    torch.set_num_threads(1)
    estimates, peaks, before, stage = [], {}, 0, ""
    memory_plan.memory.require = lambda needed, *_: estimates.append(needed)

    def follow(now: segment.Progress) -> None:
        nonlocal before, stage
        if now.stage != stage:
            peaks[stage], stage = status("VmHWM") - before, now.stage
            Path("/proc/self/clear_refs").write_text("5")  # reset the peak
            before = status("VmRSS") if stage == "encoding" else before

    request = segment.Request(
        volume, output, model, samples, steps=2, device="cpu", keep_samples=True, compress=False, previews=True
    )
    segment.segment(request, progress=follow)
    peaks[stage] = status("VmHWM") - before
    return estimates[-1], peaks


def windows(volume: Path, model: str, folder: Path) -> None:
    """Print how much smaller windows change of the result of 4 samples."""
    print(f"\n{'windows':>8} {'Dice of masks':>14} {'of consensus':>14} {'entropy, mean and 99 % apart':>30}   bits")
    before = None
    for number in (1, 2, 4):
        plans = MemoryPlan.__init__

        def smaller(plan: MemoryPlan, *given: object, number: int = number, plans: object = plans) -> None:
            plans(plan, *given)
            plan.window = tuple(edge // number for edge in plan.window)

        MemoryPlan.__init__ = smaller
        output = folder / str(number)
        request = segment.Request(volume, output, model, 4, device="cpu", keep_samples=True, compress=False)
        report = segment.segment(request).report
        MemoryPlan.__init__ = plans
        files = ("samples.seq.nrrd", "segmentation.seg.nrrd", "entropy.nrrd")
        masks, labels, bits = (sitk.GetArrayFromImage(sitk.ReadImage(str(output / file))) for file in files)
        before = before or (masks, labels, bits)
        classes = report["classes"]
        of_masks = [mean_dice(masks[..., n], before[0][..., n], classes) for n in range(4)]
        of_labels = mean_dice(labels, before[1], classes)
        apart = np.abs(bits - before[2])[(bits > 0.01) | (before[2] > 0.01)]
        print(
            f"{report['windows']:>8} {np.mean(of_masks):14.4f} {of_labels:14.4f} "
            f"{apart.mean():20.4f} {np.quantile(apart, 0.99):9.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
