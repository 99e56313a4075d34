"""Cost of samples in passes of the direct prediction, and waiting times.

    python Testing/benchmarks/speed.py [VOLUME] [--model NAME|DIR] [--threads N]

Ratios are taken within one run, since machines are noisy: the denoiser's pass against the encoder's on one window of a
head at 2 mm (96 x 112 x 96 voxels), and eight samples of the default steps against one pass of the direct head over the
same volume. With VOLUME also the waiting, set-up excluded: seconds from command to files, and from a cold start of the
worker to its first preview.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from diffusion_segmentation.model import folder as models
from diffusion_segmentation.networks import class_softmax_
from diffusion_segmentation.segmentation.sampler import EncodedVolume, sample_seeds
from diffusion_segmentation.worker import protocol

WINDOW = (96, 112, 96)
SAMPLES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("volume", type=Path, nargs="?")
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ratios(options.model)
    if options.volume:
        waiting(options.volume.resolve(), options.model)


def ratios(name: str) -> None:
    model = models.load(models.find(name)).to(torch.device("cpu"))
    rng = np.random.default_rng(0)
    image = rng.random(WINDOW, dtype=np.float32)
    cpu = torch.device("cpu")
    grid = np.empty(0) if model.is_copula_only else model.step_grid(model.section["steps"]["cpu"])
    arguments = denoiser_arguments(model, image)
    # Interleaved, so that what else the machine does falls on both alike.
    encoder, denoiser, direct, sampling = [], [], [], []
    for _ in range(7):
        with torch.inference_mode():
            encoder.append(seconds(lambda: model.encoder(torch.from_numpy(image)[None, None])))
            denoiser.append(seconds(lambda: class_softmax_(model.denoiser(*arguments))))
    for _ in range(3):
        direct.append(seconds(lambda: EncodedVolume(model, image, cpu).direct()))
        sampling.append(seconds(lambda: samples_of(model, image, cpu, grid)))
    one, light = statistics.median(encoder), statistics.median(denoiser)
    fast, full = statistics.median(direct), statistics.median(sampling)
    print(f"encoder {one:.2f} s a window, denoiser {light:.3f} s a pass: 1/{one / light:.1f} of the encoder")
    print(
        f"direct head {fast:.2f} s, {SAMPLES} samples of {len(grid)} steps {full:.2f} s: "
        f"{full / fast:.1f} times the direct head"
    )


def denoiser_arguments(model: models.Model, image: np.ndarray) -> tuple[torch.Tensor, ...]:
    """What the denoiser is given on a window: state, log-SNR, prepared features, direct head's logits."""
    with torch.inference_mode():
        features, direct = model.encoder(torch.from_numpy(image)[None, None])
        state = torch.randn_like(direct)
        return state, torch.tensor([-1.0]), model.denoiser.prepare(features, direct), direct


def samples_of(model: models.Model, image: np.ndarray, device: torch.device, grid: np.ndarray) -> None:
    """Everything from image to the last sample, one after another as on a CPU; an empty grid denoises nothing."""
    encoded = EncodedVolume(model, image, device)
    for seed in sample_seeds(0, SAMPLES):
        if len(grid):
            encoded.sample([seed], grid)
        else:
            encoded.start_mask(seed)


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def waiting(volume: Path, model: str) -> None:
    command = [sys.executable, "-X", "utf8", "-m", "diffusion_segmentation"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["segment", str(volume), "--model", model, "--output", folder, "--device", "cpu"]
        start = time.perf_counter()
        subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(f"from command to files: {time.perf_counter() - start:.1f} s")
        report = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
        print(f"of these: {', '.join(f'{name} {elapsed:.1f} s' for name, elapsed in report['timings_s'].items())}")
    with tempfile.TemporaryDirectory() as folder:
        run = {
            "type": "run",
            "job": "1",
            "folder": folder,
            "volume": str(volume),
            "model": model,
            "samples": None,
            "steps": None,
            "seed": 0,
            "device": "cpu",
        }
        start = time.perf_counter()
        worker = subprocess.Popen(
            [*command, "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        with worker:
            worker.stdin.write(protocol.encode(run))
            worker.stdin.flush()
            messages = map(protocol.decode, worker.stdout)
            print(
                f"first preview (direct head) {arrival(messages, 'preview', start):.1f} s after a cold start", end=", "
            )
            print(f"all files {arrival(messages, 'done', start):.1f} s")
            worker.stdin.close()


def arrival(messages: Iterator[dict], kind: str, start: float) -> float:
    """Seconds until a message of this kind. Ends the program where the worker fails or ends before."""
    for message in messages:
        if message["type"] == kind:
            return time.perf_counter() - start
        if message["type"] == "error":
            break
    raise SystemExit(f"The worker ended before its {kind}.")


if __name__ == "__main__":
    main()
