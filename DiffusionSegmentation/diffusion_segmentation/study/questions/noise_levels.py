"""A3: what is learnt at which noise level, and how that differs from generating images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...diffusion.process import sample_log_snr
from ...evaluation.pooling import score
from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..curves import half_point, loss_over_levels, rise
from ..drawing import Drawer
from ..findings import FACT, FAILS, HOLDS, UNDECIDED, Figure, Findings, slug
from ..question import Found, Question
from ..scores import hull
from ..solvers import step_grid
from ..tasks import TRAIN, VALIDATION
from ..variants import Arm

STEPS = 20
"""Steps of the paths that are followed: fine enough to see where a label is decided."""
CASES, SAMPLES = 24, 8
NOTABLE = 0.1
"""A curve rises if it does so by a tenth of its largest value or more."""
MARGIN = 0.5
"""Fingerprints differ if their half-points lie apart by more than this, in log-SNR (a fifth of a step of ten)."""
CURVES = {
    "diffusion": "masks, with the image",
    "train": "masks, with the image, training cases",
    "mask": "masks, without the image",
    "image": "images",
}


class NoiseLevels(Question):
    """Curves over log-SNR of the mask denoiser with and without the image and of an image denoiser; sampling paths."""

    key = "A3"
    title = "What is learnt when"
    why = (
        "Öttl et al. look at the loss at each noise level: of image generation it is said to fall steadily as noise is "
        "added, of masks to fall and rise again; and the error of masks denoised without their image is said to be a "
        "fingerprint of the task. Here both are measured, for the same network, with the step at which the sampler's "
        "own path decides a voxel."
    )

    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        return Arm(task, seed), Arm(task, seed, form="mask"), Arm(task, seed, form="image")

    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        of = context.tasks[task]
        arms = dict(zip(("diffusion", "mask", "image"), self.arms(task, seed), strict=True))
        networks = {name: context.network(arm) for name, arm in arms.items()}
        curves = {name: loss_over_levels(networks[name], arm, of, VALIDATION) for name, arm in arms.items()}
        curves["train"] = loss_over_levels(networks["diffusion"], arms["diffusion"], of, TRAIN)
        drawer = Drawer(networks["diffusion"], arms["diffusion"], of)
        own = curves["diffusion"]
        grid = step_grid("adapted", STEPS, (own["log_snr"], own["loss"].mean(0)))
        return {
            "curves": {
                name: {kind: rounded(found[kind]) for kind in ("loss", "error")} for name, found in curves.items()
            },
            "log_snr": rounded(own["log_snr"]),
            "grid": rounded(grid),
            "paths": [follow(drawer, of.truth(index), grid, index) for index in range(min(CASES, len(of.cases)))],
        }

    def findings(self, context: Context, found: Found) -> Findings:
        said = Findings()
        halves: dict[str, dict[str, Any]] = {}
        for task in context.tasks:
            several = [found[task, seed] for seed in context.seeds]
            levels = np.array(several[0]["log_snr"])
            halves[task] = half_points(several, levels)
            rises = {name: _rise(several, name, levels) for name in ("diffusion", "mask", "image")}
            said.numbers[task] = {"half_points": halves[task], "rises": rises}
            _say_rises(said, task, rises)
            _say_schedule(said, task, several, levels)
            said.figures += [_curves(task, several, levels), _path(task, several)]
        said.tables.append(_table(said.numbers))
        _say_fingerprints(said, halves)
        return said


def follow(drawer: Drawer, truth: Any, grid: np.ndarray, seed: int) -> dict[str, Any]:
    """One case along the sampler's path: Dice of the labels of each step, and when labels are decided.

    "reference": Dice with true masks, expected over them; "own": with the sample that comes out. "decided": shares of
    the voxels that the exact law leaves open (of a folder those near the structures) by the step after which their
    label stays what it is.
    """
    classes = truth.case.classes
    drawn = drawer.draw(truth.case.image, SAMPLES, grid, seed, path=True)
    labels = np.stack([p.argmax(1).astype(np.uint8) for p in drawn.path])  # [steps, samples, *shape]
    end = labels[-1]
    changed = labels != end
    last = np.where(changed.any(0), len(labels) - changed[::-1].argmax(0), 0)
    here = np.broadcast_to(truth.anywhere, last.shape)
    decided = np.bincount(last[here], minlength=len(labels)) / max(1, here.sum())
    return {
        "reference": [_dice(step, truth.draws[: len(step)], classes) for step in labels],
        "own": [_dice(step, end, classes) for step in labels],
        "decided": rounded(decided),
    }


def half_points(several: list[Any], levels: np.ndarray) -> dict[str, Any]:
    """The half-point of each curve's error, over seeds and cases."""
    found = {}
    for name in ("diffusion", "mask", "image"):
        errors = [np.array(one["curves"][name]["error"]) for one in several]
        found[name] = hull([score(error, lambda x: half_point(levels, x.mean(0))) for error in errors])
    return found


def rounded(values: Any) -> Any:
    """Lists of floats with six digits: enough for every curve, and files stay small."""
    return [rounded(v) for v in values] if np.ndim(values) > 0 else float(f"{float(values):.6g}")


def noise_error(found: Any, name: str, levels: np.ndarray) -> np.ndarray:
    """Squared error [cases, levels] of the noise: exp(log-SNR) times that of x0, whatever the network predicts.

    For images it is the loss itself; their error of x0 is bounded where next to nothing of the image is left.
    """
    if name == "image":
        return np.array(found["curves"][name]["loss"])
    return np.array(found["curves"][name]["error"]) * np.exp(levels)


def _rise(several: list[Any], name: str, levels: np.ndarray) -> dict[str, Any]:
    return hull([score(noise_error(one, name, levels), lambda x: rise(x.mean(0))) for one in several])


def _say_rises(said: Findings, task: str, rises: dict[str, Any]) -> None:
    kinds = {name: rising(found) for name, found in rises.items()}
    words = {
        True: "rises again as noise is added, by {:.0f} % of its largest value",
        False: "falls as noise is added and rises nowhere by more than {:.0f} % of its largest value",
        None: "may rise again as noise is added or not ({:.0f} % of its largest value, not decided)",
    }
    several = {"diffusion": "masks given the image", "mask": "masks without the image", "image": "images"}
    for name, what in several.items():
        expected = name != "image"
        mark = UNDECIDED if kinds[name] is None else HOLDS if kinds[name] == expected else FAILS
        claim = "non-monotonic for masks" if expected else "monotonic for images"
        percent = 100 * rises[name]["value"]
        text = f"{task}: the loss in the noise of {what} {words[kinds[name]].format(percent)}"
        said.say(mark, f"{text}; the claim is that it is {claim}.", claim=True)


def rising(found: dict[str, Any]) -> bool | None:
    """Whether a curve rises by a tenth or more; None where the interval holds that tenth."""
    if found["low"] is None or found["high"] is None:
        return None
    return True if found["low"] > NOTABLE else False if found["high"] < NOTABLE else None


def _say_schedule(said: Findings, task: str, several: list[Any], levels: np.ndarray) -> None:
    shares = [idle_share(np.array(one["curves"]["diffusion"]["loss"]).mean(0), levels) for one in several]
    said.say(
        FACT,
        f"{task}: {100 * np.mean(shares):.0f} % of the training time of a cosine schedule falls on noise levels at "
        "which less than a twentieth of the loss is left or has gone.",
    )


def idle_share(loss: np.ndarray, levels: np.ndarray) -> float:
    """Share of the cosine schedule's draws at levels where under 5 % of the loss is left, or under 5 % has fallen."""
    falling = np.minimum.accumulate(loss)
    left = (falling - falling[-1]) / max(falling[0] - falling[-1], 1e-12)
    drawn = sample_log_snr((torch.arange(2000) + 0.5) / 2000, 1.0).numpy()
    at = np.interp(drawn, levels, left)
    return float(((at < 0.05) | (at > 0.95)).mean())


def _say_fingerprints(said: Findings, halves: dict[str, dict[str, Any]]) -> None:
    names = list(halves)
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            one, other = halves[names[a]]["mask"], halves[names[b]]["mask"]
            apart = separated(one, other)
            text = (
                f"The fingerprints of {names[a]} and {names[b]} (half-points of masks without the image) are "
                f"{one['value']:+.2f} and {other['value']:+.2f} in log-SNR: "
            )
            words = {True: "they differ", False: "they do not differ", None: "whether they differ is not decided"}
            mark = {True: HOLDS, False: FAILS, None: UNDECIDED}[apart]
            said.say(mark, f"{text}{words[apart]}; the claim is that tasks differ.", claim=True)


def separated(a: dict[str, Any], b: dict[str, Any]) -> bool | None:
    """Whether two half-points lie apart by more than MARGIN; None where their intervals do not decide it."""
    if None in (a["low"], a["high"], b["low"], b["high"]):
        return None
    nearest = max(a["low"] - b["high"], b["low"] - a["high"])
    farthest = max(a["high"] - b["low"], b["high"] - a["low"])
    return True if nearest > MARGIN else False if farthest < MARGIN else None


def _table(numbers: dict[str, Any]) -> Table:
    head = ["", *(f"half-point, {CURVES[name]}" for name in ("mask", "diffusion", "image"))]
    head += [f"rise, {CURVES[name]}" for name in ("mask", "diffusion", "image")]
    rows = [
        [
            Cell(task),
            *(scored(found["half_points"][name], 2) for name in ("mask", "diffusion", "image")),
            *(scored(found["rises"][name], 2) for name in ("mask", "diffusion", "image")),
        ]
        for task, found in numbers.items()
    ]
    caption = (
        "Log-SNR at which half of the error of x0 in pure noise is left, and how far the loss in the noise rises "
        "again as noise is added, as a share of its largest value, each with the range of the seeds' 95 % intervals. "
        "The loss in the noise is the error of x0 times the signal-to-noise ratio: at the right end it shows "
        "2,000-fold what little a network trained for classes leaves there"
    )
    return Table(caption, head, rows)


def _curves(task: str, several: list[Any], levels: np.ndarray) -> Figure:
    series, rows = {}, [["curve", "seed", "log_snr", "loss", "x0_error", "noise_error"]]
    for name, title in CURVES.items():
        series[title] = [(one["curves"][name], noise_error(one, name, levels)) for one in several]
        for seed, (curve, noise) in enumerate(series[title]):
            loss, error = (np.array(curve[kind]).mean(0) for kind in ("loss", "error"))
            rows += [[title, seed, *row] for row in zip(levels.tolist(), loss, error, noise.mean(0), strict=True)]
    caption = (
        f"{task}: left the error of x0 as a share of that in pure noise; its half is the fingerprint's half-point. "
        "Right the loss in the noise, as image generation is trained, each as a share of its largest value. "
        "Noise grows from right to left; thin lines are seeds."
    )
    return Figure(f"noise-levels-{slug(task)}", plots.noise_levels(series, levels), caption, rows)


def _path(task: str, several: list[Any]) -> Figure:
    grids = [np.array(one["grid"]) for one in several]
    mean = [
        {key: np.mean([path[key] for path in one["paths"]], 0) for key in ("reference", "own", "decided")}
        for one in several
    ]
    rows = [["seed", "log_snr", "dice_with_reference", "dice_with_own_end", "share_decided_at_this_step"]]
    for seed, (grid, found) in enumerate(zip(grids, mean, strict=True)):
        columns = (found[key].tolist() for key in ("reference", "own", "decided"))
        rows += [[seed, *row] for row in zip(grid.tolist(), *columns, strict=True)]
    caption = (
        f"{task}: Dice of the labels along the sampler's path, with true masks and with the sample that comes out; "
        "bars: the step from which on a voxel keeps its label. Noise falls from left to right."
    )
    return Figure(f"path-{slug(task)}", plots.path(grids, mean), caption, rows)


def _dice(a: np.ndarray, b: np.ndarray, classes: int) -> float:
    """Mean Dice of masks a and b [n, *shape], pair by pair, over the foreground classes; empty in both is 1."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    found = []
    for c in range(1, classes):
        both = 2.0 * ((a == c) & (b == c)).sum(1)
        total = (a == c).sum(1) + (b == c).sum(1)
        found.append(np.divide(both, total, out=np.ones(len(a)), where=total > 0).mean())
    return float(np.mean(found))
