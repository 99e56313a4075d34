"""Samples given facts beside the exact conditional law, on tasks whose answer is known.

    python Testing/run.py bench facts --output DIR [--minutes M] [--cases N] [--method NAME ...] [--particles N]
        [TASK ...]

TASK is a phantom, by default boundary, lesions and template on 32x32. Each model is trained by `train TASK` for M
minutes (14), then with the option `facts` from there for M more; what is trained is kept. Each case gets facts of two
kinds. `random`: strokes, blobs, slices or one side of the image, with the labels of a draw from the posterior.
`contradicting`: a disc around a voxel where a draw from the flattened posterior differs from the most probable mask, of
probability 1e-6 to 0.2 in all. Scored against the exact law of the masks that agree with the facts are GED_U (at most
.015), the ratio of summed volume variances (.85 to 1.15) and the share of facts kept (1). Written are
DIR/TASK/facts.json and a table. The bars must refuse `pasted`, or the command fails.

Methods: `trained`, the denoiser given facts; `copula`, the Gaussian copula given facts, fitted to the task; `repaint`
(Lugmayr et al. 2022) and `smc` (Wu et al. 2023, twisted by the denoiser's probabilities of the facts) with the same
networks without facts; `pasted`, facts written over unconditional samples, which must fail; `exact`. With many
particles (64) the samples of `smc` follow the law that these networks have without facts, given the facts.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diffusion_segmentation.calibration.covariance import fit_covariance
from diffusion_segmentation.calibration.start import labelled
from diffusion_segmentation.diffusion.conditional_copula import ConditionalCopula
from diffusion_segmentation.diffusion.copula import Copula, Covariance
from diffusion_segmentation.diffusion.process import alpha_sigma, diffuse, one_hot_state
from diffusion_segmentation.evaluation.known_answer.posterior import Truth, score_case
from diffusion_segmentation.evaluation.known_answer.samplers import EXACT, Prediction, votes
from diffusion_segmentation.evaluation.known_answer.scores import summarise
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.networks import UNKNOWN, class_softmax, depth_to_space, space_to_depth
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.phantoms.enumerable import EnumerableCase
from diffusion_segmentation.runtime.terminal import ProgressLine, StepCounter
from diffusion_segmentation.segmentation.sampler import draw, normalised, sample_seeds
from diffusion_segmentation.segmentation.tiling import channels_first
from diffusion_segmentation.training.known_voxels import random_voxels
from diffusion_segmentation.training.sources import Phantoms

TASKS = ("boundary:32x32", "lesions:32x32", "template:32x32")
KINDS = ("random", "contradicting")
CONFIG = {"diffusion_segmentation": {"network": {"denoiser": {"facts": True}}}, "optimisation": {"batch": 4}}
SEED, FITTED, SAMPLES = 7, 60, 64
RARE = (1e-6, 0.2)  # probability of contradicting facts
FLATTENED = 0.5  # exponent of the posterior from which they are drawn
REPEATS = 5  # of each step of RePaint
BARS = {"ged_u": (-math.inf, 0.015), "volume_variance_ratio": (0.85, 1.15)}

Sampler = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""From an image, its facts and a seed to masks uint8 [SAMPLES, *shape]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", metavar="TASK", nargs="*", default=TASKS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--method", action="append", choices=[name for name in METHODS if name != EXACT])
    parser.add_argument("--particles", type=particle_count, default=SAMPLES)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    config = options.output / "config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    for task in options.tasks:
        folder = options.output / task.replace(":", "-")
        base = folder / "without-facts"
        for model, more in ((base, []), (folder / "model", ["--start", str(base), "--config", str(config)])):
            if not (model / "model.safetensors").exists():
                train = ["train", task, "--output", str(model), "--minutes", str(options.minutes), "--resume", *more]
                subprocess.run([sys.executable, "-m", "diffusion_segmentation", *train], check=True)
        model = models.load(folder / "model").to(torch.device("cpu"))
        rows = evaluate(task, model, options.cases, options.method, options.particles)
        (folder / "facts.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(table(task, rows), flush=True)
        if any(met(row) for row in rows if row["method"] == "pasted"):
            sys.exit(f"{task}: facts pasted on samples without facts meet the bars, so the bars show nothing.")


def particle_count(text: str) -> int:
    """A number of particles, from which SAMPLES are drawn without replacement."""
    number = int(text)
    if number < SAMPLES:
        raise argparse.ArgumentTypeError(f"at least {SAMPLES} particles are needed, one for each sample")
    return number


def evaluate(
    task: str, model: models.Model, cases: int, methods: list[str] | None = None, particles: int = SAMPLES
) -> list[dict]:
    """Scores of each method on `cases` cases with facts of each kind."""
    made = METHODS | {"smc": partial(smc, particles=particles)}
    with ProgressLine() as line:
        samplers = {name: made[name](task, model, line) for name in methods or made}
        rows, counter = [], StepCounter(line, f"{task}: comparing")
        for kind in KINDS:
            records, kept, seconds = [], {name: [] for name in samplers}, dict.fromkeys(samplers, 0.0)
            for index in range(cases):
                rng = np.random.default_rng([SEED, index, KINDS.index(kind)])
                case, facts = with_facts(phantom(task), kind, rng)
                truth, predictions = Truth(case, rng), {EXACT: predicted(case.sample(rng, SAMPLES), case.classes)}
                for name, sampler in samplers.items():
                    begin = time.perf_counter()
                    masks = sampler(case.image, facts, index)
                    seconds[name] += time.perf_counter() - begin
                    predictions[name] = predicted(masks, case.classes)
                    known = facts != UNKNOWN
                    kept[name].append(bool((masks[:, known] == facts[known]).all()))
                scores = {name: score_case(truth, one, rng) for name, one in predictions.items()}
                records.append({"case": truth.record(), "rows": scores})
                counter(KINDS.index(kind) * cases + index + 1, len(KINDS) * cases)
            for name, row in summarise(records).items():
                times = None if name == EXACT else seconds[name] / cases
                rows.append({"facts": kind, "method": name, "kept": float(np.mean(kept.get(name, [1.0])))})
                rows[-1] |= {key: row["scores"][key] for key in (*BARS, "probability_rmse")} | {"seconds": times}
    return rows


def with_facts(task, kind: str, rng: np.random.Generator) -> tuple[EnumerableCase, np.ndarray]:
    """A random case given random facts, and these; cases and facts that say nothing are drawn again."""
    while True:
        case = task.draw(rng)
        p = case.marginals
        if kind == "random":
            known, mask = random_voxels(case.shape, rng), case.sample(rng, 1)[0]
            if (p.max(0)[known] < 0.99).any():
                return case.given(known, mask), np.where(known, mask, UNKNOWN).astype(np.uint8)
            continue
        support, weights = case.support()
        flattened = weights**FLATTENED
        mask = support[rng.choice(len(weights), p=flattened / flattened.sum())]
        wrong = np.argwhere(mask != p.argmax(0))
        if not len(wrong):
            continue
        centre, radius = rng.choice(wrong), rng.uniform(1, 5)
        known = ((np.indices(case.shape).T - centre) ** 2).sum(-1).T <= radius**2
        agreeing = (support[:, known] == mask[known]).all(1)
        if RARE[0] <= weights[agreeing].sum() <= RARE[1]:
            return case.given(known, mask), np.where(known, mask, UNKNOWN).astype(np.uint8)


def predicted(masks: np.ndarray, classes: int) -> Prediction:
    return Prediction(votes(masks, classes), masks)


def trained(task: str, model: models.Model, line: ProgressLine) -> Sampler:
    grid = model.step_grid(model.section["steps"]["cpu"])
    return lambda image, facts, seed: draw(model, image, SAMPLES, grid, seed, facts).masks


def pasted(task: str, model: models.Model, line: ProgressLine) -> Sampler:
    grid = model.step_grid(model.section["steps"]["cpu"])

    def sampler(image: np.ndarray, facts: np.ndarray, seed: int) -> np.ndarray:
        return np.where(facts != UNKNOWN, facts, draw(model, image, SAMPLES, grid, seed).masks)

    return sampler


def copula(task: str, model: models.Model, line: ProgressLine) -> Sampler:
    cases = [labelled(model, *pair) for pair in Phantoms(task).labelled(FITTED, SEED)]
    covariance: Covariance = fit_covariance(cases, model.spacing, SEED, StepCounter(line, f"{task}: fitting"))

    def sampler(image: np.ndarray, facts: np.ndarray, seed: int) -> np.ndarray:
        p, known = normalised(draw(model, image, 1, model.step_grid(1), 0).direct), facts != UNKNOWN
        conditional = ConditionalCopula(Copula(covariance, p, model.spacing), p, known, facts)
        return np.stack([mask for mask, _ in conditional.draw(sample_seeds(seed, SAMPLES))])

    return sampler


class _Unconditional:
    """The networks on one image without facts, and ancestral steps with them."""

    def __init__(self, model: models.Model, image: np.ndarray, facts: np.ndarray, seed: int) -> None:
        self.model, self.generator = model, torch.Generator().manual_seed(seed)
        features, self.direct = model.encoder(torch.from_numpy(channels_first(image, model.dims))[None])
        self.prepared = model.denoiser.prepare(features, self.direct)
        labels = space_to_depth(torch.from_numpy(facts)[None, None])
        self.known = one_hot_state(labels, model.classes)
        self.grid = [float(node) for node in model.step_grid(model.section["steps"]["cpu"])]

    def noise(self, count: int = SAMPLES) -> torch.Tensor:
        return torch.randn((count, *self.direct.shape[1:]), generator=self.generator)

    def denoise(self, x: torch.Tensor, node: float) -> torch.Tensor:
        return class_softmax(self.model.denoiser(x, torch.full((len(x),), node), self.prepared, self.direct))

    def step(self, x: torch.Tensor, p: torch.Tensor, node: float, after: float) -> torch.Tensor:
        """x at the level `after`, drawn from q(x | x at `node`, x0 = 2 p - 1)."""
        (alpha, next_alpha), (_, next_sigma) = (
            a.tolist() for a in alpha_sigma(torch.tensor([node, after], dtype=torch.float64))
        )
        removed = -math.expm1(node - after)
        mean = next_alpha / alpha * (1 - removed) * x + next_alpha * removed * (2 * p - 1)
        return mean + next_sigma * removed**0.5 * self.noise(len(x))

    def with_facts(self, x: torch.Tensor, node: float) -> torch.Tensor:
        """The state with the facts, noised to the level, in place of the known voxels."""
        level = torch.full((len(x),), node)
        return torch.where(self.known == 0, x, diffuse(self.known.expand(x.shape), self.noise(len(x)), level))

    def back(self, x: torch.Tensor, node: float, before: float) -> torch.Tensor:
        """x, at `node`, noised to the lower level `before`."""
        (alpha, before_alpha), (sigma, before_sigma) = (a.tolist() for a in alpha_sigma(torch.tensor([node, before])))
        scale = before_alpha / alpha
        return scale * x + (before_sigma**2 - (scale * sigma) ** 2) ** 0.5 * self.noise(len(x))

    def masks(self, p: torch.Tensor) -> np.ndarray:
        p = torch.where(self.known == 0, p, (self.known + 1) / 2)
        return depth_to_space(p).argmax(1).to(torch.uint8).numpy()


def repaint(task: str, model: models.Model, line: ProgressLine) -> Sampler:
    @torch.inference_mode()
    def sampler(image: np.ndarray, facts: np.ndarray, seed: int) -> np.ndarray:
        one = _Unconditional(model, image, facts, seed)
        x = one.noise()
        for node, after in zip(one.grid, one.grid[1:], strict=False):
            for repeat in range(REPEATS):
                following = one.step(x, one.denoise(one.with_facts(x, node), node), node, after)
                following = one.with_facts(following, after)
                if repeat + 1 < REPEATS:
                    x = one.back(following, after, node)
            x = following
        return one.masks(one.denoise(x, one.grid[-1]))

    return sampler


def smc(task: str, model: models.Model, line: ProgressLine, particles: int = SAMPLES) -> Sampler:
    @torch.inference_mode()
    def sampler(image: np.ndarray, facts: np.ndarray, seed: int) -> np.ndarray:
        one = _Unconditional(model, image, facts, seed)
        x, before = one.noise(particles), torch.zeros(particles)
        for number, node in enumerate(one.grid):
            p = one.denoise(x, node)
            likely = ((one.known > 0) * p.clamp(min=1e-6).log()).flatten(1).sum(1)
            weights = torch.softmax(likely - before, 0)
            first = torch.rand((), generator=one.generator)
            chosen = torch.searchsorted(weights.cumsum(0), (torch.arange(particles) + first) / particles)
            chosen = chosen.clamp(max=particles - 1)
            x, p, before = x[chosen], p[chosen], likely[chosen]
            if number + 1 < len(one.grid):
                p = torch.where(one.known == 0, p, (one.known + 1) / 2)
                x = one.step(x, p, node, one.grid[number + 1])
        return one.masks(p[torch.randperm(particles, generator=one.generator)[:SAMPLES]])

    return sampler


METHODS = {"trained": trained, "copula": copula, "repaint": repaint, "smc": smc, "pasted": pasted}


def met(row: dict) -> bool:
    """Whether a row keeps all facts and lies within the bars."""
    return row["kept"] == 1 and all(low <= row[key]["value"] <= high for key, (low, high) in BARS.items())


def bounds(score: dict) -> str:
    """The 95 % interval of a score; few cases, and resampled cases without any variance, have none."""
    return "" if score["low"] is None else f"({score['low']:.3f}-{score['high']:.3f})"


def table(task: str, rows: list[dict]) -> str:
    lines = [f"{task:<16}{'facts':<15}{'GED_U':>24}{'variance ratio':>24}{'RMSE':>7}{'kept':>6}{'s':>7}  bars"]
    for row in rows:
        ged, ratio = (f"{row[key]['value']:.4f} {bounds(row[key])}" for key in BARS)
        lines.append(
            f"{row['method']:<16}{row['facts']:<15}{ged:>24}{ratio:>24}{row['probability_rmse']['value']:7.3f}"
            f"{row['kept']:6.2f}{row['seconds'] or 0:7.2f}  {'met' if met(row) else 'failed'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
