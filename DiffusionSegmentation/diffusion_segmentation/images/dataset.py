"""A folder of labelled images in the layout of the Medical Segmentation Decathlon or nnU-Net (v1 and v2).

    dataset.json                   "labels", and the list of cases, "training" or "dataset"
    imagesTr/  labelsTr/           training
    imagesTs/  labelsTs/           test, where labels exist

In nnU-Net's layout an image is CASE_0000.nii.gz and its label file CASE.nii.gz. Several raters of a case have several
label files: a list in dataset.json, or CASE_rater1.nii.gz, CASE_rater2.nii.gz and so on.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError, shown

MAX_LABEL_LENGTH, MAX_NAME_LENGTH = 200, 100  # characters of the name of a label, and of a data set or modality
MAX_LABELS = 250  # including background. Masks are uint8, of which 255 marks ignored voxels

ENDINGS = re.compile(
    r"(\.seg\.(nrrd|nhdr)|(\.(nii|nrrd|nhdr|mha|mhd|img|hdr|tiff?|png|bmp|jpe?g|gipl|vtk|mnc|h5|hdf5|mrc|gz))+)$",
    re.IGNORECASE,
)

CT_WORDS = {"ct", "cta", "cbct", "ncct", "cect", "ldct", "hrct"}
MR_WORDS = {
    *("mr", "mri", "mra", "t1", "t2", "t1w", "t2w", "pd", "pdw", "flair", "swi", "dwi", "adc", "mprage", "t1c", "t1ce"),
    *("t1gd", "t2f", "t1n", "t2star", "t1wce", "t2flair", "mp2rage", "bold", "tof"),
}
# Together with a word of CT_WORDS or MR_WORDS these describe another modality, or another intensity scale.
OTHER_WORDS = {"pet", "spect", "us", "fdg", "oct", "perfusion", "non", "not", "no", "emission", "ultrasound"}


@dataclass(frozen=True)
class Case:
    """An image and its label files, one for each rater."""

    name: str  # the image's path below imagesTr or imagesTs without its endings, unique in the data set
    image: Path
    labels: tuple[Path, ...]


@dataclass(frozen=True)
class Dataset:
    """Content of dataset.json and the folders."""

    name: str
    modality: str  # "CT", "MR" or the text in dataset.json
    label_names: tuple[str, ...]  # in the order of the labels, without background
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    ignored: int | None = None  # the number of unlabelled voxels, which nnU-Net calls "ignore"
    unlabelled: int = 0  # images of imagesTr that belong to no case


def read_dataset(folder: Path) -> Dataset:
    """Read the list of cases, but no image. Raises InputError if the folder is not such a data set."""
    file = f"The dataset.json of '{folder.name}'"
    listing = _read_json(folder / "dataset.json", file)
    label_names, ignored = _labels(listing.get("labels"), file)
    modality = _modality(listing.get("channel_names", listing.get("modality", "MRI")), folder.name)
    # "dataset" of nnU-Net v2: {case: {"images", "label"}}; "training" of the Decathlon and nnU-Net v1:
    # [{"image", "label"}]; without either the cases of the folders.
    if isinstance(listing.get("dataset"), dict) and listing["dataset"]:
        training = [_listed(folder, entry, str(name)) for name, entry in listing["dataset"].items()]
    elif isinstance(listing.get("training"), list) and listing["training"]:
        training = [_listed(folder, entry) for entry in listing["training"]]
    else:
        training = _paired(folder, "Tr")
    if not training:
        raise InputError(
            f"The data set '{folder.name}' has no labelled case in imagesTr and labelsTr; put them there, or list them "
            "in its dataset.json."
        )
    used = {case.image.resolve() for case in training}
    name = str(listing.get("name", folder.name))
    return Dataset(
        name=name if is_valid_name(name, MAX_NAME_LENGTH) else "Model",
        modality=modality,
        label_names=label_names,
        ignored=ignored,
        unlabelled=len({path.resolve() for path in _images(folder / "imagesTr")} - used),
        training=_unique(training, folder.name),
        test=_unique(_paired(folder, "Ts"), folder.name),
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
    return _labels(_read_json(path, file).get("labels"), file)[0]


def _read_json(path: Path, file: str) -> dict[str, Any]:
    """The object in a dataset.json; `file` is what messages call it."""
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


def _modality(channels: Any, folder: str) -> str:
    """CT, MR or the name of the only channel. Raises InputError for several channels or none."""
    names = [channels] if isinstance(channels, str) else channels
    names = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(names, list) or not names:
        raise InputError(f'The dataset.json of \'{folder}\' has no name for its channel; write {{"0": "MRI"}}.')
    if len(names) != 1:
        raise InputError(
            f"The data set '{folder}' has {len(names)} images per case; this program segments one image, so keep one "
            "channel of it."
        )
    return modality_of(str(names[0]))


def modality_of(text: str) -> str:
    """CT or MR if a channel's name has a word for exactly one of them, else the name."""
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    ct = bool(CT_WORDS & words) or {"computed", "tomography"} <= words
    mr = bool(MR_WORDS & words) or {"magnetic", "resonance"} <= words
    if ct != mr and not OTHER_WORDS & words:
        return "CT" if ct else "MR"
    return text.strip() if is_valid_name(text.strip(), MAX_NAME_LENGTH) else "not stated"


def is_valid_name(text: str, max_length: int) -> bool:
    """Whether a text can be written to file headers as a name."""
    return 0 < len(text) <= max_length and text.isprintable() and not text.isspace()


def _listed(folder: Path, entry: Any, name: str | None = None) -> Case:
    try:
        image, labels = entry.get("image", entry.get("images")), entry["label"]
        image = image[0] if isinstance(image, list) and len(image) == 1 else image
        labels = [labels] if isinstance(labels, str) else labels
        if not isinstance(image, str) or not labels or not all(isinstance(label, str) for label in labels):
            raise TypeError
        name = name or _case_name(image)
        case = Case(name, _existing(folder, image), tuple(_existing(folder, label) for label in labels))
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"An entry of the cases in the dataset.json of '{folder.name}' has no image or label, or several images; "
            "fix it."
        ) from None
    if not is_valid_name(case.name, MAX_LABEL_LENGTH):
        raise InputError(f"A case in the dataset.json of '{folder.name}' has an invalid name; rename its file.")
    return case


def _case_name(image: str) -> str:
    """The name of a case from the path of its image: imagesTr/sub-1/T1.nii.gz is sub-1/T1."""
    parts = [part for part in PurePosixPath(image.replace("\\", "/")).parts if part not in (".", "/")]
    folders = parts[1:-1] if re.fullmatch(r"images\w*", parts[0] if parts else "") else parts[:-1]
    return "/".join([*folders, _stem(parts[-1])]) if parts else ""


def _existing(folder: Path, listed: str) -> Path:
    """The file of an entry; nnU-Net v1 lists images without the _0000 of their file names."""
    path = folder / listed.replace("\\", "/")
    try:
        ending = path.name[len(_stem(path.name)) :]
        for file in (path, path.with_name(f"{_stem(path.name)}_0000{ending}")):
            if file.is_file():
                return file
    except (OSError, ValueError):
        pass
    raise InputError(f"The data set '{folder.name}' lacks the file '{shown(path.name)}' that it lists; put it there.")


def _paired(folder: Path, part: str) -> list[Case]:
    """The cases of imagesTr and labelsTr, or of imagesTs and labelsTs, that have a label."""
    images = _images(folder / f"images{part}")
    image_names = {re.sub(r"_0000$", "", _stem(path.name)) for path in images}
    labels: dict[str, list[Path]] = {}
    for path in _images(folder / f"labels{part}"):
        name = _stem(path.name)
        name = name if name in image_names else re.sub(r"^(.*)_rater\w+$", r"\1", name)
        labels.setdefault(name, []).append(path)
    cases = []
    for path in images:
        name = _stem(path.name)
        name = name if name in labels else re.sub(r"_0000$", "", name)
        if name in labels:
            stems = [_stem(file.name) for file in labels[name]]
            if len(stems) > 1 and (name in stems or len(set(stems)) < len(stems)):
                raise InputError(
                    f"The case '{name}' has {len(stems)} label files, '{labels[name][0].name}' and "
                    f"'{labels[name][1].name}'; keep one, or name those of several raters {name}_rater1, {name}_rater2."
                )
            cases.append(Case(name, path, tuple(labels[name])))
    return cases


def _images(folder: Path) -> list[Path]:
    """The image files of a folder, one for each image.

    Of a pair .hdr and .img the .img file; of a header (.nhdr, .mhd) with its data in .img the header.
    """
    images = [path for path in sorted(folder.glob("*")) if ENDINGS.search(path.name) and not path.name.startswith(".")]
    endings = {path: path.name.lower().removesuffix(".gz").rpartition(".")[2] for path in images}
    present = {(_stem(path.name), ending) for path, ending in endings.items()}
    preferred = {"img": ("nhdr", "mhd"), "hdr": ("nhdr", "mhd", "img")}

    def is_covered(path: Path) -> bool:
        return any((_stem(path.name), ending) in present for ending in preferred.get(endings[path], ()))

    return [path for path in images if path.is_file() and not is_covered(path)]


def _unique(cases: Iterable[Case], folder: str) -> tuple[Case, ...]:
    """The cases. Raises InputError if two have the same name or file: scores and splits are stored by name."""
    cases = tuple(cases)
    names = Counter((case.name, case.name) for case in cases)
    files = Counter((str(path), shown(path.name)) for case in cases for path in (case.image, *case.labels))
    for what, counts in (("name", names), ("file", files)):
        for (_, label), count in counts.most_common(1):
            if count > 1:
                raise InputError(
                    f"The data set '{folder}' has the {what} '{label}' {count} times among its cases; keep one of "
                    "them, or correct the others."
                )
    return cases


def _stem(name: str) -> str:
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


def name_key(name: str) -> str:
    """A name without punctuation and capitals, for comparison; composed, because macOS decomposes accents."""
    return "".join(c for c in unicodedata.normalize("NFC", name).lower() if c.isalnum())
