"""A folder of labelled images, as the Medical Segmentation Decathlon or nnU-Net (v1 and v2) lays it out.

    dataset.json                   "labels", and where the cases are listed, "training" or "dataset"
    imagesTr/  labelsTr/           to train from
    imagesTs/  labelsTs/           to test with, where there are labels

In nnU-Net's form an image is CASE_0000.nii.gz and its label CASE.nii.gz. Several raters of a case are several label
files: a list in dataset.json, or CASE_rater1.nii.gz, CASE_rater2.nii.gz and so on.
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

LONGEST_LABEL, LONGEST_NAME = 200, 100

MOST_LABELS = 250
"""Masks are bytes, of which the highest stands for voxels that are ignored."""

ENDINGS = re.compile(
    r"(\.seg\.(nrrd|nhdr)|(\.(nii|nrrd|nhdr|mha|mhd|img|hdr|tiff?|png|bmp|jpe?g|gipl|vtk|mnc|h5|hdf5|mrc|gz))+)$",
    re.IGNORECASE,
)

CT_WORDS = {"ct", "cta", "cbct", "ncct", "cect", "ldct", "hrct"}
MR_WORDS = {
    *("mr", "mri", "mra", "t1", "t2", "t1w", "t2w", "pd", "pdw", "flair", "swi", "dwi", "adc", "mprage", "t1c", "t1ce"),
    *("t1gd", "t2f", "t1n", "t2star", "t1wce", "t2flair", "mp2rage", "bold", "tof"),
}
OTHER_WORDS = {"pet", "spect", "us", "fdg", "oct", "perfusion", "non", "not", "no", "emission", "ultrasound"}
"""Beside one of the words above they make it another modality, or none of its usual scale."""


@dataclass(frozen=True)
class Case:
    """An image and the label maps that one or several raters drew in it.

    `name` is the image's path below imagesTr or imagesTs, without its endings, and belongs to no other case.
    """

    name: str
    image: Path
    labels: tuple[Path, ...]


@dataclass(frozen=True)
class Dataset:
    """What dataset.json and the folders say; `label_names` in the order of the labels, background left out.

    `modality` is "CT", "MR" or what else dataset.json says. `ignored` is the number of voxels that nobody labelled, as
    nnU-Net reserves it under the name "ignore", or None. `unlabelled` images of imagesTr are no case.
    """

    name: str
    modality: str
    label_names: tuple[str, ...]
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    ignored: int | None = None
    unlabelled: int = 0


def read_dataset(folder: Path) -> Dataset:
    """Read the listing, no image. Raises InputError, one sentence, where the folder is no such data set."""
    listing = _listing(folder)
    label_names, ignored = _labels(listing.get("labels"), folder.name)
    modality = _modality(listing.get("channel_names", listing.get("modality", "MRI")), folder.name)
    training = _training(folder, listing)
    if not training:
        raise InputError(
            f"The data set '{folder.name}' has no labelled case in imagesTr and labelsTr; put them there, or list them "
            "in its dataset.json."
        )
    used = {case.image.resolve() for case in training}
    name = str(listing.get("name", folder.name))
    return Dataset(
        name=name if _writable(name, LONGEST_NAME) else "Model",
        modality=modality,
        label_names=label_names,
        ignored=ignored,
        unlabelled=len({path.resolve() for path in _images(folder / "imagesTr")} - used),
        training=_distinct(training, folder.name),
        test=_distinct(_paired(folder, "Ts"), folder.name),
    )


def _listing(folder: Path) -> dict[str, Any]:
    try:
        # Editors on Windows begin a file with a byte order mark.
        text = (folder / "dataset.json").read_text(encoding="utf-8-sig")
    except OSError:
        raise InputError(
            f"The folder '{folder.name}' has no dataset.json that can be read; lay it out as the Medical Segmentation "
            "Decathlon or nnU-Net do."
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"The dataset.json of '{folder.name}' is not UTF-8; save it as UTF-8.") from None
    try:
        listing = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"The dataset.json of '{folder.name}' is no valid JSON: {error.msg} in line {error.lineno}, column "
            f"{error.colno}; mend it there or just before."
        ) from None
    except (RecursionError, ValueError):
        raise InputError(f"The dataset.json of '{folder.name}' is no valid JSON; write it again.") from None
    if not isinstance(listing, dict):
        raise InputError(f"The dataset.json of '{folder.name}' is no JSON object; it must begin with a brace.")
    return listing


def _labels(labels: Any, folder: str) -> tuple[tuple[str, ...], int | None]:
    """Names in the order of the numbers, from {"0": "background", "1": "liver"} or {"background": 0, "liver": 1}, and
    the number of what is to be ignored.
    """
    file = f"The dataset.json of '{folder}'"
    if not isinstance(labels, dict):
        raise InputError(f'{file} has no "labels"; list them, background as 0.')
    if any(isinstance(value, list) for value in labels.values()):
        raise InputError(
            f"{file} has regions made of several labels, which this program does not train; list each label by its one "
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
        raise InputError(f"{file} does not list its labels as numbers from 0 (background) on; mend it.")
    if len(names) > MOST_LABELS:
        raise InputError(f"{file} has {len(names) - 1} labels and at most {MOST_LABELS - 1} can be trained; join some.")
    if not all(_writable(label, LONGEST_LABEL) for label in names.values()):
        raise InputError(
            f"{file} has a label whose name is empty, has more than {LONGEST_LABEL} characters or such as cannot be "
            "seen; rename it."
        )
    last = len(names) - 1
    called = [plain(names[n]) for n in range(len(names))]
    if "background" in called[1:]:
        raise InputError(f"{file} calls a label other than 0 'background'; number background 0.")
    told = [name for name in called[1:] if name]
    if len(set(told)) < len(told):
        raise InputError(f"{file} has two labels that differ in nothing but capitals or signs; rename one of them.")
    if "ignore" in called[:last] or (called[last] == "ignore" and last == 1):
        raise InputError(
            f"{file} has the label 'ignore', which nnU-Net reserves for the highest number beside one structure or "
            "more; renumber or rename it."
        )
    ignored = last if called[last] == "ignore" else None
    return tuple(names[n] for n in range(1, len(names) if ignored is None else last)), ignored


def _modality(channels: Any, folder: str) -> str:
    """CT or MR where the name of the one channel has such a word, else that name."""
    named = list(channels.values()) if isinstance(channels, dict) else channels
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not named:
        raise InputError(f'The dataset.json of \'{folder}\' has no name for its channel; write {{"0": "MRI"}}.')
    if len(named) != 1:
        raise InputError(
            f"The data set '{folder}' has {len(named)} images a case; this program segments one image, so keep one "
            "channel of it."
        )
    return modality_of(str(named[0]))


def modality_of(text: str) -> str:
    """CT or MR, by the whole words of a channel's name; what has neither, or both, keeps its name."""
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    ct = bool(CT_WORDS & words) or {"computed", "tomography"} <= words
    mr = bool(MR_WORDS & words) or {"magnetic", "resonance"} <= words
    if ct != mr and not OTHER_WORDS & words:
        return "CT" if ct else "MR"
    return text.strip() if _writable(text.strip(), LONGEST_NAME) else "not stated"


def _writable(text: str, longest: int) -> bool:
    """Whether a model may have it for a name: it goes into the headers of files."""
    return 0 < len(text) <= longest and text.isprintable() and not text.isspace()


def _training(folder: Path, listing: Mapping[str, Any]) -> list[Case]:
    """The cases that dataset.json lists, or else those of the folders.

    Lists: "training" of the Decathlon and nnU-Net v1, [{"image", "label"}]; "dataset" of nnU-Net v2, {case: {"images",
    "label"}}.
    """
    if isinstance(listing.get("dataset"), dict) and listing["dataset"]:
        return [_listed(folder, entry, str(name)) for name, entry in listing["dataset"].items()]
    if isinstance(listing.get("training"), list) and listing["training"]:
        return [_listed(folder, entry) for entry in listing["training"]]
    return _paired(folder, "Tr")


def _listed(folder: Path, entry: Any, name: str | None = None) -> Case:
    try:
        image, labels = entry.get("image", entry.get("images")), entry["label"]
        image = image[0] if isinstance(image, list) and len(image) == 1 else image
        labels = [labels] if isinstance(labels, str) else labels
        if not isinstance(image, str) or not labels or not all(isinstance(label, str) for label in labels):
            raise TypeError
        case = Case(name or _name(image), _existing(folder, image), tuple(_existing(folder, label) for label in labels))
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"An entry of the cases in the dataset.json of '{folder.name}' has no image or label, or several images; "
            "mend it."
        ) from None
    if not _writable(case.name, LONGEST_LABEL):
        raise InputError(f"A case in the dataset.json of '{folder.name}' has a name that is none; rename its file.")
    return case


def _name(image: str) -> str:
    """A case's name, from the path of its image: imagesTr/sub-1/T1.nii.gz is sub-1/T1."""
    parts = [part for part in PurePosixPath(image.replace("\\", "/")).parts if part not in (".", "/")]
    if len(parts) > 1 and re.fullmatch(r"images\w*", parts[0]):
        parts = parts[1:]
    return "/".join([*parts[:-1], _stem(parts[-1])]) if parts else ""


def _existing(folder: Path, listed: str) -> Path:
    """The file that an entry means; nnU-Net v1 lists images without the _0000 that their files have."""
    path = folder / listed.replace("\\", "/")
    try:
        ending = path.name[len(_stem(path.name)) :]
        for found in (path, path.with_name(f"{_stem(path.name)}_0000{ending}")):
            if found.is_file():
                return found
    except (OSError, ValueError):
        pass
    raise InputError(f"The data set '{folder.name}' lacks the file '{shown(path.name)}' that it lists; put it there.")


def _paired(folder: Path, part: str) -> list[Case]:
    """The cases of imagesTr and labelsTr, or of imagesTs and labelsTs, that have a label."""
    images = _images(folder / f"images{part}")
    known = {re.sub(r"_0000$", "", _stem(path.name)) for path in images}
    labels: dict[str, list[Path]] = {}
    for path in _images(folder / f"labels{part}"):
        name = _stem(path.name)
        name = name if name in known else re.sub(r"^(.*)_rater\w+$", r"\1", name)
        labels.setdefault(name, []).append(path)
    cases = []
    for path in images:
        name = _stem(path.name)
        name = name if name in labels else re.sub(r"_0000$", "", name)
        if name in labels:
            _require_raters(name, labels[name])
            cases.append(Case(name, path, tuple(labels[name])))
    return cases


def _images(folder: Path) -> list[Path]:
    """The files of a folder that are images by their endings.

    Of a pair .hdr and .img the second, of a header with its data in .img (.nhdr, .mhd) the first.
    """
    found = [path for path in sorted(folder.glob("*")) if ENDINGS.search(path.name) and not path.name.startswith(".")]

    def stems(end: str) -> set[str]:
        return {_stem(path.name) for path in found if re.search(rf"\.{end}$", path.name, re.IGNORECASE)}

    headers = stems("(nhdr|mhd)")
    halves = {"img": headers, "hdr": headers | stems(r"img(\.gz)?")}

    def is_half(path: Path) -> bool:
        end = re.search(r"\.(img|hdr)(\.gz)?$", path.name.lower())
        return end is not None and _stem(path.name) in halves[end.group(1)]

    return [path for path in found if path.is_file() and not is_half(path)]


def _require_raters(name: str, labels: Sequence[Path]) -> None:
    """Raise InputError where a case has several label files that are not one each of several raters."""
    stems = [_stem(path.name) for path in labels]
    if len(labels) > 1 and (name in stems or len(set(stems)) < len(stems)):
        raise InputError(
            f"The case '{name}' has {len(labels)} label files, '{labels[0].name}' and '{labels[1].name}'; keep one, or "
            f"name those of several raters {name}_rater1, {name}_rater2."
        )


def _distinct(cases: Iterable[Case], folder: str) -> tuple[Case, ...]:
    """Raises InputError where two cases have one name or one file: scores and splits go by the name."""
    cases = tuple(cases)
    names = Counter(case.name for case in cases)
    files = Counter(path for case in cases for path in (case.image, *case.labels))
    for what, counter in (("name", names), ("file", files)):
        (most, count), *_ = counter.most_common(1) or [(None, 1)]
        if count > 1:
            told = most if isinstance(most, str) else shown(most.name)
            raise InputError(
                f"The data set '{folder}' has the {what} '{told}' {count} times among its cases; keep one of them, or "
                "correct the others."
            )
    return cases


def _stem(name: str) -> str:
    """File name without its endings: `case_1.nii.gz` is `case_1`."""
    return ENDINGS.sub("", name)


def label_order(dataset: Dataset, labels: Sequence[Mapping[str, Any]]) -> list[int]:
    """The model's label for each number of the data set, background first, by their names.

    Raises InputError where the names are not the same: numbers alone could mean anything.
    """
    by_name = {plain(entry[key]): entry["label"] for entry in labels for key in ("id", "name")}
    order = [by_name.get(plain(name)) for name in dataset.label_names]
    if sorted(n for n in order if n) != list(range(1, len(labels) + 1)) or None in order:
        raise InputError(
            f"The data set '{dataset.name}' has the labels {', '.join(dataset.label_names)} and the model "
            f"{', '.join(entry['name'] for entry in labels)}; they must be the same to be compared."
        )
    return [0, *order]


def plain(name: str) -> str:
    """A name by which equal ones are told: letters and digits in lower case."""
    return "".join(c for c in name.lower() if c.isalnum())
