"""`diffusion-segmentation study`: trains what its questions need, measures, and writes one report.

<output>/study.html     one page: what holds on this data, with figures and tables
<output>/study.json     every number behind it
<output>/figures/       each figure as PNG, and its numbers as CSV
<output>/cache/         tasks, trained arms and probes; the same command goes on from them
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..runtime.devices import choose_device
from ..runtime.versions import versions
from . import pool
from .context import Context, Probe
from .elapsed import Clock
from .question import Question
from .questions import chosen, short
from .report import write
from .tasks import Sizes, prepare
from .variants import Arm

MINUTES = 85.0
"""Budget by default."""
TRAINING_SHARE = 0.72
"""Of the budget; the rest is for drawing and scoring, which took a quarter of it on the three tasks of the default."""
LEAST_MINUTES = 0.02
SAMPLES = 32
SEEDS = 2


@dataclass(frozen=True)
class Request:
    """What a person asked for; `questions` in place of `only` is for tests."""

    data: tuple[str, ...]
    output: Path
    budget: float = MINUTES
    only: str | None = None
    seeds: int = SEEDS
    device: str = "auto"
    sizes: Sizes = field(default_factory=Sizes)
    samples: int = SAMPLES
    questions: tuple[Question, ...] | None = None


def study(request: Request) -> dict[str, Any]:
    """Run it; returns what study.json holds. Raises InputError, one sentence, on what cannot be studied."""
    questions = list(request.questions or (chosen(request.only) if request.only else short()))
    if request.seeds < 2:
        raise InputError("A study needs two seeds or more, to tell an effect from a training's luck.")
    if len(set(request.data)) < len(request.data):
        raise InputError("A task is named twice; name each once.")
    device = str(choose_device(request.device))
    cache = request.output / "cache"
    clock = Clock(cache, _command(request))
    print(f"preparing {len(request.data)} task{'s' * (len(request.data) > 1)}", file=sys.stderr, flush=True)
    tasks = {task.name: task for task in (prepare(text, cache, request.sizes) for text in request.data)}
    for question in questions:
        for task in tasks.values():
            question.check(task)
    seeds = tuple(range(request.seeds))
    arms = needed(questions, list(tasks), seeds)
    count = pool.processes(device)
    minutes = minutes_an_arm(request.budget, arms, count)
    context = Context(tasks, seeds, minutes, request.samples, cache, device)
    print(
        f"{len(arms)} networks of {minutes:.1f} min each, on {count} process{'es' * (count > 1)}",
        file=sys.stderr,
        flush=True,
    )
    try:
        _train(context, arms, count, clock)
        found = _measure(context, questions, count, clock)
    finally:
        taken = clock.book()
    facts = {
        "data": {name: _described(context, name) for name in tasks},
        "command": _command(request),
        "seeds": request.seeds,
        "samples": request.samples,
        "minutes_an_arm": round(minutes, 2),
        "networks": len(arms),
        "budget_minutes": request.budget,
        "minutes_taken": round(taken, 1),
        "machine": _machine(device, count),
        "versions": versions(),
    }
    return write(request.output, facts, {q: q.findings(context, found[q.key]) for q in questions})


def needed(questions: Sequence[Question], tasks: Sequence[str], seeds: Sequence[int]) -> list[Arm]:
    """Every arm once, the short ones last, so that no process waits long for another at the end."""
    of = [arm for q in questions for task in tasks for seed in seeds for arm in q.arms(task, seed)]
    return sorted(dict.fromkeys(of), key=lambda arm: -arm.share)


def minutes_an_arm(budget: float, arms: Sequence[Arm], count: int) -> float:
    """Training time of an arm, the same for all. Raises InputError where the budget leaves none."""
    minutes = TRAINING_SHARE * budget * count / sum(arm.share for arm in arms)
    if minutes < LEAST_MINUTES:
        raise InputError(f"{len(arms)} networks cannot be trained in {budget:g} minutes; raise --budget.")
    return minutes


def _train(context: Context, arms: Sequence[Arm], count: int, clock: Clock) -> None:
    jobs = [(arm.title(), arm.share, _train_one, (context, arm)) for arm in arms if not context.is_trained(arm)]
    if len(jobs) < len(arms):
        print(f"training: {len(arms) - len(jobs)} networks are there already", file=sys.stderr, flush=True)
    for _ in pool.run(jobs, count, "training", "networks") if jobs else ():
        clock.book()


def _train_one(context: Context, arm: Arm) -> None:
    context.network(arm)


def _measure(
    context: Context, questions: Sequence[Question], count: int, clock: Clock
) -> dict[str, dict[tuple[str, int], dict[str, Any]]]:
    """What every question's probes have found, by task and seed."""
    found: dict[str, dict[tuple[str, int], dict[str, Any]]] = {question.key: {} for question in questions}
    jobs = []
    for question in questions:
        for probe in question.probes(context):
            kept = context.kept(probe)
            if kept is None:
                jobs.append((f"{probe.question} {probe.task}", 1.0, _probe, (context, question, probe)))
            else:
                found[probe.question][probe.task, probe.seed] = kept
    for probe in pool.run(jobs, count, "measuring", "measurements") if jobs else ():
        found[probe.question][probe.task, probe.seed] = context.kept(probe)
        clock.book()
    return found


def _probe(context: Context, question: Question, probe: Probe) -> Probe:
    context.keep(probe, question.probe(context, probe.task, probe.seed))
    return probe


def _described(context: Context, name: str) -> dict[str, Any]:
    task = context.tasks[name]
    return {
        "shape": list(task.shape),
        "structures": list(task.label_names),
        "test_cases": len(task.cases),
        "known_answer": task.exact,
    }


def _command(request: Request) -> str:
    parts = ["diffusion-segmentation study", *request.data, f"--budget {request.budget:g}"]
    parts += [f"--only {request.only}"] if request.only else []
    parts += [f"--seeds {request.seeds}"] if request.seeds != SEEDS else []
    return " ".join(parts)


def _machine(device: str, count: int) -> str:
    if device == "cpu":
        return f"{platform.machine()} CPU, {count} process{'es' * (count > 1)} of one thread"
    return torch.cuda.get_device_name(device)
