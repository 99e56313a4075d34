"""The command `diffusion-segmentation`.

Exit status: 0 done, 1 failed with one plain sentence on stderr, 2 wrong usage, 130 cancelled. With `--json` stdout
holds the result as JSON and nothing else. What needs torch is imported only when a command runs that needs it, so that
help and usage errors come at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__, terminal
from .errors import Cancelled, DiffusionSegmentationError, explain

CANCELLED = 130
DEFAULT_MODEL = "brain-structures"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (default: the process's); return its exit status. Wrong usage exits with 2."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command is _demo:
        options.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return options.command(options)
    except (KeyboardInterrupt, Cancelled):
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    except Exception as error:
        if sys.flags.dev_mode:  # python -X dev
            traceback.print_exc()
        print(explain(error)[1], file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffusion-segmentation",
        description="Segment a volume and say where not to trust the segmentation.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    segment = commands.add_parser("segment", help="segment a volume and map its uncertainty", allow_abbrev=False)
    segment.set_defaults(command=_segment)
    segment.add_argument("volume", metavar="VOLUME", type=Path, help="NRRD, NIfTI or another file SimpleITK reads")
    segment.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder for the results")
    segment.add_argument("--model", metavar="NAME|DIR", default=DEFAULT_MODEL, help="default: %(default)s")
    segment.add_argument("--samples", metavar="N|auto", type=_samples, default=8, help="default: %(default)s")
    segment.add_argument("--steps", metavar="K", type=_positive, help="default: as the model advises for the device")
    segment.add_argument("--seed", metavar="S", type=_seed, default=0, help="default: %(default)s")
    segment.add_argument("--device", type=_device, default="auto", help="auto (default), cpu, cuda or cuda:N")
    segment.add_argument("--keep-samples", action="store_true", help="also write samples and class probabilities")
    segment.add_argument("--json", action="store_true", help="print the report as JSON on stdout")

    models = commands.add_parser("models", help="list the models that are here", allow_abbrev=False)
    models.set_defaults(command=_models)
    models.add_argument("--json", action="store_true", help="print their metadata as JSON on stdout")

    train = commands.add_parser("train", help="train a model", allow_abbrev=False)
    train.set_defaults(command=_train)
    train.add_argument("config", metavar="CONFIG", type=Path, help="JSON file that describes task and network")
    train.add_argument("--data", metavar="FILE", type=Path, required=True, help="tissue priors to draw heads from")
    train.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder for the model")
    train.add_argument("--minutes", metavar="M", type=float, help="stop after so many minutes")
    train.add_argument("--start", metavar="NAME|DIR", help="start from another model's weights, where they fit")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")

    demo = commands.add_parser("demo", help="show the whole way on a real head, in Slicer's own scene", add_help=False)
    demo.set_defaults(command=_demo)

    worker = commands.add_parser("worker", help="serve 3D Slicer as its background process", allow_abbrev=False)
    worker.set_defaults(command=_worker)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _samples(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^63 - 1")
    return value


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text} is none of auto, cpu, cuda, cuda:N")
    return text


def _segment(options: argparse.Namespace) -> int:
    show_json = terminal.claim_for_json() if options.json else None
    from . import segment as engine

    request = engine.Request(
        volume=options.volume,
        output=options.output,
        model=options.model,
        samples=options.samples,
        steps=options.steps,
        seed=options.seed,
        device=options.device,
        keep_samples=options.keep_samples,
        compress=True,
        previews=False,
    )
    with terminal.ProgressLine() as progress:
        outcome = engine.segment(request, progress=progress)
    if show_json:
        show_json(outcome.report)
    else:
        print(terminal.summary(outcome.report, options.output))
    return 0


def _models(options: argparse.Namespace) -> int:
    show_json = terminal.claim_for_json() if options.json else None
    from . import model

    found = model.available()
    if show_json:
        show_json(found)
    else:
        print(terminal.catalogue(found))
    return 0


def _train(options: argparse.Namespace) -> int:
    from .training import train

    train.main(options.config, options.data, options.output, options.minutes, options.resume, options.start)
    return 0


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
    from . import worker

    worker.main()
