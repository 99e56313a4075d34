"""Spread of the diffusion model and of direct networks at equal training cost, compared with the true spread.

    python Testing/benchmarks/baselines.py --output DIR [--minutes M] [--cases N] [TASK ...]

Goes on from `known_answers.py --output DIR`, whose model of each task it takes. Every rival has that model's encoder,
data, optimiser and, all together, its CPU minutes of training:

    deep ensemble   five networks of a fifth of the minutes each; a sample is one member's most probable mask
    MC dropout      one network, a tenth of the channels dropped in training and in each of the 64 passes
    test-time       one network; a sample is its answer to the image turned or mirrored, turned back
    independent     that network's probabilities, each pixel drawn by itself

The numbers are those of `evaluate` on the same cases; where a row has masks, its probabilities are theirs. Finished
trainings and cases are kept.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from known_answers import TASKS
from safetensors.torch import load_file, save_file

from diffusion_segmentation.evaluation.known_answer.run import CASES, SAMPLES, evaluate_known
from diffusion_segmentation.evaluation.known_answer.samplers import Prediction, Steps, independent_pixels
from diffusion_segmentation.evaluation.known_answer.scores import summarise
from diffusion_segmentation.evaluation.store import CaseStore
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.building import build
from diffusion_segmentation.networks import Encoder, class_softmax, depth_to_space, space_to_depth
from diffusion_segmentation.networks.blocks import ResidualBlock
from diffusion_segmentation.runtime.floating_point import flush_denormals
from diffusion_segmentation.segmentation.sampler import draw, sample_seeds
from diffusion_segmentation.training.loss import cross_entropy
from diffusion_segmentation.training.settings import Optimisation
from diffusion_segmentation.training.sources import Phantoms

MEMBERS, DROPPED = 5, 0.1
SHOWN = ("ged_u", "volume_variance_ratio", "coverage", "probability_rmse")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", metavar="TASK", nargs="*", default=TASKS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for task in options.tasks:
        folder = options.output / task.replace(":", "-")
        compare(task, folder, options.minutes, options.cases)


def compare(task: str, folder: Path, minutes: float, cases: int | None) -> None:
    """Train what is missing, evaluate all rows on the same cases, print them."""
    phantom = Phantoms(task).phantom
    model = models.load(folder / "model")
    ensemble = [
        trained(task, folder / f"member-{n}.safetensors", minutes / MEMBERS, seed=n + 1) for n in range(MEMBERS)
    ]
    dropout = trained(task, folder / "dropout.safetensors", minutes, seed=11, dropped=DROPPED)
    single = trained(task, folder / "single.safetensors", minutes, seed=21)

    def respond(image: np.ndarray, index: int) -> dict[str, Prediction]:
        seed = sample_seeds(0, 1, index)[0]
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        with flush_denormals(), torch.inference_mode():
            samples = draw(model, image, SAMPLES, Steps(10).grid(model), seed)
            members = np.stack([probabilities(network, image) for network in ensemble])
            noisy = np.stack([probabilities(dropout, image) for _ in range(SAMPLES)])
            views = np.stack([back(probabilities(single, turn(image))) for turn, back in turns(image.ndim)])
        direct = probabilities(single, image)
        return {
            "diffusion": Prediction(samples.mean, samples.masks),
            "deep ensemble": mixture(members, rng),
            "MC dropout": mixture(noisy, rng),
            "test-time": mixture(views, rng),
            "independent": Prediction(direct, independent_pixels(direct, SAMPLES, rng)),
        }

    store = CaseStore(folder / "baselines", {"task": task, "model": model.section["sha256"], "minutes": minutes})
    records = evaluate_known(phantom, respond, cases or CASES[len(phantom.shape)], SAMPLES, 0, store)
    rows = summarise(list(records.values()))
    print(f"\n{task}, {len(records)} cases, {SAMPLES} samples\n{'':<16}" + "".join(f"{name:>24}" for name in SHOWN))
    for key, row in rows.items():
        print(f"{key:<16}" + "".join(f"{written(row['scores'][name]):>24}" for name in SHOWN))


def trained(task: str, path: Path, minutes: float, seed: int, dropped: float = 0.0) -> Encoder:
    """A direct network on the cross-entropy of the task's draws, from `path` if it is there."""
    source = Phantoms(task)
    settings = source.settings()
    optimisation, section = Optimisation.read(settings["optimisation"]), settings["diffusion_segmentation"]
    torch.manual_seed(seed)
    classes = len(section["labels"]) + 1
    network, _ = build(section["network"], classes)
    if dropped:
        for block in network.modules():
            if isinstance(block, ResidualBlock):
                block.norm2.register_forward_hook(lambda _, __, h: drop(h, dropped))
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    print(f"{task}: training {path.stem} for {minutes:.1f} CPU minutes", flush=True)
    loader = torch.utils.data.DataLoader(source.stream(optimisation, seed), batch_size=optimisation.batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=optimisation.learning_rate, weight_decay=1e-2, fused=True)
    average = torch.optim.swa_utils.AveragedModel(
        network, avg_fn=lambda a, w, n: a.lerp(w, 1 - min(optimisation.average, (int(n) + 1) / (int(n) + 10)))
    )
    start = time.process_time()
    with flush_denormals():
        for step, (image, labels) in enumerate(loader, 1):
            done = (time.process_time() - start) / (60 * minutes)
            if done >= 1:
                break
            rate = optimisation.learning_rate * min(1.0, step / optimisation.warm_up)
            for group in optimiser.param_groups:
                group["lr"] = rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
            target = space_to_depth(labels.flatten(0, 1)[:, None]).long()
            logits = network(image)[1].repeat_interleave(labels.shape[1], 0)
            optimiser.zero_grad()
            cross_entropy(logits, target, classes).mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            average.update_parameters(network)
    network.load_state_dict(average.module.state_dict())
    partial = path.with_suffix(".partial")
    save_file(network.state_dict(), partial)
    os.replace(partial, path)
    return network.eval()


def drop(h: torch.Tensor, share: float) -> torch.Tensor:
    """Whole channels [N, C, ...] dropped, in sampling as in training."""
    keep = torch.rand(*h.shape[:2], *(1,) * (h.ndim - 2)) >= share
    return h * keep / (1 - share)


def probabilities(network: Encoder, image: np.ndarray) -> np.ndarray:
    """Class probabilities [C, *shape] of an image [*shape]."""
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.ascontiguousarray(image))[None, None])[1]
        return depth_to_space(class_softmax(logits))[0].numpy()


def turns(axes: int) -> Iterator[tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]]:
    """Every turn and mirroring of a grid of equal edges, and what undoes it on [C, *shape]."""
    for order in itertools.permutations(range(axes)):
        for flips in itertools.product((False, True), repeat=axes):
            flipped = tuple(axis for axis, flip in enumerate(flips) if flip)
            undo = (0, *(1 + order.index(axis) for axis in range(axes)))

            def turn(image, order=order, flipped=flipped):
                return np.flip(image.transpose(order), flipped)

            def back(p, undo=undo, flipped=flipped):
                return np.flip(p, tuple(axis + 1 for axis in flipped)).transpose(undo)

            yield turn, back


def mixture(several: np.ndarray, rng: np.random.Generator) -> Prediction:
    """The law in which one of the answers [n, C, *shape] is right, each as likely: SAMPLES draws of their masks."""
    masks = several.argmax(1).astype(np.uint8)
    chosen = np.arange(SAMPLES) if len(masks) == SAMPLES else rng.integers(len(masks), size=SAMPLES)
    return Prediction(several.mean(0), masks[chosen])


def written(score: dict) -> str:
    if score["low"] is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} ({score['low']:.3f}, {score['high']:.3f})"


if __name__ == "__main__":
    main()
