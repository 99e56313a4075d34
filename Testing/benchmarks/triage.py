"""Whether the order of a triage page finds bad segmentations, on tasks with a known answer and planted failures.

    python Testing/run.py bench triage [--cases N] [--samples N] [TASK ...]

TASK is a phantom, by default boundary, probit, lesions and template on 32x32 and boundary on 24x24x24. In most cases
the law of the mask is narrow, with border shifts (boundary) and fields (probit) of 0.4 times the standard deviation or
the weights of the possible masks to the power of four (lesions, template). Failures are planted in a quarter: 20 % of
the cases are ambiguous, with twice the standard deviation or weights to the power of a half, and 5 % are wrong: their
samples are those of another case. Samples are exact draws, the segmentation is the most probable class of the exact
probabilities, and truths are draws. The risk of a case is 1 - Dice, averaged over structures. Orders are that by
expected Dice (`metrics.expected_dice`, as in reports) and those by the entropy of the exact probabilities: its mean
over all voxels, over those above 0.1 bits, and over the most uncertain patch. Printed are the AURC of each order and of
the best possible one, what expected Dice gains on each with the 95 % interval of a paired bootstrap over cases, and the
share of the failures, which are the tenth of the cases with the largest risk, among the first fifth of each order. At
the end all tasks are one cohort.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from own_cases import TASKS, narrowed
from scipy.special import entr

from diffusion_segmentation import metrics
from diffusion_segmentation.evaluation.known_answer.posterior import confidence
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.phantoms.case import PhantomCase
from diffusion_segmentation.runtime.terminal import ProgressLine, StepCounter

CERTAIN, AMBIGUOUS = (0.4, 4.0), (2.0, 0.5)  # standard deviation, power of the weights
AMBIGUOUS_SHARE, WRONG_SHARE = 0.2, 0.05
ORDERS = ("expected Dice", "mean entropy", "above 0.1 bits", "worst patch")
FAILURES, LOOKED_AT = 0.1, 0.2  # shares of the cases
SEED = 41


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", metavar="TASK", nargs="*", default=TASKS)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args()
    print(f"{'task':<20}{'order':<17}{'AURC':>8}{'best':>8}{'gain':>8}{'95 % interval':>18}{'found':>11}")
    everything = []
    for task in options.tasks:
        everything.append(scores(task, options.cases, options.samples))
        show(task, everything[-1])
    if len(everything) > 1:
        show("all", np.concatenate(everything))


def scores(task: str, count: int, samples: int) -> np.ndarray:
    """Risk, and confidence by each of ORDERS, of each case [cases, 1 + ORDERS]."""
    rows = []
    with ProgressLine() as line:
        counter = StepCounter(line, f"{task}: drawing cases")
        for index in range(count):
            rng = np.random.default_rng([SEED, index])
            chance = rng.random()
            law = AMBIGUOUS if chance < AMBIGUOUS_SHARE else CERTAIN
            case = narrowed(phantom(task).draw(rng), *law)
            is_wrong = chance > 1 - WRONG_SHARE
            seen = narrowed(phantom(task).draw(rng), *law) if is_wrong else case
            rows.append(row(case, seen, samples, rng))
            counter(index + 1, count)
    return np.array(rows)


def row(case: PhantomCase, seen: PhantomCase, samples: int, rng: np.random.Generator) -> list[float]:
    """Risk and confidences of a case whose segmentation and samples are those of `seen`."""
    p = seen.marginals
    risk = 1 - metrics.dice(p.argmax(0).astype(np.uint8), case.sample(rng, 1)[0], case.classes)[1:].mean()
    expected = metrics.expected_dice([seen.sample(rng, samples)], case.classes).mean()
    bits = entr(p).sum(0) / math.log(2)
    by_entropy = confidence(bits)
    return [risk, expected, -bits.mean(), by_entropy["threshold_mean"], by_entropy["patch_max"]]


def show(task: str, table: np.ndarray) -> None:
    risk, best = table[:, 0], metrics.aurc(table[:, 0], -table[:, 0])
    for n, order in enumerate(ORDERS, 1):
        gain, interval = "", ""
        if n > 1:
            ahead = metrics.interval(
                table[:, [0, 1, n]],
                0.95,
                np.random.default_rng(0),
                statistic=lambda x: metrics.aurc(x[:, 0], x[:, 2]) - metrics.aurc(x[:, 0], x[:, 1]),
            )
            gain, interval = f"{ahead.estimate:.4f}", f"{ahead.low:.4f} – {ahead.high:.4f}"
        aurc, found = metrics.aurc(risk, table[:, n]), f"{100 * found_early(risk, table[:, n]):.0f} %"
        print(f"{task:<20}{order:<17}{aurc:8.4f}{best:8.4f}{gain:>8}{interval:>18}{found:>11}", flush=True)


def found_early(risk: np.ndarray, confidence: np.ndarray) -> float:
    """Share of the failures among the LOOKED_AT least confident cases."""
    failures = np.argsort(-risk, kind="stable")[: round(FAILURES * len(risk))]
    looked_at = np.argsort(confidence, kind="stable")[: round(LOOKED_AT * len(risk))]
    return len(np.intersect1d(failures, looked_at)) / len(failures)


if __name__ == "__main__":
    main()
