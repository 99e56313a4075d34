"""The command `diffusion-segmentation`.

Exit status: 0 success, 1 failure with one plain sentence on stderr, 2 wrong usage, 130 cancelled. With `--json` stdout
contains the result as JSON and nothing else. torch is imported only by the commands that need it, so that help and
usage errors appear at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .arguments import parse
from .errors import DEBUG_VARIABLE, Cancelled, DiffusionSegmentationError, explain
from .runtime import terminal
from .runtime.log import configure_logging

CANCELLED = 130

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (default: sys.argv); return its exit status. Wrong usage exits with 2."""
    options = parse(arguments)
    configure_logging()
    try:
        return COMMANDS[options.command](options)
    except (KeyboardInterrupt, Cancelled):
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(explain(error)[1], file=sys.stderr)
        return 1


def _segment(options: argparse.Namespace) -> int:
    show_json = terminal.claim_for_json() if options.json else None
    from .segmentation import pipeline

    request = pipeline.Request(
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
        report = pipeline.segment(request, progress=progress).report
    if report.get("input", {}).get("unlike_training"):
        logger.warning(report["warnings"][0])
    return _show(report, terminal.summary, options.output, show_json)


def _models(options: argparse.Namespace) -> int:
    show_json = terminal.claim_for_json() if options.json else None
    from .model import folder

    return _show(folder.available(), lambda models, _: terminal.catalogue(models), None, show_json)


def _train(options: argparse.Namespace) -> int:
    _require_extra("lightning", "matplotlib")
    from .training import train

    train.main(options.data, options.output, options.config, options.minutes, options.resume, options.start)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    _require_extra("matplotlib")
    show_json = terminal.claim_for_json() if options.json else None
    from .evaluation import evaluate

    request = evaluate.Request(
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
    return _show(evaluate.evaluate(request), evaluate.text, options.output, show_json)


def _calibrate(options: argparse.Namespace) -> int:
    _require_extra("lightning", "matplotlib")
    show_json = terminal.claim_for_json() if options.json else None
    from .calibration import calibrate

    request = calibrate.Request(
        model=options.model,
        data=options.data,
        output=options.output,
        cases=options.cases,
        seed=options.seed,
        device=options.device,
        scans_only=options.scans_only,
    )
    return _show(calibrate.calibrate(request), calibrate.text, options.output, show_json)


def _study(options: argparse.Namespace) -> int:
    _require_extra("lightning", "matplotlib")
    show_json = terminal.claim_for_json() if options.json else None
    if options.adapt:
        from .study import adapt

        if len(options.data) > 1:
            raise DiffusionSegmentationError("--adapt takes one task; name one.")
        result = adapt.adapt(adapt.Request(options.data[0], options.adapt, options.output, options.device))
        return _show(result, adapt.text, options.output, show_json)
    from .study import report, study

    request = study.Request(
        data=tuple(options.data),
        output=options.output,
        budget=options.budget,
        only=options.only,
        seeds=options.seeds,
        device=options.device,
    )
    return _show(study.study(request), report.text, options.output, show_json)


def _show(
    result: Any, text: Callable[[Any, Path], str], output: Path | None, show_json: Callable[[Any], None] | None
) -> int:
    """Print a result as JSON if `show_json` is given, otherwise as `text(result, output)`. Returns the exit status."""
    if show_json:
        show_json(result)
    else:
        print(text(result, output))
    return 0


def _require_extra(*packages: str) -> None:
    """Raise an error with the command to install unless `packages` and the training code are installed.

    The extension in Slicer contains no training code; pip installs it with the extra [train].
    """
    if not all(importlib.util.find_spec(package) for package in (f"{__package__}.training", *packages)):
        raise DiffusionSegmentationError(
            "Training and evaluation need Lightning and Matplotlib; install them with: "
            "pip install 'diffusion-segmentation[train]'"
        )


def _demo(options: argparse.Namespace) -> int:
    """Run the demo in a process of its own: it needs Slicer's libraries, which the engine does not import."""
    if not all(importlib.util.find_spec(package) for package in ("slicer", "vtkmodules", "DiffusionSegmentationLib")):
        raise DiffusionSegmentationError(
            "The demo needs 3D Slicer's libraries; install them with: pip install 'diffusion-segmentation[demo]'"
        )
    if options.debug:
        os.environ[DEBUG_VARIABLE] = "1"
    command = [sys.executable, "-X", "utf8", "-m", "DiffusionSegmentationLib.headless", *options.rest]
    with subprocess.Popen(command) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the child received the same signal and cleans up
            raise
    return status if status >= 0 else 1  # negative: ended by a signal


def _worker(options: argparse.Namespace) -> NoReturn:
    from .worker import server

    server.main()


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
