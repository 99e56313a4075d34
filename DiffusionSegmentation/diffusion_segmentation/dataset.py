"""A folder of labelled images, as the Medical Segmentation Decathlon or nnU-Net lays it out.

    dataset.json                   "labels", and in the Decathlon's form "training" with a pair of files for each case
    imagesTr/  labelsTr/           to train from
    imagesTs/  labelsTs/           to test with, where there are labels

In nnU-Net's form an image is CASE_0000.nii.gz and its label CASE.nii.gz. Several raters of a case are several label
files: in the Decathlon's form a list in dataset.json, in nnU-Net's CASE_rater1.nii.gz, CASE_rater2.nii.gz and so on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError

LONGEST_LABEL, LONGEST_NAME = 200, 100


@dataclass(frozen=True)
class Case:
    """An image and the label maps that one or several raters drew in it."""

    name: str
    image: Path
    labels: tuple[Path, ...]


@dataclass(frozen=True)
class Dataset:
    """What dataset.json and the folders say; `label_names` in the order of the labels, background left out."""

    name: str
    modality: str
    label_names: tuple[str, ...]
    training: tuple[Case, ...]
    test: tuple[Case, ...]


def read_dataset(folder: Path) -> Dataset:
    """Read the listing, no image. Raises InputError, one sentence, where the folder is no such data set."""
    try:
        listing = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        channels = listing.get("channel_names", listing.get("modality", {"0": "MRI"}))
        names = _label_names(listing["labels"])
    except OSError:
        raise InputError(
            f"The folder '{folder.name}' has no dataset.json; lay it out as the Medical Segmentation Decathlon or "
            "nnU-Net do."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"The dataset.json of '{folder.name}' does not list its labels as numbers from 0 (background) on; mend it."
        ) from None
    if not all(_writable(label, LONGEST_LABEL) for label in names):
        raise InputError(
            f"The dataset.json of '{folder.name}' has a label whose name is empty, has more than {LONGEST_LABEL} "
            "characters or such as cannot be seen; rename it."
        )
    if len(channels) != 1:
        raise InputError(
            f"The data set '{folder.name}' has {len(channels)} images a case; this program segments one image, so keep "
            "one channel of it."
        )
    listed = isinstance(listing.get("training"), list) and listing["training"]
    training = _listed(folder, listing["training"]) if listed else _paired(folder, "Tr", listing)
    if not training:
        raise InputError(f"The data set '{folder.name}' has no labelled case in imagesTr and labelsTr.")
    name = str(listing.get("name", folder.name))
    return Dataset(
        name=name if _writable(name, LONGEST_NAME) else "Model",
        modality=str(next(iter(channels.values())) if isinstance(channels, dict) else channels[0]),
        label_names=names,
        training=training,
        test=_paired(folder, "Ts", listing),
    )


def _writable(text: str, longest: int) -> bool:
    """Whether a model may have it for a name: it goes into the headers of files."""
    return 0 < len(text) <= longest and text.isprintable() and not text.isspace()


def _label_names(labels: dict[str, Any]) -> tuple[str, ...]:
    """Names in the order of the numbers, from {"0": "background", "1": "liver"} or {"background": 0, "liver": 1}."""
    by_number = {int(k): str(v) for k, v in labels.items()} if "0" in labels else {v: k for k, v in labels.items()}
    if sorted(by_number) != list(range(len(labels))) or len(labels) < 2:
        raise ValueError("labels are not 0, 1, 2, ...")
    return tuple(by_number[n] for n in range(1, len(labels)))


def _listed(folder: Path, entries: list[dict[str, Any]]) -> tuple[Case, ...]:
    cases = []
    for entry in entries:
        try:
            image, labels = entry["image"], entry["label"]
            paths = [folder / label for label in ([labels] if isinstance(labels, str) else labels)]
            case = Case(_stem(Path(image).name), folder / image, tuple(paths))
        except (KeyError, TypeError):
            raise InputError(
                f"An entry under \"training\" in the dataset.json of '{folder.name}' has no image or label; mend it."
            ) from None
        for path in (case.image, *case.labels):
            if not path.is_file():
                raise InputError(f"The data set '{folder.name}' lacks the file '{path.name}' that it lists.")
        cases.append(case)
    return tuple(cases)


def _paired(folder: Path, part: str, listing: dict[str, Any]) -> tuple[Case, ...]:
    """The cases of imagesTr and labelsTr, or of imagesTs and labelsTs, that have a label."""
    labels: dict[str, list[Path]] = {}
    for path in sorted((folder / f"labels{part}").glob("*")):
        if path.is_file() and not path.name.startswith("."):
            labels.setdefault(re.sub(r"_rater\w+$", "", _stem(path.name)), []).append(path)
    cases = []
    for path in sorted((folder / f"images{part}").glob("*")):
        name = _stem(path.name)
        name = name if name in labels else re.sub(r"_0000$", "", name)
        if name in labels and not path.name.startswith("."):
            cases.append(Case(name, path, tuple(labels[name])))
    return tuple(cases)


def _stem(name: str) -> str:
    """File name without its endings: `case_1.nii.gz` is `case_1`."""
    return re.sub(r"(\.(nii|nrrd|mha|mhd|gz|seg))+$", "", name, flags=re.IGNORECASE)


def label_order(dataset: Dataset, labels: Sequence[Mapping[str, Any]]) -> list[int]:
    """The model's label for each number of the data set, background first, by their names.

    Raises InputError where the names are not the same: numbers alone could mean anything.
    """
    by_name = {_plain(entry[key]): entry["label"] for entry in labels for key in ("id", "name")}
    order = [by_name.get(_plain(name)) for name in dataset.label_names]
    if sorted(n for n in order if n) != list(range(1, len(labels) + 1)) or None in order:
        raise InputError(
            f"The data set '{dataset.name}' has the labels {', '.join(dataset.label_names)} and the model "
            f"{', '.join(entry['name'] for entry in labels)}; they must be the same to be compared."
        )
    return [0, *order]


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
