"""The arguments of the command `diffusion-segmentation`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .errors import DEBUG_VARIABLE, debug_enabled

DEFAULT_MODEL = "brain-structures"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; `command` is the name of the command, `rest` the arguments for `demo`.

    Wrong usage prints a usage line and exits with status 2.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    options.rest = rest
    if options.command == "models" and (options.action == "list") != (options.target is None):
        parser.error("`models add` takes a folder or an archive, `models remove` a name, `models` nothing")
    if options.command in ("segment", "update") and bool(options.volume) == bool(options.input):
        parser.error(f"`{options.command}` takes VOLUME, or --input NAME=FILE for each input of the model")
    if options.command == "train" and options.splits and not options.on:
        parser.error("--splits needs --on with a trained nnU-Net")
    if rest and options.command != "demo":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def parse_demo(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command `demo`, which runs in a process of its own; as `parse`."""
    parser = argparse.ArgumentParser(
        prog="diffusion-segmentation demo",
        description="Segment a real head with Slicer's own libraries and show where the segmentation is uncertain.",
        allow_abbrev=False,
    )
    parser.add_argument("--volume", metavar="FILE", type=_path, help="default: a head from an installed package")
    parser.add_argument("--output", metavar="DIR", type=_path, default=Path("demo"), help="default: %(default)s")
    _add_sampling(parser)
    _add_common(parser)
    return parser.parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="diffusion-segmentation",
        description="Segment a 3-D image with a diffusion model and map the uncertainty of the segmentation.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    debug: dict[str, Any] = {
        "action": "store_true",
        "help": f"print the traceback of an error; or set {DEBUG_VARIABLE}=1",
    }
    root.add_argument("--debug", default=debug_enabled(), **debug)
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add_command(name: str, summary: str, description: str | None = None) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
        command.set_defaults(command=name)
        command.add_argument("--debug", default=argparse.SUPPRESS, **debug)
        return command

    segment = add_command("segment", "segment a volume and map its uncertainty")
    _add_volumes(segment)
    _add_output(segment, "folder for the results")
    ask_help = "a question to answer, such as 'volume(ventricles) > 40'; repeat it for more"
    segment.add_argument("--ask", metavar="QUESTION", action="append", default=[], help=ask_help)
    _add_sampling(segment)
    _add_common(segment, "the report")
    _add_result(segment)

    update = add_command(
        "update",
        "draw the samples of a result again, given corrected voxels",
        "Draw the samples in RESULT, the output folder of `segment`, again given the labels of FILE, a label map on "
        "the grid of VOLUME in which 255 marks what is not known. Facts of earlier updates of RESULT stay.",
    )
    update.add_argument("result", metavar="RESULT", type=_path, help="folder of a finished result")
    _add_volumes(update)
    update.add_argument("--facts", metavar="FILE", type=_path, required=True, help="label map of the known voxels")
    _add_output(update, "folder for the new results; it can be RESULT")
    update.add_argument("--model", metavar="NAME|DIR", type=_name, help="default: the installed model of that name")
    _add_result(update, regions=False)
    _add_common(update, "the report", seed=False)

    ask = add_command(
        "ask",
        "ask the samples of a finished result",
        "Answer QUESTIONS from the samples in RESULT, the output folder of `segment --keep-samples`: numbers such as "
        "'volume(ventricles)' or 'diameter(lesion)' with predictive intervals, and statements such as "
        "'distance(tumour, vessel) < 5' with their probability.",
    )
    ask.add_argument("result", metavar="RESULT", type=_path, help="folder of a finished result")
    ask.add_argument("question", metavar="QUESTION", nargs="+", help="for example 'volume(ventricles) > 40'")
    _add_json(ask, "the answers")

    imported = add_command(
        "import",
        "map the disagreement of masks that other programs or people made",
        "Take MASKS, label maps of raters, folds of a network, augmented runs or different tools, in place of samples: "
        "their mean is the class probability and their disagreement the uncertainty. Files of class probabilities, "
        "such as nnU-Net's .npz, can be given as well.",
    )
    imported.add_argument("masks", metavar="MASK", type=_path, nargs="+", help="label maps, or .npz probabilities")
    imported.add_argument("--volume", metavar="FILE", type=_path, required=True, help="the volume they were made from")
    imported.add_argument(
        "--labels",
        metavar="FILE|none",
        type=_path,
        help="dataset.json with the names of the labels; default: the one beside the masks",
    )
    _add_output(imported, "folder for the results")
    _add_result(imported)
    _add_json(imported, "the report")

    models = add_command(
        "models",
        "list, add and remove installed models",
        "List the installed models, add the one in a folder or archive, a trained nnU-Net v2 folder or a MONAI bundle, "
        "or remove one that was added.",
    )
    models.add_argument("action", choices=("list", "add", "remove"), nargs="?", default="list", help="default: list")
    models.add_argument("target", metavar="FOLDER|FILE|NAME", type=_name, nargs="?", help="what to add or remove")
    models.add_argument("--name", metavar="N", help="name of the added model, default: its own")
    _add_json(models, "their metadata")

    train = add_command(
        "train",
        "train a model on your own data",
        "Train on DATA: a folder in the layout of the Medical Segmentation Decathlon or nnU-Net, a file of tissue "
        "priors, or a task with a known answer such as lesions:32x32.",
    )
    _add_data(train)
    _add_output(train, "folder for the model")
    train.add_argument(
        "--config", metavar="FILE", type=_path, help="JSON file with settings that differ from the defaults"
    )
    train.add_argument("--minutes", metavar="M", type=_minutes, help="stop after this training time")
    train.add_argument("--start", metavar="NAME|DIR", type=_name, help="initialise with another model's weights")
    train.add_argument("--on", metavar="NAME|DIR", type=_name, help="train a sampler on top of this model as it is")
    train.add_argument("--splits", metavar="FILE", type=_path, help="an nnU-Net's splits_final.json, for --on")
    train.add_argument("--slices", action="store_true", help="train on the slices of volumes, as on pictures")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")

    evaluate = add_command(
        "evaluate",
        "measure a model on your own cases or on a task with a known answer",
        "Evaluate MODEL on DATASET: a folder of labelled images as for `train`, tissue priors from which heads are "
        "generated, or a task with a known answer such as lesions:32x32. Finished cases are stored in the output "
        "folder; the same command continues.",
    )
    _add_model(evaluate)
    _add_data(evaluate, "dataset")
    _add_output(evaluate, "folder for the report and the scores")
    evaluate.add_argument(
        "--samples",
        metavar="N",
        type=_positive,
        help="samples of each case; default: set by the model, 32 for heads, 64 for phantoms",
    )
    evaluate.add_argument(
        "--steps",
        metavar="K",
        type=_steps,
        nargs="+",
        default=[],
        help="for phantoms several numbers, such as 5 10 uniform:10",
    )
    evaluate.add_argument(
        "--cases", metavar="N", type=_positive, help="default: all; 100 heads, 400 phantoms (100 in 3D)"
    )
    evaluate.add_argument(
        "--window", metavar="ZxYxX", type=_window, help="size of a synthetic head in voxels, default: 64x64x64"
    )
    _add_common(evaluate, "the scores")

    calibrate = add_command(
        "calibrate",
        "fit the spread of a model's samples to labelled cases",
        "Fit the spread of MODEL's samples to labelled cases that it was not trained on, and write a copy of the "
        "model. DATA as for `train`.",
    )
    _add_model(calibrate)
    _add_data(calibrate)
    _add_output(calibrate, "folder for the calibrated model")
    calibrate.add_argument(
        "--cases", metavar="N", type=_positive, help="largest number of cases; default: 72, or 200 in 2D"
    )
    calibrate.add_argument(
        "--scans-only", action="store_true", help="keep the spread and fit only the statistics of the scans"
    )
    _add_common(calibrate, "the fitted values")

    study = add_command(
        "study",
        "measure what diffusion learns, whether it pays and how to set it up on your own data",
        "Study DATA: folders of labelled images as for `train`, or tasks with a known answer such as lesions:32x32. "
        "Trains many small networks for the same time each and writes one report. Finished parts are stored in the "
        "output folder; the same command continues.",
    )
    study.add_argument("data", metavar="DATA", type=_name, nargs="+", help="folder of labelled images, or phantom")
    _add_output(study, "folder for the report")
    study.add_argument("--budget", metavar="M", type=_minutes, default=85.0, help="total minutes, default: %(default)g")
    study.add_argument("--only", metavar="A1,A3", help="questions to answer in full; default: A1, A3 and A4 in short")
    study.add_argument(
        "--seeds", metavar="N", type=_positive, default=2, help="networks of each kind, default: %(default)s"
    )
    study.add_argument("--slices", action="store_true", help="study the slices of volumes, as pictures")
    study.add_argument(
        "--adapt",
        metavar="NAME|DIR",
        type=_name,
        help="train nothing; fit the steps of this model to DATA and report the gain",
    )
    _add_common(study, "the findings", seed=False)

    demo = commands.add_parser("demo", help="segment a real head and render it with Slicer's scene", add_help=False)
    demo.set_defaults(command="demo")
    add_command("worker", "serve 3D Slicer as its background process")
    return root


def _add_output(command: argparse.ArgumentParser, meaning: str) -> None:
    command.add_argument("--output", metavar="DIR", type=_path, required=True, help=meaning)


def _add_volumes(command: argparse.ArgumentParser) -> None:
    """Add VOLUME and --input."""
    volume_help = "NRRD, NIfTI, PNG or another file SimpleITK reads; for a model of several inputs all, in its order"
    command.add_argument("volume", metavar="VOLUME", type=_path, nargs="*", help=volume_help)
    by_name = "an input of the model by its name, in place of VOLUME; repeat it for each"
    repeated: dict[str, Any] = {"action": "append", "default": []}
    command.add_argument("--input", metavar="NAME=FILE", type=_named_path, help=by_name, **repeated)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", type=_name, help="name of an installed model, or a model folder")


def _add_data(command: argparse.ArgumentParser, name: str = "data") -> None:
    text = "folder of labelled images, priors (.npz) or name of a phantom"
    command.add_argument(name, metavar=name.upper(), type=_name, help=text)


def _add_sampling(command: argparse.ArgumentParser) -> None:
    """Add --model, --samples and --steps."""
    command.add_argument("--model", metavar="NAME|DIR", type=_name, default=DEFAULT_MODEL, help="default: %(default)s")
    command.add_argument("--samples", metavar="N|auto", type=_samples, help="default: set by the model, 8 or 64")
    command.add_argument("--steps", metavar="K", type=_positive, help="default: set by the model for the device")


def _add_common(command: argparse.ArgumentParser, result: str = "", seed: bool = True) -> None:
    """Add --device and, with `seed`, --seed; with a description of the `result` also --json."""
    if seed:
        command.add_argument("--seed", metavar="S", type=_seed, default=0, help="default: %(default)s")
    command.add_argument("--device", type=_device, default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    if result:
        _add_json(command, result)


def _add_json(command: argparse.ArgumentParser, result: str) -> None:
    command.add_argument("--json", action="store_true", help=f"print {result} as JSON on stdout")


def _add_result(command: argparse.ArgumentParser, regions: bool = True) -> None:
    """Add the options on the result files of a volume."""
    if regions:
        text = "minimum distance of uncertain regions, default: 15"
        command.add_argument("--region-mm", metavar="MM", type=_millimetres, help=text)
    text = "voxel size in mm, for a file that does not state it"
    command.add_argument("--spacing", metavar="I,J,K", type=_spacing, help=text)
    command.add_argument("--keep-samples", action="store_true", help="also write samples and class probabilities")


def _name(text: str) -> str:
    """A name or a path; a shell does not expand the ~ of `--output=~/x`."""
    return os.path.expanduser(text)


def _path(text: str) -> Path:
    return Path(_name(text))


def _named_path(text: str) -> tuple[str, Path]:
    name, separator, file = text.partition("=")
    return _checked(
        text,
        (name, _path(file) if file else Path()),
        bool(name and separator and file),
        "NAME=FILE such as FLAIR=flair.nii.gz",
    )


def _checked(text: str, value: Any, valid: bool, requirement: str) -> Any:
    """`value` if it is valid; otherwise wrong usage."""
    if not valid:
        raise argparse.ArgumentTypeError(f"{text} is not {requirement}")
    return value


def _spacing(text: str) -> tuple[float, ...]:
    steps = tuple(float(part) for part in re.split("[,x]", text))
    valid = len(steps) == 3 and all(0 < step < float("inf") for step in steps)
    return _checked(text, steps, valid, "three sizes in mm such as 0.5,0.5,2")


def _minutes(text: str) -> float:
    minutes = float(text)
    return _checked(text, minutes, 0 < minutes < float("inf"), "a positive number of minutes")


def _positive(text: str) -> int:
    return _checked(text, int(text), int(text) >= 1, "a positive number")


def _millimetres(text: str) -> float:
    return _checked(text, float(text), 5 <= float(text) <= 100, "within 5 to 100")


def _steps(text: str) -> str:
    valid = re.fullmatch(r"(uniform:)?[0-9]{1,4}", text) and int(text.rpartition(":")[2]) >= 2
    return _checked(text, text, bool(valid), "a number of 2 or more, or such as uniform:10")


def _window(text: str) -> tuple[int, ...]:
    valid = re.fullmatch(r"[0-9]{2,3}(x[0-9]{2,3}){2}", text)
    return tuple(map(int, _checked(text, text, bool(valid), "such as 96x112x96").split("x")))


def _samples(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _seed(text: str) -> int:
    return _checked(text, int(text), 0 <= int(text) < 2**63, "between 0 and 2^63 - 1")


def _device(text: str) -> str:
    return _checked(text, text, bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text)), "auto, cpu, cuda, cuda:N or mps")
