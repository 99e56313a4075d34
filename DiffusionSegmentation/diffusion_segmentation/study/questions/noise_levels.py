"""A3: what is learnt at which noise level, compared with image generation."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import torch

from ... import metrics
from ...diffusion.process import sample_log_snr
from ...evaluation.known_answer.posterior import Truth
from ...evaluation.pooling import above, score
from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..curves import half_point, loss_over_levels, rise
from ..question import Question, Results
from ..sampling import VariantSampler
from ..scores import combine_seeds
from ..summary import FACT, FAILS, HOLDS, UNDECIDED, Figure, Summary, slug
from ..tasks import TRAIN, VALIDATION
from ..variants import Variant

STEPS = 20  # steps of the recorded sampling paths, fine enough to see where a label is decided
CASES, SAMPLES = 24, 8
MIN_RISE = 0.1  # a loss counts as non-monotonic if it rises by this share of its maximum
MIN_DISTANCE = 0.5
"""Fingerprints differ if their half-points are further apart than this in log-SNR (a fifth of one of ten steps)."""
CURVES = {
    "diffusion": "masks, with the image",
    "train": "masks, with the image, training cases",
    "mask": "masks, without the image",
    "image": "images",
}
FORMS = ("diffusion", "mask", "image")
VERDICTS = {True: HOLDS, False: FAILS, None: UNDECIDED}


class NoiseLevels(Question):
    """Loss over log-SNR of a mask denoiser with and without the image and of an image denoiser; sampling paths."""

    key = "A3"
    title = "What is learnt at which noise level"
    why = (
        "Öttl et al. study the loss at each noise level. In image generation it is said to fall monotonically as noise "
        "is added, for masks to fall and rise again. The error of masks denoised without their image is said to be a "
        "fingerprint of the task. Both are measured here for the same network, together with the step at which the "
        "sampler decides a voxel."
    )

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        return tuple(Variant(name, seed, form=form) for form in FORMS)

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        task = context.tasks[name]
        variants = dict(zip(FORMS, self.variants(name, seed), strict=True))
        networks = {form: context.network(variant) for form, variant in variants.items()}
        curves = {form: loss_over_levels(networks[form], v, task, VALIDATION) for form, v in variants.items()}
        curves["train"] = loss_over_levels(networks["diffusion"], variants["diffusion"], task, TRAIN)
        sampler = context.sampler(variants["diffusion"])
        grid = sampler.adapted_grid(STEPS)
        return {
            "curves": {
                form: {kind: _rounded(curve[kind]) for kind in ("loss", "error")} for form, curve in curves.items()
            },
            "log_snr": _rounded(curves["diffusion"]["log_snr"]),
            "grid": _rounded(grid),
            "paths": [trace(sampler, task.truth(i), grid, i) for i in range(min(CASES, len(task.cases)))],
        }

    def summarise(self, context: Context, results: Results) -> Summary:
        summary = Summary()
        for name in context.tasks:
            seeds = [results[name, seed] for seed in context.seeds]
            levels = np.array(seeds[0]["log_snr"])
            half_points, rises = {}, {}
            for form in FORMS:
                errors = [one["curves"][form]["error"] for one in seeds]
                half_points[form] = combine_seeds([score(x, partial(half_point, levels)) for x in errors])
                losses = [noise_error(one, form, levels) for one in seeds]
                rises[form] = combine_seeds([score(x, lambda loss: rise(loss.mean(0))) for x in losses])
            summary.numbers[name] = {"half_points": half_points, "rises": rises}
            _add_rises(summary, name, rises)
            share = np.mean([idle_share(np.array(one["curves"]["diffusion"]["loss"]).mean(0), levels) for one in seeds])
            summary.add(
                FACT,
                f"{name}: {100 * share:.0f} % of the noise levels of a cosine schedule lie where under 5 % of the loss "
                "has fallen or remains.",
            )
            summary.figures += [_curves_figure(name, seeds, levels), _path_figure(name, seeds)]
        summary.tables.append(_table(summary.numbers))
        _add_fingerprints(summary, {name: one["half_points"]["mask"] for name, one in summary.numbers.items()})
        return summary


def trace(sampler: VariantSampler, truth: Truth, grid: np.ndarray, seed: int) -> dict[str, Any]:
    """The labels of one case along the sampler's path.

    "reference": expected Dice with true masks at each step; "own": Dice with the final sample. "decided": share of
    voxels whose label does not change after each step, among ambiguous voxels (in a folder, near the structures).
    """
    classes = truth.case.classes
    samples = sampler.sample(truth.case.image, SAMPLES, grid, seed, path=True)
    labels = np.stack([p.argmax(1).astype(np.uint8) for p in samples.path])  # [steps, samples, *shape]
    end = labels[-1]
    changed = labels != end
    last = np.where(changed.any(0), len(labels) - changed[::-1].argmax(0), 0)
    ambiguous = np.broadcast_to(truth.anywhere, last.shape)
    decided = np.bincount(last[ambiguous], minlength=len(labels)) / max(1, ambiguous.sum())
    return {
        "reference": [_dice(step, truth.draws[: len(step)], classes) for step in labels],
        "own": [_dice(step, end, classes) for step in labels],
        "decided": _rounded(decided),
    }


def noise_error(result: Any, form: str, levels: np.ndarray) -> np.ndarray:
    """Squared error [cases, levels] of the noise: exp(log-SNR) times that of x0.

    For images it is the loss itself, because their error of x0 is bounded near pure noise.
    """
    if form == "image":
        return np.array(result["curves"][form]["loss"])
    return np.array(result["curves"][form]["error"]) * np.exp(levels)


def idle_share(loss: np.ndarray, levels: np.ndarray) -> float:
    """Share of the cosine schedule's draws at levels where under 5 % of the loss remains, or under 5 % has fallen."""
    falling = np.minimum.accumulate(loss)
    left = (falling - falling[-1]) / max(falling[0] - falling[-1], 1e-12)
    draws = sample_log_snr((torch.arange(2000) + 0.5) / 2000, 1.0).numpy()
    left = np.interp(draws, levels, left)
    return float(((left < 0.05) | (left > 0.95)).mean())


def _rounded(values: Any) -> Any:
    """Nested lists of floats with six digits, which keeps the cache small."""
    return [_rounded(v) for v in values] if np.ndim(values) > 0 else float(f"{float(values):.6g}")


def _add_rises(summary: Summary, name: str, rises: dict[str, Any]) -> None:
    titles = {"diffusion": "masks given the image", "mask": "masks without the image", "image": "images"}
    words = {True: "is not monotonic", False: "is monotonic", None: "is not decided to be monotonic"}
    for form, title in titles.items():
        rising, claimed = above(rises[form], MIN_RISE), form != "image"
        text = f"{name}: the noise-prediction loss of {title} {words[rising]}, rise {100 * rises[form]['value']:.0f} %"
        verdict = VERDICTS[None if rising is None else rising == claimed]
        summary.add(verdict, f'{text}; the claim is "{"not monotonic" if claimed else "monotonic"}".', claim=True)


def _add_fingerprints(summary: Summary, half_points: dict[str, dict[str, Any]]) -> None:
    words = {True: "differ", False: "do not differ", None: "are not decided to differ"}
    for a, b in itertools.combinations(half_points, 2):
        one, other = half_points[a], half_points[b]
        differ = _differ(one, other)
        text = f"{a} and {b}: the fingerprints {words[differ]}, distance {abs(one['value'] - other['value']):.2f}"
        summary.add(VERDICTS[differ], f'{text} in log-SNR; the claim is "differ".', claim=True)


def _differ(a: dict[str, Any], b: dict[str, Any]) -> bool | None:
    """Whether two half-points are further apart than MIN_DISTANCE; None if their intervals do not decide it."""
    if None in (a["low"], a["high"], b["low"], b["high"]):
        return None
    nearest = max(a["low"] - b["high"], b["low"] - a["high"])
    farthest = max(a["high"] - b["low"], b["high"] - a["low"])
    return above({"low": nearest, "high": farthest}, MIN_DISTANCE)


def _table(numbers: dict[str, Any]) -> Table:
    forms = ("mask", "diffusion", "image")
    head = ["", *(f"{kind}, {CURVES[form]}" for kind in ("half-point", "rise") for form in forms)]
    rows = [
        [Cell(name), *(scored(one[kind][form], 2) for kind in ("half_points", "rises") for form in forms)]
        for name, one in numbers.items()
    ]
    caption = (
        "Half-point: log-SNR at which the error of x0 is half of that in pure noise. Rise: how far the "
        "noise-prediction loss rises again as noise is added, as a share of its maximum. Each with the range of the "
        "seeds' 95 % intervals. The noise-prediction loss is the error of x0 times the signal-to-noise ratio: at the "
        "right end it multiplies the small error of a network trained for classes by 2,000"
    )
    return Table(caption, head, rows)


def _curves_figure(name: str, seeds: list[Any], levels: np.ndarray) -> Figure:
    rows: list[list[Any]] = [["curve", "seed", "log_snr", "loss", "x0_error", "noise_error"]]
    series = {}
    for form, title in CURVES.items():
        series[title] = [(one["curves"][form], noise_error(one, form, levels)) for one in seeds]
        for seed, (curve, noise) in enumerate(series[title]):
            loss, error = (np.array(curve[kind]).mean(0) for kind in ("loss", "error"))
            rows += [[title, seed, *row] for row in zip(levels.tolist(), loss, error, noise.mean(0), strict=True)]
    caption = (
        f"{name}: left, the error of x0 divided by that in pure noise; it is 0.5 at the fingerprint's half-point. "
        "Right, the noise-prediction loss, as used in image generation, divided by its maximum. Noise grows from "
        "right to left; line styles are seeds."
    )
    return Figure(f"noise-levels-{slug(name)}", plots.noise_levels(series, levels), caption, rows)


def _path_figure(name: str, seeds: list[Any]) -> Figure:
    keys = ("reference", "own", "decided")
    grids = [np.array(one["grid"]) for one in seeds]
    means = [{key: np.mean([path[key] for path in one["paths"]], 0) for key in keys} for one in seeds]
    rows: list[list[Any]] = [
        ["seed", "log_snr", "dice_with_reference", "dice_with_own_end", "share_decided_at_this_step"]
    ]
    for seed, (grid, mean) in enumerate(zip(grids, means, strict=True)):
        rows += [[seed, *row] for row in zip(grid.tolist(), *(mean[key].tolist() for key in keys), strict=True)]
    caption = (
        f"{name}: Dice of the labels along the sampler's path, with true masks and with the final sample; bars: share "
        "of voxels whose label does not change after this step. Noise falls from left to right."
    )
    return Figure(f"path-{slug(name)}", plots.path(grids, means), caption, rows)


def _dice(a: np.ndarray, b: np.ndarray, classes: int) -> float:
    """Mean Dice of masks a and b [n, *shape], pair by pair, over the foreground classes."""
    return float(np.mean([metrics.dice(x, y, classes)[1:] for x, y in zip(a, b, strict=True)]))
