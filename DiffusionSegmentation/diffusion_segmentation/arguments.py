"""The arguments of the command `diffusion-segmentation`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from . import __version__

DEFAULT_MODEL = "brain-structures"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; `command` is the name of the command, `rest` what `demo` hands on.

    Ends the process with status 2 and a usage line where they cannot be understood.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    options.rest = rest
    if rest and options.command != "demo":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _parser() -> argparse.ArgumentParser:
    """The command's parser; `options.command` is the name of a command."""
    root = argparse.ArgumentParser(
        prog="diffusion-segmentation",
        description="Segment a volume and say where not to trust the segmentation.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")

    segment = commands.add_parser("segment", help="segment a volume and map its uncertainty", allow_abbrev=False)
    segment.set_defaults(command="segment")
    segment.add_argument("volume", metavar="VOLUME", type=_path, help="NRRD, NIfTI or another file SimpleITK reads")
    segment.add_argument("--output", metavar="DIR", type=_path, required=True, help="folder for the results")
    segment.add_argument("--model", metavar="NAME|DIR", type=_name, default=DEFAULT_MODEL, help="default: %(default)s")
    segment.add_argument("--samples", metavar="N|auto", type=_samples, help="default: as the model advises, 8 or 64")
    segment.add_argument("--steps", metavar="K", type=_positive, help="default: as the model advises for the device")
    segment.add_argument("--seed", metavar="S", type=_seed, default=0, help="default: %(default)s")
    segment.add_argument("--device", type=_device, default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    segment.add_argument("--region-mm", metavar="MM", type=_millimetres, help="uncertain regions apart, default: 15")
    segment.add_argument(
        "--spacing", metavar="I,J,K", type=_spacing, help="voxel size in mm, for a file that does not state it"
    )
    segment.add_argument("--keep-samples", action="store_true", help="also write samples and class probabilities")
    segment.add_argument("--json", action="store_true", help="print the report as JSON on stdout")

    models = commands.add_parser("models", help="list the models that are here", allow_abbrev=False)
    models.set_defaults(command="models")
    models.add_argument("--json", action="store_true", help="print their metadata as JSON on stdout")

    train = commands.add_parser(
        "train",
        help="train a model on your own data",
        description="Train on DATA: a folder laid out as the Medical Segmentation Decathlon or nnU-Net do, a file of "
        "tissue priors, or a task with a known answer such as lesions:32x32.",
        allow_abbrev=False,
    )
    train.set_defaults(command="train")
    train.add_argument(
        "data", metavar="DATA", type=_name, help="folder of labelled images, priors (.npz) or name of a phantom"
    )
    train.add_argument("--output", metavar="DIR", type=_path, required=True, help="folder for the model")
    train.add_argument("--config", metavar="FILE", type=_path, help="JSON file with what differs from the default")
    train.add_argument("--minutes", metavar="M", type=_minutes, help="stop after so many minutes of training")
    train.add_argument(
        "--start", metavar="NAME|DIR", type=_name, help="start from another model's weights, where they fit"
    )
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a model, on your own cases or on a task with a known answer",
        description="Evaluate MODEL on DATASET: a folder of labelled images as `train` takes, tissue priors from which "
        "heads are drawn, or a task with a known answer such as lesions:32x32. Finished cases are kept in the output "
        "folder; the same command goes on.",
        allow_abbrev=False,
    )
    evaluate.set_defaults(command="evaluate")
    evaluate.add_argument("model", metavar="MODEL", type=_name, help="name of a shipped model, or a model folder")
    evaluate.add_argument(
        "dataset", metavar="DATASET", type=_name, help="folder of labelled images, priors (.npz) or phantom"
    )
    evaluate.add_argument("--output", metavar="DIR", type=_path, required=True, help="folder for page and scores")
    evaluate.add_argument(
        "--samples",
        metavar="N",
        type=_positive,
        help="a case; default: as the model advises, of heads 32, of a phantom 64",
    )
    evaluate.add_argument(
        "--steps", metavar="K", type=_steps, nargs="+", default=[], help="of a phantom several, such as 5 10 uniform:10"
    )
    evaluate.add_argument("--cases", metavar="N", type=_positive, help="default: all, of a phantom 400 (3D: 100)")
    evaluate.add_argument(
        "--window", metavar="ZxYxX", type=_window, help="voxels of a synthetic head, default: 64x64x64"
    )
    evaluate.add_argument("--seed", metavar="S", type=_seed, default=0, help="default: %(default)s")
    evaluate.add_argument("--device", type=_device, default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    evaluate.add_argument("--json", action="store_true", help="print the scores as JSON on stdout")

    calibrate = commands.add_parser(
        "calibrate",
        help="fit the spread of a model's samples to labelled cases",
        description="Fit the spread of MODEL's samples to labelled cases that it was not trained on, and write a copy "
        "of the model. DATA is what `train` takes.",
        allow_abbrev=False,
    )
    calibrate.set_defaults(command="calibrate")
    calibrate.add_argument("model", metavar="MODEL", type=_name, help="name of a shipped model, or a model folder")
    calibrate.add_argument(
        "data", metavar="DATA", type=_name, help="folder of labelled images, priors (.npz) or name of a phantom"
    )
    calibrate.add_argument("--output", metavar="DIR", type=_path, required=True, help="folder for the calibrated model")
    calibrate.add_argument("--cases", metavar="N", type=_positive, help="at most; default: all, of endless data 60")
    calibrate.add_argument("--seed", metavar="S", type=_seed, default=0, help="default: %(default)s")
    calibrate.add_argument("--device", type=_device, default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    calibrate.add_argument(
        "--scans-only", action="store_true", help="leave the spread as it is, and only learn what scans are like"
    )
    calibrate.add_argument("--json", action="store_true", help="print what was fitted as JSON on stdout")

    study = commands.add_parser(
        "study",
        help="ask what diffusion learns, whether it pays and how to set it up, on data of your own",
        description="Study DATA: folders of labelled images as `train` takes, or tasks with a known answer such as "
        "lesions:32x32. Trains many small networks for the same time each and writes one report. What is finished is "
        "kept in the output folder; the same command goes on.",
        allow_abbrev=False,
    )
    study.set_defaults(command="study")
    study.add_argument(
        "data", metavar="DATA", type=_name, nargs="+", help="folder of labelled images, or name of a phantom"
    )
    study.add_argument("--output", metavar="DIR", type=_path, required=True, help="folder for the report")
    study.add_argument(
        "--budget", metavar="M", type=_minutes, default=85.0, help="minutes in all, default: %(default)g"
    )
    study.add_argument("--only", metavar="A1,A3", help="these questions, in full; default: the short A1, A3 and A4")
    study.add_argument(
        "--seeds", metavar="N", type=_positive, default=2, help="trainings of each, default: %(default)s"
    )
    study.add_argument(
        "--adapt", metavar="NAME|DIR", type=_name, help="fit this model's steps to DATA instead, and say the gain"
    )
    study.add_argument("--device", type=_device, default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    study.add_argument("--json", action="store_true", help="print the findings as JSON on stdout")

    demo = commands.add_parser("demo", help="show the whole way on a real head, in Slicer's own scene", add_help=False)
    demo.set_defaults(command="demo")

    worker = commands.add_parser("worker", help="serve 3D Slicer as its background process", allow_abbrev=False)
    worker.set_defaults(command="worker")
    return root


def _name(text: str) -> str:
    """A name or a path; a shell leaves the ~ of `--output=~/x` alone."""
    return os.path.expanduser(text)


def _path(text: str) -> Path:
    return Path(_name(text))


def _spacing(text: str) -> tuple[float, ...]:
    steps = tuple(float(part) for part in re.split("[,x]", text))
    if len(steps) != 3 or not all(0 < step < float("inf") for step in steps):
        raise argparse.ArgumentTypeError(f"{text} is not three sizes in mm such as 0.5,0.5,2")
    return steps


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of minutes")
    return minutes


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _millimetres(text: str) -> float:
    value = float(text)
    if not 5 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not within 5 to 100")
    return value


def _steps(text: str) -> str:
    if not re.fullmatch(r"(uniform:)?[0-9]{1,4}", text) or int(text.rpartition(":")[2]) < 2:
        raise argparse.ArgumentTypeError(f"{text} is neither a number of 2 or more nor such as uniform:10")
    return text


def _window(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{2,3}x[0-9]{2,3}x[0-9]{2,3}", text):
        raise argparse.ArgumentTypeError(f"{text} is not such as 96x112x96")
    return tuple(map(int, text.split("x")))


def _samples(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^63 - 1")
    return value


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text} is none of auto, cpu, cuda, cuda:N, mps")
    return text
