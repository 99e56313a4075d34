"""The command `diffusion-segmentation`.

Exit status: 0 done, 1 failed with one plain sentence on stderr, 2 wrong usage, 130 cancelled. With `--json` stdout
holds the result as JSON and nothing else. What needs torch is imported only when a command runs that needs it, so that
help and usage errors come at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from .arguments import parse
from .errors import Cancelled, DiffusionSegmentationError, explain
from .runtime import terminal

CANCELLED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (default: the process's); return its exit status. Wrong usage exits with 2."""
    options = parse(arguments)
    try:
        return COMMANDS[options.command](options)
    except (KeyboardInterrupt, Cancelled):
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    except Exception as error:
        if sys.flags.dev_mode:  # python -X dev
            traceback.print_exc()
        print(explain(error)[1], file=sys.stderr)
        return 1


def _segment(options: argparse.Namespace) -> int:
    show_json = terminal.claim_for_json() if options.json else None
    from .segmentation import pipeline as engine

    request = engine.Request(
        volume=options.volume,
        output=options.output,
        model=options.model,
        samples=options.samples,
        steps=options.steps,
        seed=options.seed,
        device=options.device,
        region_mm=options.region_mm,
        spacing=options.spacing,
        keep_samples=options.keep_samples,
        compress=True,
        previews=False,
    )
    with terminal.ProgressLine() as progress:
        outcome = engine.segment(request, progress=progress)
    if outcome.report.get("input", {}).get("unlike_training"):
        print(f"warning: {outcome.report['warnings'][0]}", file=sys.stderr)
    if show_json:
        show_json(outcome.report)
    else:
        print(terminal.summary(outcome.report, options.output))
    return 0


def _models(options: argparse.Namespace) -> int:
    show_json = terminal.claim_for_json() if options.json else None
    from .model import folder as model

    found = model.available()
    if show_json:
        show_json(found)
    else:
        print(terminal.catalogue(found))
    return 0


def _train(options: argparse.Namespace) -> int:
    _require_extra("lightning", "matplotlib")
    from .training import train

    train.main(options.data, options.output, options.config, options.minutes, options.resume, options.start)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    _require_extra("matplotlib")
    show_json = terminal.claim_for_json() if options.json else None
    from .evaluation import evaluate as engine

    request = engine.EvaluationRequest(
        model=options.model,
        dataset=options.dataset,
        output=options.output,
        samples=options.samples,
        steps=tuple(options.steps),
        cases=options.cases,
        seed=options.seed,
        device=options.device,
        window=options.window,
    )
    found = engine.evaluate(request)
    if show_json:
        show_json(found)
    else:
        print(engine.text(found, options.output))
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    _require_extra("lightning", "matplotlib")
    show_json = terminal.claim_for_json() if options.json else None
    from .calibration import calibrate as engine

    request = engine.Request(
        model=options.model,
        data=options.data,
        output=options.output,
        cases=options.cases,
        seed=options.seed,
        device=options.device,
        scans_only=options.scans_only,
    )
    found = engine.calibrate(request)
    if show_json:
        show_json(found)
    else:
        print(engine.text(found, options.output))
    return 0


def _study(options: argparse.Namespace) -> int:
    _require_extra("lightning", "matplotlib")
    show_json = terminal.claim_for_json() if options.json else None
    if options.adapt:
        found, said = _adapt(options)
    else:
        found, said = _ask(options)
    if show_json:
        show_json(found)
    else:
        print(said)
    return 0


def _adapt(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .study import adapt

    if len(options.data) > 1:
        raise DiffusionSegmentationError("--adapt takes one task; name one.")
    found = adapt.adapt(adapt.Request(options.data[0], options.adapt, options.output, options.device))
    return found, adapt.text(found, options.output)


def _ask(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .study import report, study

    request = study.Request(
        data=tuple(options.data),
        output=options.output,
        budget=options.budget,
        only=options.only,
        seeds=options.seeds,
        device=options.device,
    )
    found = study.study(request)
    return found, report.text(found, options.output)


def _require_extra(*packages: str) -> None:
    """Raise an error that says what to install where a package of the extra [train] is missing."""
    if not all(importlib.util.find_spec(package) for package in packages):
        raise DiffusionSegmentationError(
            "Training and evaluation need Lightning and Matplotlib; install them with: "
            "pip install 'diffusion-segmentation[train]'"
        )


def _demo(options: argparse.Namespace) -> int:
    """The demo needs Slicer's libraries, which the engine never imports: it is a process of its own."""
    if not all(importlib.util.find_spec(package) for package in ("slicer", "vtkmodules", "DiffusionSegmentationLib")):
        raise DiffusionSegmentationError(
            "The demo needs 3D Slicer's libraries; install them with: pip install 'diffusion-segmentation[demo]'"
        )
    command = [sys.executable, "-X", "utf8", "-m", "DiffusionSegmentationLib.headless", *options.rest]
    with subprocess.Popen(command) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it got the same signal and cleans up
            raise
    return status if status >= 0 else 1  # ended by a signal


def _worker(options: argparse.Namespace) -> NoReturn:
    from .worker import server as worker

    worker.main()


COMMANDS = {
    "segment": _segment,
    "models": _models,
    "train": _train,
    "evaluate": _evaluate,
    "calibrate": _calibrate,
    "study": _study,
    "demo": _demo,
    "worker": _worker,
}
