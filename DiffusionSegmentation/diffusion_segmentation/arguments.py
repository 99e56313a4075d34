"""The arguments of the command `diffusion-segmentation`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from . import option_values as values
from .errors import DEBUG_VARIABLE, debug_enabled
from .option_groups import (
    add_common,
    add_data,
    add_json,
    add_model,
    add_named_inputs,
    add_output,
    add_result,
    add_sampling,
    add_volumes,
)
from .remote_options import add_host, add_processes


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; `command` is the name of the command, `rest` the arguments for `demo`.

    Wrong usage prints a usage line and exits with status 2.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    options.rest = rest
    if options.command == "models" and (options.action == "list") != (options.target is None):
        parser.error("`models add` takes a folder or an archive, `models remove` a name, `models` nothing")
    if options.command in ("segment", "update", "add-case") and bool(options.volume) == bool(options.input):
        parser.error(f"`{options.command}` takes VOLUME, or --input NAME=FILE for each input of the model")
    if options.command == "train" and options.splits and not options.on:
        parser.error("--splits needs --on with a trained nnU-Net")
    if options.command == "calibrate" and options.intervals and options.scans_only:
        parser.error("--intervals fits the statistics of the scans, too; leave out --scans-only")
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
    parser.add_argument("--volume", metavar="FILE", type=values.path, help="default: a head from an installed package")
    parser.add_argument("--output", metavar="DIR", type=values.path, default=Path("demo"), help="default: %(default)s")
    add_sampling(parser)
    add_common(parser)
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
    add_volumes(segment)
    add_output(segment, "folder for the results")
    segment.add_argument(
        "--ask",
        metavar="QUESTION",
        action="append",
        default=[],
        help="a question to answer, such as 'volume(ventricles) > 40'; repeat it for more",
    )
    add_sampling(segment)
    add_common(segment, "the report")
    add_result(segment)
    add_host(segment)

    update = add_command(
        "update",
        "draw the samples of a result again, given corrected voxels",
        "Draw the samples in RESULT, the output folder of `segment`, again given the labels of FILE, a label map on "
        "the grid of VOLUME in which 255 marks what is not known. Facts of earlier updates of RESULT stay. The rest "
        "follows them only roughly yet.",
    )
    update.add_argument("result", metavar="RESULT", type=values.path, help="folder of a finished result")
    add_volumes(update)
    update.add_argument(
        "--facts", metavar="FILE", type=values.path, required=True, help="label map of the known voxels"
    )
    add_output(update, "folder for the new results; it can be RESULT")
    update.add_argument(
        "--model", metavar="NAME|DIR", type=values.name, help="default: the installed model of that name"
    )
    add_result(update, regions=False)
    add_common(update, "the report", seed=False)

    ask = add_command(
        "ask",
        "ask the samples of a finished result",
        "Answer QUESTIONS from the samples in RESULT, the output folder of `segment --keep-samples`: numbers such as "
        "'volume(ventricles)' or 'diameter(lesion)' with predictive intervals, and statements such as "
        "'distance(tumour, vessel) < 5' with their probability.",
    )
    ask.add_argument("result", metavar="RESULT", type=values.path, help="folder of a finished result")
    ask.add_argument("question", metavar="QUESTION", nargs="+", help="for example 'volume(ventricles) > 40'")
    add_json(ask, "the answers")

    imported = add_command(
        "import",
        "map the disagreement of masks that other programs or people made",
        "Take MASKS, label maps of raters, folds of a network, augmented runs or different tools, in place of samples: "
        "their mean is the class probability and their disagreement the uncertainty. Files of class probabilities, "
        "such as nnU-Net's .npz, can be given as well.",
    )
    imported.add_argument(
        "masks", metavar="MASK", type=values.path, nargs="+", help="label maps, or .npz probabilities"
    )
    imported.add_argument(
        "--volume", metavar="FILE", type=values.path, required=True, help="the volume they were made from"
    )
    imported.add_argument(
        "--labels",
        metavar="FILE|none",
        type=values.path,
        help="dataset.json with the names of the labels; default: the one beside the masks",
    )
    add_output(imported, "folder for the results")
    add_result(imported)
    add_json(imported, "the report")

    added = add_command("add-case", "add an image with its corrected labels to a data set for training")
    added.add_argument("data", metavar="DATA", type=values.path, help="folder in nnU-Net's layout, made if need be")
    added.add_argument("volume", metavar="VOLUME", type=values.path, nargs="*", help="the image")
    add_named_inputs(added, "an input of the case by its name, such as CT=scan.nii.gz; repeat it for each")
    added.add_argument(
        "--labels", metavar="FILE", type=values.path, required=True, help="Slicer segmentation, or label map"
    )
    added.add_argument("--name", metavar="CASE", default="", help="default: the next free case_001")
    added.add_argument(
        "--review", metavar="FILE", type=values.path, help="JSON file with facts to keep beside the labels"
    )
    add_json(added, "what was added")

    cohort = add_command(
        "cohort",
        "segment many cases, on this machine or on a cluster",
        "Segment all cases of INPUT into DIR: volumes and DICOM folders in a folder, volume files, and CSV files with "
        "the columns case, inputs and, optionally, model and series. Finished cases stay; the same command continues.",
    )
    cohort.add_argument("paths", metavar="INPUT", type=values.path, nargs="+", help="folder, volume or CSV file")
    add_output(cohort, "folder for the results")
    text = "cases at a time, default: one for each GPU, or for each four cores"
    cohort.add_argument("--workers", metavar="N", type=values.positive, help=text)
    cohort.add_argument(
        "--address", metavar="A", help="a cluster of Ray, such as head:6379; default: this machine alone"
    )
    add_sampling(cohort)
    add_common(cohort, "the numbers of cases")
    add_result(cohort, keeps=False)

    models = add_command(
        "models",
        "list, add and remove installed models",
        "List the installed models, add the one in a folder or archive, a trained nnU-Net v2 folder or a MONAI bundle, "
        "or remove one that was added.",
    )
    models.add_argument("action", choices=("list", "add", "remove"), nargs="?", default="list", help="default: list")
    models.add_argument("target", metavar="FOLDER|FILE|NAME", type=values.name, nargs="?", help="what to add or remove")
    models.add_argument("--name", metavar="N", help="name of the added model, default: its own")
    add_json(models, "their metadata")

    train = add_command(
        "train",
        "train a model on your own data",
        "Train on DATA: a folder in the layout of the Medical Segmentation Decathlon or nnU-Net, a file of tissue "
        "priors, or a task with a known answer such as lesions:32x32.",
    )
    add_data(train)
    add_output(train, "folder for the model")
    train.add_argument(
        "--config", metavar="FILE", type=values.path, help="JSON file with settings that differ from the defaults"
    )
    train.add_argument("--minutes", metavar="M", type=values.minutes, help="stop after this training time")
    train.add_argument("--start", metavar="NAME|DIR", type=values.name, help="initialise with another model's weights")
    train.add_argument(
        "--on", metavar="NAME|DIR", type=values.name, help="train a sampler on top of this model as it is"
    )
    train.add_argument("--splits", metavar="FILE", type=values.path, help="an nnU-Net's splits_final.json, for --on")
    train.add_argument("--slices", action="store_true", help="train on the slices of volumes, as on pictures")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")

    evaluate = add_command(
        "evaluate",
        "measure a model on your own cases or on a task with a known answer",
        "Evaluate MODEL on DATASET: a folder of labelled images as for `train`, tissue priors from which heads are "
        "generated, or a task with a known answer such as lesions:32x32. Finished cases are stored in the output "
        "folder; the same command continues.",
    )
    add_model(evaluate)
    add_data(evaluate, "dataset")
    add_output(evaluate, "folder for the report and the scores")
    evaluate.add_argument(
        "--samples",
        metavar="N",
        type=values.positive,
        help="samples of each case; default: set by the model, 32 for heads, 64 for phantoms",
    )
    evaluate.add_argument(
        "--steps",
        metavar="K",
        type=values.steps,
        nargs="+",
        default=[],
        help="for phantoms several numbers, such as 5 10 uniform:10",
    )
    evaluate.add_argument(
        "--cases", metavar="N", type=values.positive, help="default: all; 100 heads, 400 phantoms (100 in 3D)"
    )
    evaluate.add_argument(
        "--window", metavar="ZxYxX", type=values.window, help="size of a synthetic head in voxels, default: 64x64x64"
    )
    add_common(evaluate, "the scores")

    calibrate = add_command(
        "calibrate",
        "fit the spread of a model's samples to labelled cases",
        "Fit the spread of MODEL's samples to labelled cases that it was not trained on, and write a copy of the "
        "model. DATA as for `train`. With --intervals make its numbers hold on 20 or more cases of your own.",
    )
    add_model(calibrate)
    add_data(calibrate)
    add_output(calibrate, "folder for the calibrated model")
    calibrate.add_argument(
        "--cases",
        metavar="N",
        type=values.positive,
        help="largest number of cases; default: 72, or 200 in 2D; with --intervals all",
    )
    calibrate.add_argument(
        "--scans-only", action="store_true", help="keep the spread and fit only the statistics of the scans"
    )
    calibrate.add_argument("--intervals", action="store_true", help="keep the spread; fit map and volume intervals")
    add_common(calibrate, "the fitted values")

    average = add_command(
        "average",
        "average the weights of two models of the same origin",
        "Write MODEL with the mean of its weights and those of OTHER: a model that was trained further on other data, "
        "and the one that it started from, or two that started from the same one.",
    )
    add_model(average)
    average.add_argument(
        "other", metavar="OTHER", type=values.name, help="name of an installed model, or a model folder"
    )
    add_output(average, "folder for the model")
    average.add_argument(
        "--share", metavar="S", type=values.share, default=0.5, help="weight of OTHER, 0 to 1; default: %(default)g"
    )
    add_json(average, "the result")

    study = add_command(
        "study",
        "measure what diffusion learns, whether it pays and how to set it up on your own data",
        "Study DATA: folders of labelled images as for `train`, or tasks with a known answer such as lesions:32x32. "
        "Trains many small networks for the same time each and writes one report. Finished parts are stored in the "
        "output folder; the same command continues.",
    )
    study.add_argument(
        "data", metavar="DATA", type=values.name, nargs="+", help="folder of labelled images, or phantom"
    )
    add_output(study, "folder for the report")
    study.add_argument(
        "--budget", metavar="M", type=values.minutes, default=85.0, help="total minutes, default: %(default)g"
    )
    study.add_argument("--only", metavar="A1,A3", help="questions to answer in full; default: A1, A3 and A4 in short")
    study.add_argument(
        "--seeds", metavar="N", type=values.positive, default=2, help="networks of each kind, default: %(default)s"
    )
    study.add_argument("--slices", action="store_true", help="study the slices of volumes, as pictures")
    study.add_argument(
        "--adapt",
        metavar="NAME|DIR",
        type=values.name,
        help="train nothing; fit the steps of this model to DATA and report the gain",
    )
    add_common(study, "the findings", seed=False)

    demo = commands.add_parser("demo", help="segment a real head and render it with Slicer's scene", add_help=False)
    demo.set_defaults(command="demo")
    add_processes(add_command)
    return root
