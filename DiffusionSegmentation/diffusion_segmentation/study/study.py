"""`diffusion-segmentation study`: trains the variants of its questions, measures them, and writes one report.

<output>/study.html     the report, with figures and tables
<output>/study.md       the same as Markdown
<output>/study.json     all numbers
<output>/figures/       each figure as PNG, and its numbers as CSV
<output>/cache/         tasks, trained variants and measurements; the same command continues from them
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..runtime.devices import choose_device, empty_cache
from ..runtime.versions import versions
from . import pool
from .context import Context, Measurement
from .elapsed_time import ElapsedTime
from .question import Question
from .questions import chosen, short
from .report import write
from .tasks import Sizes, plan
from .training_plan import TrainingPlan, store_plan, stored_plan
from .variants import Variant, json_digest

logger = logging.getLogger(__name__)

BUDGET_MINUTES = 85.0
TRAINING_SHARE = 0.72
"""Share of the budget for training; sampling and scoring take the rest, on the three default tasks a quarter."""
MIN_TRAINING_MINUTES = 0.02
SAMPLES = 32
SEEDS = 2


@dataclass(frozen=True)
class StudyOptions:
    """Options of the command; `questions` replaces `only` in tests."""

    data: tuple[str, ...]
    output: Path
    budget: float = BUDGET_MINUTES
    only: str | None = None
    seeds: int = SEEDS
    device: str = "auto"
    slices: bool = False  # whether volumes of folders are stacks of pictures
    sizes: Sizes = field(default_factory=Sizes)
    samples: int = SAMPLES
    questions: tuple[Question, ...] | None = None


def study(options: StudyOptions) -> dict[str, Any]:
    """Run the study and return the content of study.json. Raises InputError, one sentence, on unusable options."""
    questions = list(options.questions or (chosen(options.only) if options.only else short()))
    if options.seeds < 2:
        raise InputError("A study needs two seeds or more, to tell an effect from the variation between trainings.")
    if len(set(options.data)) < len(options.data):
        raise InputError("A task is named twice; name each once.")
    cache = options.output / "cache"
    plans = [plan(text, cache, options.sizes, options.slices) for text in options.data]
    tasks = {task.name: task for task, _ in plans}
    for question in questions:
        for task in tasks.values():
            question.check(task)
    seeds = tuple(range(options.seeds))
    variants = required_variants(questions, list(tasks), seeds)
    device = _device(options.device)
    processes = pool.processes(device, max(math.prod(task.shape) for task in tasks.values()))
    machine = _machine(device, processes)
    new = TrainingPlan(training_minutes(options.budget, variants, processes), _processor(device), machine)
    context = Context(tasks, seeds, new.minutes, options.samples, cache, device, new.processor)
    key = json_digest([[task.content for task in tasks.values()], options.budget, [v.title() for v in variants]])
    training = _plan(context, variants, stored_plan(cache, key), new)
    context = replace(context, minutes=training.minutes, trained_on=training.processor)
    elapsed = ElapsedTime(cache, _command(options))
    logger.info(f"preparing {len(options.data)} task{'s' * (len(options.data) > 1)}")
    for _, write_arrays in plans:
        write_arrays(any(variant.on for variant in variants))
    store_plan(cache, key, training)
    logger.info(
        f"{len(variants)} networks of {training.minutes:.1f} min each, on {processes} process{'es' * (processes > 1)}"
    )
    try:
        with pool.process_pool(processes) as executor:
            _train(context, variants, executor, elapsed)
            results = _measure(context, questions, executor, elapsed)
    finally:
        taken = elapsed.save()
    facts = {
        "data": {
            task.name: {
                "shape": list(task.shape),
                "structures": list(task.label_names),
                "inputs": [one.name for one in task.inputs],
                "test_cases": len(task.cases),
                "known_answer": task.exact,
            }
            for task in tasks.values()
        },
        "command": _command(options),
        "seeds": options.seeds,
        "samples": options.samples,
        "minutes_an_arm": round(training.minutes, 2),
        "networks": len(variants),
        "budget_minutes": options.budget,
        "minutes_taken": round(taken, 1),
        "machine": machine if machine == training.machine else f"trained on {training.machine}; measured on {machine}",
        "iterations": _iterations(context, variants),
        "versions": versions(),
    }
    return write(options.output, facts, {q: q.summarise(context, results[q.key]) for q in questions})


def _plan(
    context: Context, variants: Sequence[Variant], stored: TrainingPlan | None, new: TrainingPlan
) -> TrainingPlan:
    """The stored plan if a network was trained by it, else the new one.

    Raises InputError if networks are missing and the others were trained on something else.
    """
    if stored is None:
        return new
    context = replace(context, minutes=stored.minutes, trained_on=stored.processor)
    missing = [v for v in variants if not context.weights(v).exists()]
    if len(missing) == len(variants):
        return new
    if missing and stored.processor != new.processor:
        raise InputError(
            f"{len(missing)} of {len(variants)} networks of this study are still to be trained, and the others were "
            f"trained on '{stored.processor}': continue there, or train all of them here with another --output."
        )
    return stored


def required_variants(questions: Sequence[Question], tasks: Sequence[str], seeds: Sequence[int]) -> list[Variant]:
    """Every variant once, with those on top of which others are trained.

    The short trainings are last, so that all processes end at about the same time.
    """
    variants = [v for question in questions for task in tasks for seed in seeds for v in question.variants(task, seed)]
    variants = [one for v in variants for one in (v.frozen, v) if one is not None]
    return sorted(dict.fromkeys(variants), key=lambda variant: -variant.share)


def training_minutes(budget: float, variants: Sequence[Variant], processes: int) -> float:
    """Training time per network within the budget. Raises InputError if the budget is too short."""
    minutes = TRAINING_SHARE * budget * processes / sum(variant.share for variant in variants)
    if minutes < MIN_TRAINING_MINUTES:
        raise InputError(f"{len(variants)} networks cannot be trained in {budget:g} minutes; raise --budget.")
    return minutes


def _train(context: Context, variants: Sequence[Variant], executor: ProcessPoolExecutor, elapsed: ElapsedTime) -> None:
    missing = [v for v in variants if not context.weights(v).exists()]
    if len(missing) < len(variants):
        logger.info(f"training: {len(variants) - len(missing)} networks are in the cache")
    on_top = [v for v in missing if v.frozen]
    # Two processes must not train the same frozen network.
    for stage, part in (("training", [v for v in missing if not v.frozen]), ("training on top of others", on_top)):
        # The longest first, so that none of them starts when the other processes are about to end.
        jobs = [(v.share, _train_one, (context, v)) for v in sorted(part, key=lambda v: -v.share)]
        for _ in pool.run(executor, jobs, stage, "networks") if jobs else ():
            elapsed.save()


def _train_one(context: Context, variant: Variant) -> None:
    context.network(variant)


def _measure(
    context: Context, questions: Sequence[Question], executor: ProcessPoolExecutor, elapsed: ElapsedTime
) -> dict[str, dict[tuple[str, int], dict[str, Any]]]:
    """Results of every question by task and seed, from the cache where possible."""
    measurements = {question: question.measurements(context) for question in questions}
    missing = [(question, m) for question, several in measurements.items() for m in several if not context.load(m)]
    shares = {m: _shares(context, q, m) for q, m in missing}
    jobs = [
        (1 / len(shares[m]), _measure_one, (context.with_share(m.task, at), q, share))
        for q, m in missing
        for at, share in shares[m].items()
        if not context.load(share)
    ]
    for _ in pool.run(executor, jobs, "measuring", "measurements") if jobs else ():
        elapsed.save()
    for m, parts in shares.items():
        context.save(m, _joined([context.load(share) for share in parts.values()]))
    return {q.key: {(m.task, m.seed): context.load(m) for m in several} for q, several in measurements.items()}


def _shares(context: Context, question: Question, m: Measurement) -> dict[tuple[int, int], Measurement]:
    """The shares of a measurement by `Task.share`."""
    count = question.shares(context.tasks[m.task])
    return {(n, count): replace(m, detail=(*m.detail, f"share {n + 1} of {count}")) for n in range(count)}


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The result of a measurement from those of its shares, with the records in the order of the cases."""
    if len(parts) == 1:
        return dict(parts[0])
    records = [one for several in zip_longest(*(part["records"] for part in parts)) for one in several if one]
    return {**parts[0], "records": records}


def _measure_one(context: Context, question: Question, measurement: Measurement) -> None:
    torch.backends.cudnn.benchmark = False  # as before a training in the same process
    empty_cache(torch.device(context.device))
    context.save(measurement, question.measure(context, measurement.task, measurement.seed))


def _command(options: StudyOptions) -> str:
    parts = ["diffusion-segmentation study", *options.data, f"--budget {options.budget:g}"]
    parts += [f"--only {options.only}"] if options.only else []
    parts += [f"--seeds {options.seeds}"] if options.seeds != SEEDS else []
    parts += ["--slices"] if options.slices else []
    return " ".join(parts)


def _device(name: str) -> str:
    device = choose_device(name)
    if device.type not in ("cpu", "cuda"):
        raise InputError("A study runs on the CPU or on an NVIDIA GPU; give --device cpu.")
    return str(device)


def _processor(device: str) -> str:
    """ "cpu", or the name of the GPU: training times on different ones are not comparable."""
    return device if device == "cpu" else torch.cuda.get_device_name(device)


def _machine(device: str, processes: int) -> str:
    if device == "cpu":
        return f"{platform.machine()} CPU, {processes} process{'es' * (processes > 1)} of one thread"
    shared = f", shared by {processes} processes" if processes > 1 else ""
    return f"{_processor(device)}{shared}"


def _iterations(context: Context, variants: Sequence[Variant]) -> dict[str, list[int]]:
    """Smallest and largest number of iterations of the networks that were trained for the full time, by form."""
    found: dict[str, list[int]] = {}
    for variant in (v for v in variants if v.share == 1):
        form = f"{variant.form}, on top of a frozen network" if variant.on else variant.form
        found.setdefault(form, []).append(context.training_facts(variant)["iterations"])
    return {form: [min(counts), max(counts)] for form, counts in found.items()}
