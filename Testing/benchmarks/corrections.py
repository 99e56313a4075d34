"""Does correcting a region reduce the error elsewhere? The shipped model on synthetic heads, whose labels are known.

    python Testing/run.py bench corrections PRIORS --output DIR [--heads N] [--size N] [--rounds N] [--model NAME]
        [--seed N] [--volume FILE]

PRIORS is what `training/synthetic_heads/atlas.py` writes. Each head is a block of SIZE voxels each way (64) at the
spacing of the model, with the contrasts and artefacts of the training. It is segmented; then, ROUNDS times (4), the
region that is first in the queue gets its true labels, which become facts, and the result is updated in the same
process. Beside it the same number of regions of the first queue gets its true labels without an update (`pasted`).
Regions of both are those of the report. Errors are numbers of wrong voxels.

Written is DIR/corrections.json; printed are the change of the error outside all facts by the first update, as a share
of the error there (mean over heads with a 95 % bootstrap interval), the curves of the remaining error, in % of that
without corrections, and CPU seconds on a whole head at 1 mm: of a first run, of an update given the first region of
its queue, and of one given a cube of REGION_MM around the peak of that region. With `--heads 0` only these times, also
of the scan `--volume FILE` in place of the synthetic head.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from diffusion_segmentation.metrics.bootstrap import interval
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.networks import UNKNOWN
from diffusion_segmentation.runtime.terminal import ProgressLine, StepCounter
from diffusion_segmentation.segmentation.pipeline import ModelCache, Request, segment
from diffusion_segmentation.segmentation.updating import update_request
from diffusion_segmentation.training.synthetic_heads import generator as synthesis

WHOLE_MM = (224, 224, 192)
SAMPLES = 16
REGION_MM = 48
LEVEL = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("priors", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--volume", type=Path)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    atlas, cache = synthesis.Atlas.load(options.priors), ModelCache()
    spacing = models.read_metadata(models.find(options.model))["diffusion_segmentation"]["working_spacing_mm"]
    rows: list[dict] = []
    with ProgressLine() as line, tempfile.TemporaryDirectory() as folder:
        if options.volume:
            image = sitk.ReadImage(str(options.volume), sitk.sitkFloat32)
        else:
            shape = tuple(round(n / spacing) for n in WHOLE_MM)
            image, _ = head(atlas, np.random.default_rng(options.seed), shape, spacing)
        times = seconds(Path(folder), image, cache, options)
        if not options.heads:
            (options.output / "corrections.json").write_text(json.dumps({"seconds": times}, indent=1) + "\n")
            print(summary_of_times(times))
            return
        counter = StepCounter(line, "correcting")
        for index in range(options.heads):
            rng = np.random.default_rng([options.seed, index])
            image, truth = head(atlas, rng, (options.size,) * 3, spacing)
            rows.append(corrected(Path(folder) / str(index), image, truth, cache, options))
            result = {"heads": rows, "seconds": times}
            (options.output / "corrections.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            counter(index + 1, options.heads)
    print(summary(rows, times))


def head(
    atlas: synthesis.Atlas, rng: np.random.Generator, shape: tuple[int, ...], spacing: float
) -> tuple[sitk.Image, np.ndarray]:
    """A synthetic scan and its labels uint8 [z, y, x], with voxels of `spacing` mm."""
    step = spacing / 2
    anatomy = synthesis.draw_anatomy(atlas, rng)
    fine = synthesis.deform(anatomy, tuple(2 * n for n in shape), rng, step, synthesis.VentricleWall.of(atlas))
    voxels, labels = synthesis.render_scan(fine, atlas, rng, step)
    image = sitk.GetImageFromArray(voxels.astype(np.float32))
    image.SetSpacing((spacing,) * 3)
    return image, labels


def corrected(
    folder: Path, image: sitk.Image, truth: np.ndarray, cache: ModelCache, options: argparse.Namespace
) -> dict:
    """Errors of one head: `wrong` and `pasted` after 0, 1, ... corrected regions, and what the first update changed."""
    folder.mkdir()
    volume = folder / "head.nrrd"
    sitk.WriteImage(image, str(volume))
    first = run(Request(volume, folder / "0", **settings(options)), cache)
    labels, regions = read(folder / "0", "segmentation.seg.nrrd"), on_grid(folder / "0", image)
    queue = [entry["basin"] for entry in first["regions"]]
    row: dict = {"first": int((labels != truth).sum()), "updated": [], "pasted": [], "facts": []}
    facts, shown = np.full(truth.shape, UNKNOWN, np.uint8), labels
    for number in range(1, options.rounds + 1):
        before = folder / str(number - 1)
        report = json.loads((before / "report.json").read_text(encoding="utf-8"))
        if not report["regions"] or number > len(queue):
            break
        inside = on_grid(before, image) == report["regions"][0]["basin"]
        facts[inside] = truth[inside]
        write_facts(folder / "facts.nrrd", facts, image)
        request = update_request(
            before, volume, folder / "facts.nrrd", folder / str(number), device="cpu", keep_samples=True
        )
        run(request, cache)
        shown = read(folder / str(number), "segmentation.seg.nrrd")
        unknown = facts == UNKNOWN
        assert (shown == facts)[~unknown].all()
        if number == 1:
            wrong, still = ((one != truth) & unknown for one in (labels, shown))
            row |= {"outside": int(wrong.sum()), "outside_updated": int(still.sum())}
            row |= {"mended": int((wrong & ~still).sum()), "broken": int((still & ~wrong).sum())}
        pasted = np.where(np.isin(regions, queue[:number]), truth, labels)
        row["updated"].append(int((shown != truth).sum()))
        row["pasted"].append(int((pasted != truth).sum()))
        row["facts"].append([int((~unknown).sum()), int(np.isin(regions, queue[:number]).sum())])
    return row


def seconds(folder: Path, image: sitk.Image, cache: ModelCache, options: argparse.Namespace) -> dict:
    """CPU and wall seconds of a first run on the whole head at 1 mm, whose model is loaded, and of updates of it."""
    size = [round(n * s) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    fine = sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), (1.0, 1.0, 1.0), image.GetDirection()
    )
    volume, place = folder / "whole.nrrd", folder / "whole"
    sitk.WriteImage(fine, str(volume))
    times = {}
    cache.get(options.model, torch.device("cpu"))
    report, times["first"] = timed(Request(volume, place, **settings(options)), cache)
    worst, labels = report["regions"][0], read(place, "segmentation.seg.nrrd")
    times["stages_of_first"] = report["timings_s"]
    right, anterior, superior = worst["peak_ras_mm"]
    peak = fine.TransformPhysicalPointToIndex((-right, -anterior, superior))[::-1]
    cube = np.zeros(labels.shape, bool)
    cube[tuple(slice(max(0, n - REGION_MM // 2), n + REGION_MM // 2) for n in peak)] = True
    for name, inside in (("update", on_grid(place, fine) == worst["basin"]), ("cube", cube)):
        facts = folder / f"facts-{name}.nrrd"
        write_facts(facts, np.where(inside, labels, UNKNOWN).astype(np.uint8), fine)
        same = {"device": "cpu", "keep_samples": True, "compress": False}
        report, times[name] = timed(update_request(place, volume, facts, folder / name, options.model, **same), cache)
        times[f"stages_of_{name}"] = report["timings_s"]
    return times


def timed(request: Request, cache: ModelCache) -> tuple[dict, list[float]]:
    began = time.process_time(), time.perf_counter()
    report = run(request, cache)
    return report, [time.process_time() - began[0], time.perf_counter() - began[1]]


def settings(options: argparse.Namespace) -> dict:
    return {"model": options.model, "samples": SAMPLES, "device": "cpu", "keep_samples": True, "compress": False}


def run(request: Request, cache: ModelCache) -> dict:
    return segment(request, models=cache).report


def read(folder: Path, name: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name)))


def on_grid(folder: Path, image: sitk.Image) -> np.ndarray:
    """The label map of regions, which covers the segmented part of the head, on the whole grid of `image`."""
    part = sitk.ReadImage(str(folder / "regions.nrrd"))
    whole = sitk.Resample(part, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(whole)


def write_facts(path: Path, facts: np.ndarray, image: sitk.Image) -> None:
    written = sitk.GetImageFromArray(facts)
    written.CopyInformation(image)
    sitk.WriteImage(written, str(path))


def summary(rows: list[dict], times: dict) -> str:
    rng = np.random.default_rng(0)
    used = [row for row in rows if row.get("outside")]
    change = np.array([100 * (row["outside_updated"] / row["outside"] - 1) for row in used])
    better = int((change < 0).sum())
    mean, low, high = interval(change, LEVEL, rng)
    lines = [
        f"error outside of the first corrected region: {mean:+.2f} % ({low:+.2f} to {high:+.2f}), "
        f"less in {better} of {len(used)} heads",
        f"{'regions':>8}{'updated, %':>24}{'pasted, %':>24}{'difference, %':>24}{'facts':>10}{'pasted':>10}",
    ]
    for number in range(max(len(row["updated"]) for row in used)):
        there = [row for row in used if len(row["updated"]) > number]
        shares = {
            key: np.array([100 * row[key][number] / row["first"] for row in there]) for key in ("updated", "pasted")
        }
        if len(there) < 2:
            break
        texts = [
            "{:.2f} ({:.2f}-{:.2f})".format(*interval(values, LEVEL, rng))
            for values in (shares["updated"], shares["pasted"], shares["updated"] - shares["pasted"])
        ]
        voxels = np.mean([row["facts"][number] for row in there], 0)
        lines.append(
            f"{number + 1:>8}" + "".join(f"{text:>24}" for text in texts) + "{:>10.0f}{:>10.0f}".format(*voxels)
        )
    return "\n".join([*lines, summary_of_times(times)])


def summary_of_times(times: dict) -> str:
    texts = [
        f"{what} {times[name][0]:.1f} s ({times[name][1]:.1f} s), ratio {times[name][0] / times['first'][0]:.2f}"
        for name, what in (("update", "update of a region"), ("cube", f"of {REGION_MM} mm around its peak"))
    ]
    first, wall = times["first"]
    return f"whole head at 1 mm, CPU (wall) time: first run {first:.1f} s ({wall:.1f} s), {', '.join(texts)}"


if __name__ == "__main__":
    main()
