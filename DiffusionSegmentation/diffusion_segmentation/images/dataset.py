"""A folder of labelled images in the layout of the Medical Segmentation Decathlon or nnU-Net (v1 and v2).

    dataset.json                   "labels", and the list of cases, "training" or "dataset"
    imagesTr/  labelsTr/           training
    imagesTs/  labelsTs/           test, where labels exist

In nnU-Net's layout an image is CASE_0000.nii.gz, further inputs are CASE_0001.nii.gz and so on, and the label file is
CASE.nii.gz. A single file can hold all inputs along a fourth axis, or the colours of a picture. Several raters of a
case have several label files: a list in dataset.json, or CASE_rater1.nii.gz, CASE_rater2.nii.gz and so on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError, shown
from .input_names import MAX_CHANNELS, MAX_NAME_LENGTH, Input, inputs_named, is_valid_name, modality_of, name_key

MAX_LABEL_LENGTH = 200  # characters of the name of a label
MAX_LABELS = 250  # including background. Masks are uint8, of which 255 marks ignored voxels

ENDINGS = re.compile(
    r"(\.seg\.(nrrd|nhdr)|(\.(nii|nrrd|nhdr|mha|mhd|img|hdr|tiff?|png|bmp|jpe?g|gipl|vtk|mnc|h5|hdf5|mrc|gz))+)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Case:
    """The images of a case and its label files, one for each rater."""

    name: str  # the first image's path below imagesTr or imagesTs without its endings, unique in the data set
    images: tuple[Path, ...]  # one for each input, or one file with all of them
    labels: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case."""
        return (*self.images, *self.labels)


@dataclass(frozen=True)
class Dataset:
    """Content of dataset.json and the folders."""

    name: str
    inputs: tuple[Input, ...]
    modalities: tuple[str, ...]  # of each input: "CT", "MR" or the text in dataset.json
    label_names: tuple[str, ...]  # in the order of the labels, without background
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    ignored: int | None = None  # the number of unlabelled voxels, which nnU-Net calls "ignore"
    unlabelled: int = 0  # images of imagesTr that belong to no case


@dataclass(frozen=True)
class Listing:
    """The `content` of a dataset.json with its label names, as in `Dataset`, and the names of its channels."""

    content: dict[str, Any]
    label_names: tuple[str, ...]
    ignored: int | None
    channel_names: list[str]


def read_listing(folder: Path) -> Listing:
    """Read the dataset.json of a folder. Raises InputError."""
    file = f"The dataset.json of '{folder.name}'"
    content = read_json(folder / "dataset.json", file)
    channels = content.get("channel_names", content.get("modality", "MRI"))
    return Listing(content, *_labels(content.get("labels"), file), _channel_names(channels, folder.name))


def read_dataset(folder: Path) -> Dataset:
    """Read the list of cases, but no image. Raises InputError if the folder is not such a data set."""
    read = read_listing(folder)
    listing, names = read.content, read.channel_names
    inputs = inputs_named(names)
    count = len(inputs)
    # "dataset" of nnU-Net v2: {case: {"images", "label"}}; "training" of the Decathlon and nnU-Net v1:
    # [{"image", "label"}]; without either the cases of the folders.
    if isinstance(listing.get("dataset"), dict) and listing["dataset"]:
        training = [_listed(folder, entry, count, str(name)) for name, entry in listing["dataset"].items()]
    elif isinstance(listing.get("training"), list) and listing["training"]:
        training = [_listed(folder, entry, count) for entry in listing["training"]]
    else:
        training = _paired(folder, "Tr", count)
    if not training:
        raise InputError(
            f"The data set '{folder.name}' has no labelled case in imagesTr and labelsTr; put them there, or list them "
            "in its dataset.json."
        )
    used = {path.resolve() for case in training for path in case.images}
    name = str(listing.get("name", folder.name))
    return Dataset(
        name=name if is_valid_name(name, MAX_NAME_LENGTH) else "Model",
        inputs=inputs,
        modalities=tuple(modality_of(name) for name in (names if len(names) == count else ["Colour"])),
        label_names=read.label_names,
        ignored=read.ignored,
        unlabelled=len({path.resolve() for path in image_files(folder / "imagesTr")} - used),
        training=_unique(training, folder.name),
        test=_unique(_paired(folder, "Ts", count), folder.name),
    )


def read_label_names(path: Path) -> tuple[str, ...]:
    """Names of the labels 1, 2, ... in a file like dataset.json, or in the dataset.json of a folder.

    Raises InputError.
    """
    if path.is_dir():
        path, file = path / "dataset.json", f"The dataset.json of '{shown(path.name)}'"
    else:
        file = f"The list of labels '{shown(path.name)}'"
        if not path.is_file():
            raise InputError(f"{file} does not exist; check its name and folder.")
    return _labels(read_json(path, file).get("labels"), file)[0]


def read_json(path: Path, file: str) -> dict[str, Any]:
    """The object in a JSON file; `file` is what messages call it. Raises InputError."""
    try:
        # utf-8-sig: editors on Windows add a byte order mark.
        listing = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        raise InputError(
            f"The folder '{path.parent.name}' has no {path.name} that can be read; lay it out as the Medical "
            "Segmentation Decathlon or nnU-Net do."
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8; save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file} is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}; fix it there or just "
            "before."
        ) from None
    except (RecursionError, ValueError):
        raise InputError(f"{file} is not valid JSON; write it again.") from None
    if not isinstance(listing, dict):
        raise InputError(f"{file} is not a JSON object; it must begin with a brace.")
    return listing


def _labels(labels: Any, file: str) -> tuple[tuple[str, ...], int | None]:
    """Label names in the order of their numbers, and the number of the label "ignore".

    `labels` is {"0": "background", "1": "liver"} or {"background": 0, "liver": 1}; `file` is what messages call it.
    """
    if not isinstance(labels, dict):
        raise InputError(f'{file} has no "labels"; list them, background as 0.')
    if any(isinstance(value, list) for value in labels.values()):
        raise InputError(
            f"{file} has regions made of several labels, which this program does not use; list each label by its one "
            "number."
        )
    try:
        by_number = labels if "0" in labels else {number: name for name, number in labels.items()}
        names = {int(number): str(name) for number, name in by_number.items() if not isinstance(name, dict)}
        if any(isinstance(number, float) and number != int(number) for number in by_number):
            names = {}
    except (ValueError, TypeError, OverflowError):
        names = {}
    if sorted(names) != list(range(len(labels))) or len(names) < 2:
        raise InputError(f"{file} does not list its labels as numbers from 0 (background) on; fix it.")
    if len(names) > MAX_LABELS:
        raise InputError(f"{file} has {len(names) - 1} labels and at most {MAX_LABELS - 1} can be used; merge some.")
    if not all(is_valid_name(label, MAX_LABEL_LENGTH) for label in names.values()):
        raise InputError(
            f"{file} has a label whose name is empty, longer than {MAX_LABEL_LENGTH} characters or not printable; "
            "rename it."
        )
    last = len(names) - 1
    keys = [name_key(names[n]) for n in range(len(names))]
    if "background" in keys[1:]:
        raise InputError(f"{file} calls a label other than 0 'background'; number background 0.")
    if any(key and count > 1 for key, count in Counter(keys[1:]).items()):
        raise InputError(f"{file} has two labels that differ only in capitals or punctuation; rename one of them.")
    if "ignore" in keys[:last] or (keys[last] == "ignore" and last == 1):
        raise InputError(
            f"{file} has the label 'ignore', which nnU-Net reserves for the highest number beside one structure or "
            "more; renumber or rename it."
        )
    ignored = last if keys[last] == "ignore" else None
    return tuple(names[n] for n in range(1, len(names) if ignored is None else last)), ignored


def _channel_names(channels: Any, folder: str) -> list[str]:
    """Names of the channels in their order. Raises InputError if there are none, or too many."""
    names = [channels] if isinstance(channels, str) else channels
    if isinstance(names, dict):
        in_order = [names.get(str(number)) for number in range(len(names))]
        names = list(names.values()) if None in in_order else in_order
    if not isinstance(names, list) or not names:
        raise InputError(f'The dataset.json of \'{folder}\' has no name for its channel; write {{"0": "MRI"}}.')
    if len(names) > MAX_CHANNELS:
        raise InputError(
            f"The data set '{folder}' has {len(names)} channels per case and at most {MAX_CHANNELS} can be used; keep "
            "the ones that matter."
        )
    return [str(name) for name in names]


def _listed(folder: Path, entry: Any, inputs: int, name: str | None = None) -> Case:
    try:
        images, labels = entry.get("image", entry.get("images")), entry["label"]
        images = [images] if isinstance(images, str) else images
        labels = [labels] if isinstance(labels, str) else labels
        if not images or not labels or not all(isinstance(path, str) for path in (*images, *labels)):
            raise TypeError
        files = [_existing(folder, image) for image in images]
        if len(files) == 1 < inputs:
            files = channel_files(files[0], inputs)
        own = _case_name(images[0])
        name = name or (re.sub(r"_0000$", "", own) if len(files) > 1 else own)
        case = Case(name, _as_many(files, inputs, name, folder.name), tuple(_existing(folder, one) for one in labels))
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"An entry of the cases in the dataset.json of '{folder.name}' has no image or label; fix it."
        ) from None
    if not is_valid_name(case.name, MAX_LABEL_LENGTH):
        raise InputError(f"A case in the dataset.json of '{folder.name}' has an invalid name; rename its file.")
    return case


def _case_name(image: str) -> str:
    """The name of a case from the path of its image: imagesTr/sub-1/T1.nii.gz is sub-1/T1."""
    parts = [part for part in PurePosixPath(image.replace("\\", "/")).parts if part not in (".", "/")]
    folders = parts[1:-1] if re.fullmatch(r"images\w*", parts[0] if parts else "") else parts[:-1]
    return "/".join([*folders, file_stem(parts[-1])]) if parts else ""


def _existing(folder: Path, listed: str) -> Path:
    """The file of an entry; nnU-Net v1 lists images without the _0000 of their file names."""
    path = folder / listed.replace("\\", "/")
    try:
        ending = path.name[len(file_stem(path.name)) :]
        for file in (path, path.with_name(f"{file_stem(path.name)}_0000{ending}")):
            if file.is_file():
                return file
    except (OSError, ValueError):
        pass
    raise InputError(f"The data set '{folder.name}' lacks the file '{shown(path.name)}' that it lists; put it there.")


def channel_files(first: Path, inputs: int) -> list[Path]:
    """The files of all inputs beside that of the first, case_0000.nii.gz; only it if its name has no such number."""
    ending = first.name[len(file_stem(first.name)) :]
    case = re.sub(r"_0000$", "", file_stem(first.name))
    if case == file_stem(first.name):
        return [first]
    others = [first.with_name(f"{case}_{number:04d}{ending}") for number in range(1, inputs)]
    return [first, *(path for path in others if path.is_file())]


def _as_many(files: Sequence[Path], inputs: int, case: str, folder: str) -> tuple[Path, ...]:
    """`files`, of which there must be one for each input or one with all of them. Raises InputError."""
    if len(files) in (1, inputs):
        return tuple(files)
    channels = "1 channel" if inputs == 1 else f"{inputs} channels"
    raise InputError(
        f"The case '{shown(case)}' of '{folder}' has {len(files)} images and its dataset.json lists {channels}; add "
        "what is missing, named as in case_0000, case_0001, or correct the list."
    )


def _paired(folder: Path, part: str, inputs: int) -> list[Case]:
    """The cases of imagesTr and labelsTr, or of imagesTs and labelsTs, that have a label."""
    images = image_files(folder / f"images{part}")
    image_names = {re.sub(r"_0000$", "", file_stem(path.name)) for path in images}
    labels: dict[str, list[Path]] = {}
    for path in image_files(folder / f"labels{part}"):
        name = file_stem(path.name)
        name = name if name in image_names else re.sub(r"^(.*)_rater\w+$", r"\1", name)
        labels.setdefault(name, []).append(path)
    cases = []
    for path in images:
        name = file_stem(path.name)
        name = name if name in labels else re.sub(r"_0000$", "", name)
        if name in labels:
            files = channel_files(path, inputs) if inputs > 1 else [path]
            stems = [file_stem(file.name) for file in labels[name]]
            if len(stems) > 1 and (name in stems or len(set(stems)) < len(stems)):
                raise InputError(
                    f"The case '{name}' has {len(stems)} label files, '{labels[name][0].name}' and "
                    f"'{labels[name][1].name}'; keep one, or name those of several raters {name}_rater1, {name}_rater2."
                )
            cases.append(Case(name, _as_many(files, inputs, name, folder.name), tuple(labels[name])))
    return cases


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, one for each image.

    Of a pair .hdr and .img the .img file; of a header (.nhdr, .mhd) with its data in .img the header.
    """
    images = [path for path in sorted(folder.glob("*")) if ENDINGS.search(path.name) and not path.name.startswith(".")]
    endings = {path: path.name.lower().removesuffix(".gz").rpartition(".")[2] for path in images}
    present = {(file_stem(path.name), ending) for path, ending in endings.items()}
    preferred = {"img": ("nhdr", "mhd"), "hdr": ("nhdr", "mhd", "img")}

    def is_covered(path: Path) -> bool:
        return any((file_stem(path.name), ending) in present for ending in preferred.get(endings[path], ()))

    return [path for path in images if path.is_file() and not is_covered(path)]


def _unique(cases: Iterable[Case], folder: str) -> tuple[Case, ...]:
    """The cases. Raises InputError if two have the same name or file: scores and splits are stored by name."""
    cases = tuple(cases)
    names = Counter((case.name, case.name) for case in cases)
    files = Counter((str(path), shown(path.name)) for case in cases for path in case.files)
    for what, counts in (("name", names), ("file", files)):
        for (_, label), count in counts.most_common(1):
            if count > 1:
                raise InputError(
                    f"The data set '{folder}' has the {what} '{label}' {count} times among its cases; keep one of "
                    "them, or correct the others."
                )
    return cases


def file_stem(name: str) -> str:
    """File name without its endings: `case_1.nii.gz` is `case_1`."""
    return ENDINGS.sub("", name)


def label_order(dataset: Dataset, labels: Sequence[Mapping[str, Any]]) -> list[int]:
    """The model's label for each label number of the data set, background first, matched by name.

    Raises InputError where the names differ.
    """
    by_name = {name_key(entry[key]): entry["label"] for entry in labels for key in ("id", "name")}
    order = [by_name.get(name_key(name), 0) for name in dataset.label_names]
    if sorted(order) != list(range(1, len(labels) + 1)):
        raise InputError(
            f"The data set '{dataset.name}' has the labels {', '.join(dataset.label_names)} and the model "
            f"{', '.join(entry['name'] for entry in labels)}; they must be the same to be compared."
        )
    return [0, *order]
