"""A1: is diffusion better than the same network trained directly, and in what?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...evaluation.known_answer.samplers import Prediction, votes
from ...evaluation.report.tables import Cell, Table, scored
from ...model.folder import Start
from ...segmentation.sampler import sample_seeds, start_masks
from .. import plots
from ..context import Context
from ..curves import loss_over_levels
from ..drawing import (
    STEPS,
    Drawer,
    direct_answer,
    direct_probabilities,
    fitted_covariance,
    mixture_answer,
    stochastic_answer,
)
from ..findings import FAILS, HOLDS, UNDECIDED, Figure, Findings, slug
from ..question import Found, Question
from ..scores import BETTER, MEASURES, OPEN, WANTED, WORSE, amount, compared, record_case
from ..scores import scored as score_of
from ..solvers import step_grid
from ..variants import MEMBERS, Arm, ensemble
from .rows import score_rows, sentence

FUSED = (1, 8, 32)
DIRECT, DICE, ENSEMBLE, DROPOUT, STOCHASTIC = "direct", "direct-dice", "ensemble", "dropout", "stochastic"
HEAD, COPULA = "head", "copula"
EXACT = "exact"
TITLES = {
    DIRECT: "direct, CE",
    DICE: "direct, Dice + CE",
    ENSEMBLE: "deep ensemble, CE",
    DROPOUT: "MC dropout, CE",
    STOCHASTIC: "stochastic segmentation network",
    **{f"diffusion-{n}": f"diffusion, {n} sample{'s' * (n > 1)}" for n in FUSED},
    HEAD: "direct head of the diffusion model",
    COPULA: "copula of that direct head",
    **{f"{EXACT}-{n}": f"exact sampler, {n} samples" for n in FUSED[1:]},
}
MOST = f"diffusion-{FUSED[-1]}"


class DirectOrDiffusion(Question):
    """Rows of every task: direct networks, rivals that also give a spread, diffusion fused over 1, 8 and 32 samples.

    One rival needs no training: a copula of the diffusion model's direct head, fitted to validation cases.
    """

    key = "A1"
    title = "Direct or diffusion"
    why = (
        "The same encoder, data and training time, once as a direct segmentation network and once as a diffusion "
        "model. Öttl et al. ask whether the gain comes from diffusion or from the network. Their summary reports that "
        "diffusion improved IoU and ECE over a direct network with a Dice and CE loss; whether that is diffusion or "
        "the loss, the direct network with CE alone tells."
    )

    def __init__(self, rows: tuple[str, ...]) -> None:
        self.rows = rows

    def detail(self) -> tuple[str, ...]:
        return self.rows

    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        of = {
            DIRECT: [Arm(task, seed, form="direct")],
            DICE: [Arm(task, seed, form="direct", loss="dice")],
            ENSEMBLE: ensemble(task, seed),
            DROPOUT: [Arm(task, seed, form="direct", dropout=1.0)],
            STOCHASTIC: [Arm(task, seed, form="stochastic")],
        }
        return (Arm(task, seed), *(arm for row in self.rows for arm in of[row]))

    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        arms, of = self.arms(task, seed), context.tasks[task]
        drawer = Drawer(context.network(arms[0]), arms[0], of)
        networks = {row: [context.network(arm) for arm in self._of(arms, row)] for row in self.rows}
        curve = loss_over_levels(drawer.network, arms[0], of)
        grid = step_grid("adapted", STEPS, (curve["log_snr"], curve["loss"].mean(0)))
        start = Start(fitted_covariance(drawer.network, of), None)
        samples, records, seconds = context.samples, [], {}
        for index in range(len(of.cases)):
            truth = of.truth(index)
            image = truth.case.image
            answers: dict[str, Prediction] = {}
            for row, several in networks.items():
                started = time.process_time()
                answers[row] = self._answer(row, several, image, samples, index)
                seconds.setdefault(row, []).append(time.process_time() - started)
            started = time.process_time()
            drawn = drawer.draw(image, samples, grid, seed=index)
            seconds.setdefault(MOST, []).append(time.process_time() - started)
            for n in FUSED:
                answers[f"diffusion-{n}"] = drawn.answer(min(n, samples))
            started = time.process_time()
            p = direct_probabilities(drawer.network, image)
            answers[HEAD] = Prediction(p)
            answers[COPULA] = Prediction(p, start_masks(start, p, 1.0, sample_seeds(index, samples)))
            seconds.setdefault(COPULA, []).append(time.process_time() - started)
            exact = truth.case.sample(np.random.default_rng([index, 7]), samples)
            for n in FUSED[1:]:
                answers[f"{EXACT}-{n}"] = Prediction(votes(exact[:n], of.classes), exact[:n])
            records.append(record_case(truth, answers, of.exact, index))
        return {
            "records": records,
            "seconds": {row: float(np.median(spent)) for row, spent in seconds.items()},
            "iterations": {arm.title(): context.facts(arm)["iterations"] for arm in arms},
        }

    def _of(self, arms: tuple[Arm, ...], row: str) -> list[Arm]:
        first = 1
        for name in self.rows:
            count = MEMBERS if name == ENSEMBLE else 1
            if name == row:
                return list(arms[first : first + count])
            first += count
        raise KeyError(row)

    @staticmethod
    def _answer(row: str, networks: list[Any], image: np.ndarray, samples: int, seed: int) -> Prediction:
        if row == STOCHASTIC:
            return stochastic_answer(networks[0], image, samples, seed)
        if row == ENSEMBLE:
            return mixture_answer(np.stack([direct_probabilities(n, image) for n in networks]), samples, seed)
        if row == DROPOUT:
            noisy = np.stack([direct_probabilities(networks[0], image) for _ in range(samples)])
            return mixture_answer(noisy, samples, seed)
        return direct_answer(direct_probabilities(networks[0], image), samples, seed)

    def findings(self, context: Context, found: Found) -> Findings:
        said = Findings()
        rows = [*self.rows, *(f"diffusion-{n}" for n in FUSED), HEAD, COPULA]
        for task in context.tasks:
            by_seed = [found[task, seed]["records"] for seed in context.seeds]
            floors = [f"{EXACT}-{n}" for n in FUSED[1:]]
            shown = {
                row: {m: score_of(by_seed, row, m) for m in MEASURES}
                for row in (*rows, *(floors if context.tasks[task].exact else ()))
            }
            against = {
                row: {m: compared(by_seed, MOST, row, m) for m in MEASURES} for row in (*self.rows, HEAD, COPULA)
            }
            said.numbers[task] = {"scores": shown, "differences": against}
            said.tables.append(_table(task, shown, found, context))
            said.figures.append(_figure(task, shown, context))
            if DICE in against:
                _say_claim(said, task, against)
            for row, differences in against.items():
                a = f"diffusion fused over {FUSED[-1]} samples"
                said.say(*sentence(task, a, TITLES[row], differences, joint=row != HEAD))
        return said


def _table(task: str, shown: dict[str, Any], found: Found, context: Context) -> Table:
    measures = [m for m in MEASURES if any(scores[m] for scores in shown.values())]
    rows = []
    for row, scores in shown.items():
        spent = [found[task, seed]["seconds"].get(row) for seed in context.seeds]
        cost = "" if None in spent else f"{1000 * np.mean(spent):.0f}"
        rows.append([Cell(TITLES[row]), *(scored(scores[m]) for m in measures), Cell(cost)])
    caption = (
        f"{task}: mean over {len(context.seeds)} seeds, and the range of the seeds' 95 % intervals over "
        f"{len(context.tasks[task].cases)} test cases; samples of direct networks are pixels drawn each by itself; the "
        "exact sampler shows what is left for a perfect model with so many samples"
    )
    return Table(caption, ["", *(MEASURES[m].title for m in measures), "CPU ms a case"], rows)


def _figure(task: str, shown: dict[str, Any], context: Context) -> Figure:
    pair = ("iou", "ece") + (("ged_u", "coverage") if any(s["ged_u"] for s in shown.values()) else ())
    png = plots.dots(
        {TITLES[row]: scores for row, scores in shown.items()}, {m: MEASURES[m].title for m in pair}, WANTED
    )
    rows = score_rows({TITLES[row]: scores for row, scores in shown.items()})
    caption = f"{task}: scores of each row; bars reach over the seeds' 95 % intervals."
    return Figure(f"direct-or-diffusion-{slug(task)}", png, caption, rows)


def _say_claim(said: Findings, task: str, against: dict[str, Any]) -> None:
    """The claim that diffusion training improves IoU and ECE over a direct network, and the controls it has not had."""
    mark = {BETTER: HOLDS, WORSE: FAILS, OPEN: UNDECIDED}[both(against[DICE])]
    shown = [f"against {TITLES[row]} it is {_outcome(against[row])}" for row in (DIRECT, ENSEMBLE) if row in against]
    text = f"{task}: the claim is that diffusion is better in IoU and ECE than a direct network with a Dice and CE loss"
    said.say(mark, f"{text}; here it is {'; '.join([_outcome(against[DICE]), *shown])}.", claim=True)


def _outcome(differences: dict[str, Any]) -> str:
    """What IoU and ECE say, "better in ECE (by ...) and worse in IoU (by ...)"."""
    parts = []
    for m, name in (("iou", "IoU"), ("ece", "ECE")):
        d = differences[m]
        parts.append(f"not decided in {name}" if d["verdict"] == OPEN else f"{d['verdict']} in {name} ({amount(d)})")
    return " and ".join(parts)


def both(differences: dict[str, Any]) -> str:
    """Better where IoU and ECE are decidedly better, worse where one of them is decidedly worse."""
    verdicts = {differences[m]["verdict"] for m in ("iou", "ece")}
    return WORSE if WORSE in verdicts else BETTER if verdicts == {BETTER} else OPEN
