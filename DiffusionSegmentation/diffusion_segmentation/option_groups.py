"""Options that several commands have."""

from __future__ import annotations

import argparse

from . import option_values as values

DEFAULT_MODEL = "brain-structures"


def add_output(command: argparse.ArgumentParser, meaning: str) -> None:
    command.add_argument("--output", metavar="DIR", type=values.path, required=True, help=meaning)


def add_named_inputs(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--input", metavar="NAME=FILE", type=values.named_path, action="append", default=[], help=text)


def add_volumes(command: argparse.ArgumentParser) -> None:
    """Add VOLUME, --input and the options for a DICOM series."""
    volume_help = "NRRD, NIfTI, PNG, the folder of a DICOM series, ...; for a model of several inputs all, in its order"
    command.add_argument("volume", metavar="VOLUME", type=values.path, nargs="*", help=volume_help)
    add_named_inputs(command, "an input of the model by its name, in place of VOLUME; repeat it for each")
    command.add_argument("--series", metavar="UID", help="the DICOM series to read from a folder with several")
    dicom = "for a DICOM series also write DICOM: segmentation, probabilities, entropy and volumes"
    command.add_argument("--dicom", action="store_const", const="labelmap", help=dicom)
    binary = "the same with a segmentation of type BINARY, for programs that do not read LABELMAP"
    command.add_argument("--dicom-binary", action="store_const", const="binary", dest="dicom", help=binary)


def add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model", metavar="MODEL", type=values.name, help="name of an installed model, or a model folder"
    )


def add_data(command: argparse.ArgumentParser, name: str = "data") -> None:
    text = "folder of labelled images, priors (.npz) or name of a phantom"
    command.add_argument(name, metavar=name.upper(), type=values.name, help=text)


def add_sampling(command: argparse.ArgumentParser) -> None:
    """Add --model, --samples and --steps."""
    command.add_argument(
        "--model", metavar="NAME|DIR", type=values.name, default=DEFAULT_MODEL, help="default: %(default)s"
    )
    command.add_argument("--samples", metavar="N|auto", type=values.samples, help="default: set by the model, 8 or 64")
    command.add_argument("--steps", metavar="K", type=values.positive, help="default: set by the model for the device")


def add_common(command: argparse.ArgumentParser, result: str = "", seed: bool = True) -> None:
    """Add --device and, with `seed`, --seed; with a description of the `result` also --json."""
    if seed:
        command.add_argument("--seed", metavar="S", type=values.seed, default=0, help="default: %(default)s")
    command.add_argument(
        "--device", type=values.device, default="auto", help="auto (default), cpu, cuda, cuda:N or mps"
    )
    if result:
        add_json(command, result)


def add_json(command: argparse.ArgumentParser, result: str) -> None:
    command.add_argument("--json", action="store_true", help=f"print {result} as JSON on stdout")


def add_result(command: argparse.ArgumentParser, regions: bool = True, keeps: bool = True) -> None:
    """Add the options on the result files of a volume; with `keeps` also --keep-samples."""
    if regions:
        text = "minimum distance of uncertain regions, default: 15"
        command.add_argument("--region-mm", metavar="MM", type=values.millimetres, help=text)
    command.add_argument(
        "--spacing", metavar="I,J,K", type=values.spacing, help="voxel size in mm, for a file that does not state it"
    )
    if keeps:
        command.add_argument("--keep-samples", action="store_true", help="also write samples and class probabilities")
