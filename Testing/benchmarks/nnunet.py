"""A converted nnU-Net beside nnU-Net's own predictor: logits, time and memory.

    python Testing/benchmarks/nnunet.py [--edge N] [--rounds N]

An untrained network of nnU-Net with three folds segments a ball of N^3 voxels at 1.5 mm on the CPU, alternately by this
program and by nnU-Net's predictor with the same folds, each from the volume in memory to class probabilities on its
grid. Then a whole run in a process of its own: its peak memory above what the process took before, beside the estimate
that it is refused by (Linux). Needs the extra [nnunet].
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from memory import ball, status

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
import nnunet_folders

from diffusion_segmentation.nnunet import run
from diffusion_segmentation.nnunet.convert import convert
from diffusion_segmentation.nnunet.library import quiet
from diffusion_segmentation.nnunet.model import read_model
from diffusion_segmentation.nnunet.prediction import Prediction
from diffusion_segmentation.segmentation.request import Request
from diffusion_segmentation.segmentation.run_control import RunControl

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--edge", type=int, default=96, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trained, model = Path(folder) / "trained", Path(folder) / "model"
        nnunet_folders.write_folder(trained, larger_plans(), folds=("0", "1", "2"), trained=True)
        model.mkdir()
        convert(trained, model)
        volume = Path(folder) / "ball.nrrd"
        sitk.WriteImage(ball(options.edge, 1.5), str(volume))
        compare(trained, model, volume, options.rounds)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            estimate, peak = pool.apply(memory_of_run, (model, volume, Path(folder) / "result"))
        print(f"memory of a run: {peak / 1e6:.0f} MB, estimate {estimate / 1e6:.0f} MB")


def larger_plans() -> dict:
    """Plans of four stages with a window of 64^3 and 2 mm."""
    plans = nnunet_folders.plans()
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {"patch_size": [64] * 3, "spacing": [2.0] * 3}
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": 4,
        "features_per_stage": [16, 32, 64, 128],
        "kernel_sizes": [[3] * 3] * 4,
        "strides": [[1] * 3, *[[2] * 3] * 3],
        "n_conv_per_stage": [2] * 4,
        "n_conv_per_stage_decoder": [2] * 3,
    }
    return plans


def compare(trained: Path, folder: Path, volume: Path, rounds: int) -> None:
    """Print the difference of the logits of the first fold, and times of both programs for all folds."""
    image = sitk.ReadImage(str(volume), sitk.sitkFloat32)
    values, properties = sitk.GetArrayFromImage(image)[None], {"spacing": list(image.GetSpacing()[::-1])}
    model = read_model(folder)
    ours = Prediction(model, CPU, RunControl(lambda _: None, lambda: None), lambda done, of: None)
    with quiet():
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        theirs = [nnUNetPredictor(device=CPU, allow_tqdm=False) for _ in model.folds]
        for number, predictor in enumerate(theirs):
            predictor.initialize_from_trained_model_folder(str(trained), (number,))
    case = ours.preprocessed([image])
    expected = theirs[0].predict_logits_from_preprocessed_data(case.data)
    difference = float((ours.logits(case, model.folds[0]).float() - expected.float()).abs().max())
    print(f"largest difference of the logits: {difference:g}, their deviation: {float(expected.float().std()):.2g}")

    def segment_ours() -> None:
        case = ours.preprocessed([image])
        for fold in model.folds:
            ours.probabilities(case, ours.logits(case, fold))

    def segment_theirs() -> None:
        for predictor in theirs:
            with quiet():
                predictor.predict_single_npy_array(values, dict(properties), save_or_return_probabilities=True)

    times: dict[str, list[float]] = {"this program": [], "nnU-Net": []}
    for _ in range(rounds):
        for name, segment in (("this program", segment_ours), ("nnU-Net", segment_theirs)):
            start = time.perf_counter()
            segment()
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"{name}: {' '.join(f'{s:.2f}' for s in seconds)} s")
    print(f"ratio of the medians: {np.divide(*map(statistics.median, times.values())):.3f}")


def memory_of_run(folder: Path, volume: Path, output: Path) -> tuple[int, int]:
    """Estimate, and peak memory of a run above that of the process with all packages, in bytes."""
    model = read_model(folder)
    estimate = run.required_bytes(model, [sitk.ReadImage(str(volume), sitk.sitkFloat32)], on_cpu=True)
    Prediction(model, CPU, RunControl(lambda _: None, lambda: None), lambda done, of: None)  # imports nnU-Net
    before = status("VmRSS")
    run.segment(Request(volume, output, str(folder)), folder)
    return estimate, status("VmHWM") - before


if __name__ == "__main__":
    main()
