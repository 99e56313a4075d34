"""Adds an image with its corrected labels to a data set in nnU-Net's layout (see `dataset`), which is made if need be.

    imagesTr/CASE_0000.nii.gz      the first input; further inputs, resampled to its grid, are CASE_0001.nii.gz etc.
    labelsTr/CASE.nii.gz           the labels, with the numbers of dataset.json
    reviewsTr/CASE.json            what is known of the review, and the digest of the image; nnU-Net ignores it

All files of a case are written beside the data set's and then renamed, dataset.json last: a case is there as a whole or
not at all, and none is overwritten. Pictures with colours are written as .nrrd, because NIfTI programs read colours as
a further axis.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import DiffusionSegmentationError, InputError, explain, shown
from .case_files import CaseFiles, Volumes
from .dataset import ENDINGS, Listing, read_listing
from .file_digest import array_sha256
from .fill_value import replace_fill_value
from .input_names import MAX_NAME_LENGTH, Input, inputs_named, is_valid_name, modality_of, name_key
from .label_file import read_label_numbers
from .writing import write_report

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NUMBERED = re.compile(r"case_(\d{1,6})")
FOLDERS = IMAGES, LABELS, REVIEWS = "imagesTr", "labelsTr", "reviewsTr"
FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings in which cases can be written, the first by default."""


@dataclass(frozen=True)
class NewCase:
    """What is added.

    Attributes:
        images: the files of the inputs, see `CaseFiles`.
        labels: label file on the grid of the first input; a Slicer segmentation names its labels.
        channel_names: of the inputs in their order, as in dataset.json, such as "CT" or "FLAIR"; empty if they are not
            known: those of the data set, or "MRI".
        name: of the case; the next free case_001 if it is empty.
        review: facts to be kept beside the labels; `images_sha256` are those of the segmented channels, if known.
    """

    images: Volumes
    labels: Path
    channel_names: Sequence[str] = ()
    name: str = ""
    review: Mapping[str, Any] | None = None


def add_case(folder: Path, case: NewCase) -> dict[str, Any]:
    """Add a case to the data set in `folder`; returns its name, that of the data set and the number of cases.

    Raises InputError and GeometryError where files are unusable or differ from the data set, or the name or the image
    is in it already, and DiffusionSegmentationError if a file cannot be written; nothing is changed then.
    """
    listing = _listing(folder)
    channel_names = list(case.channel_names or ["MRI"]) if listing is None else listing.channel_names
    inputs = inputs_named(channel_names)
    if listing is not None and case.channel_names:
        _require_same_channels(folder, listing.channel_names, case.channel_names)
    channels = CaseFiles(case.images).read(inputs, lambda channel: replace_fill_value(channel)[0])
    numbers, names = _labels(case.labels, channels[0], listing)
    if listing is None:
        _require_consecutive(names)
        numbers = numbers.astype(np.uint8)
    else:
        numbers = _renumbered(folder, listing, numbers, names)
    digests = [array_sha256(sitk.GetArrayViewFromImage(channel)) for channel in channels]
    review = dict(case.review or {})
    if review.get("images_sha256", digests) != digests:
        raise InputError("The image is not the one that was segmented; undo its changes, or segment it again.")
    _require_new_image(folder, digests)
    coloured = any(one.channels > 1 for one in inputs)
    ending = _ending(listing, coloured)
    first = _new_listing(folder, names, channel_names, ending)
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _reserved(folder, case.name) as (name, drafts):
            files = [(IMAGES, f"{name}_{n:04d}{ending}", image) for n, image in enumerate(_files(channels, inputs))]
            labels = sitk.GetImageFromArray(numbers)
            labels.CopyInformation(channels[0])
            for _, file, image in [*files, (LABELS, f"{name}{ending}", labels)]:
                sitk.WriteImage(image, str(drafts / file), useCompression=True)
            write_report(drafts / f"{name}.json", {**review, "images_sha256": digests})
            if listing is None:
                write_report(folder / "dataset.json", first)
            # The image last: a label without an image is no case.
            moves = [(REVIEWS, f"{name}.json"), (LABELS, f"{name}{ending}"), *((part, file) for part, file, _ in files)]
            with _undone_after_an_error() as moved:
                for part, file in moves:
                    (folder / part).mkdir(exist_ok=True)
                    (drafts / file).rename(folder / part / file)
                    moved.append(folder / part / file)
                images = [f"{IMAGES}/{file}" for _, file, _ in files]
                count = _list_case(folder, name, images, f"{LABELS}/{name}{ending}")
    return {"case": name, "data": str(folder), "cases": count}


def text(result: Mapping[str, Any]) -> str:
    """The result of `add_case` as a sentence."""
    data, count = Path(result["data"]), result["cases"]
    cases = "one case" if count == 1 else f"{count} cases"
    return f"Added the case '{result['case']}' to the data set '{data.name}', which has {cases} now."


def _listing(folder: Path) -> Listing | None:
    """The listing of a data set; None for a folder that is new or empty. Raises InputError."""
    if (folder / "dataset.json").exists():
        return read_listing(folder)
    if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
        raise InputError(
            f"The folder '{shown(folder.name)}' has other files and no dataset.json; choose a data set or an empty "
            "folder."
        )
    return None


def _require_same_channels(folder: Path, theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Raise InputError for other channels. A single one may have another name of the same modality, as T1 and MRI."""
    key = modality_of if len(ours) == len(theirs) == 1 else name_key
    if [*map(key, ours)] != [*map(key, theirs)] and [*map(name_key, ours)] != [*map(name_key, theirs)]:
        given, listed = (", ".join(names) for names in (ours, theirs))
        raise InputError(
            f"The data set '{shown(folder.name)}' has the channels {listed} and this case {given}; choose another data "
            "set."
        )


def _labels(path: Path, image: sitk.Image, listing: Listing | None) -> tuple[np.ndarray, dict[int, str]]:
    """Numbers [k, j, i] of a label file and their names; of a file without names, those of the data set."""
    numbers, segments = read_label_numbers(path, image, "label file")
    names = {number: segment.name for number, segment in segments.items()}
    if not names and listing is not None:
        names = dict(enumerate(listing.label_names, 1))
    unnamed = sorted(set(np.unique(numbers).tolist()) - names.keys() - {0})
    if unnamed or not names:
        number = f"its label {unnamed[0]:g}" if unnamed else "its labels"
        raise InputError(
            f"The label file '{shown(path.name)}' has no name for {number}; save it as a Slicer segmentation "
            "(.seg.nrrd), which has names."
        )
    return numbers, names


def _require_consecutive(names: Mapping[int, str]) -> None:
    if sorted(names) != list(range(1, len(names) + 1)):
        raise InputError("The labels are not numbered from 1 on without a gap; number them so in a new data set.")


def _renumbered(folder: Path, listing: Listing, numbers: np.ndarray, names: Mapping[int, str]) -> np.ndarray:
    """Labels uint8 with the numbers of the data set. Raises InputError where it has other labels."""
    theirs = {name_key(name): number for number, name in enumerate(listing.label_names, 1)}
    ours = {name_key(name): number for number, name in names.items()}
    if theirs.keys() != ours.keys() or len(ours) < len(names):
        listed, given = ", ".join(listing.label_names), ", ".join(names.values())
        raise InputError(
            f"The data set '{shown(folder.name)}' has the labels {listed} and this case {given}; choose another data "
            "set."
        )
    result = np.zeros(numbers.shape, np.uint8)
    for key, number in ours.items():
        result[numbers == number] = theirs[key]
    return result


def _require_new_image(folder: Path, digests: Sequence[str]) -> None:
    """Raise InputError if a case of the data set was added with this image: it would be trained on and tested on."""
    for path in sorted((folder / REVIEWS).glob("*.json")):
        try:
            known = json.loads(path.read_text(encoding="utf-8")).get("images_sha256")
        except (OSError, ValueError, AttributeError):
            continue
        if known == digests:
            raise InputError(
                f"The image is in the data set '{shown(folder.name)}' already, as '{path.stem}'; delete that case "
                "first to replace it."
            )


def _ending(listing: Listing | None, coloured: bool) -> str:
    stated = None if listing is None else listing.content.get("file_ending")
    if coloured:
        return ".nrrd"
    return stated if stated in FILE_ENDINGS else FILE_ENDINGS[0]


def _files(channels: Sequence[sitk.Image], inputs: Sequence[Input]) -> Iterator[sitk.Image]:
    """One image for each input; colours become bytes again if they were."""
    left = iter(channels)
    for one in inputs:
        parts = [next(left) for _ in range(one.channels)]
        image = parts[0] if len(parts) == 1 else sitk.Compose(parts)
        values = sitk.GetArrayViewFromImage(image)
        are_bytes = len(parts) > 1 and values.min() >= 0 and values.max() <= 255 and np.all(values == np.rint(values))
        yield sitk.Cast(image, sitk.sitkVectorUInt8) if are_bytes else image


@contextmanager
def _reserved(folder: Path, wanted: str) -> Iterator[tuple[str, Path]]:
    """A name that no case has, and a folder for its drafts that reserves it; removed at the end.

    Raises InputError for a name that is invalid or taken.
    """
    taken = {ENDINGS.sub("", path.name) for part in ("Tr", "Ts") for path in folder.glob(f"*{part}/*")}
    taken |= {path.stem for path in (folder / REVIEWS).glob("*.json")}
    taken |= {re.sub(r"_\d{4}$", "", name) for name in taken}
    taken |= {path.name.removeprefix(".adding-") for path in folder.glob(".adding-*")}
    if wanted and (not NAME.fullmatch(wanted) or re.search(r"_\d{4}$", wanted)):
        raise InputError(f"'{shown(wanted)}' is no name for a case; use letters, digits, dots and hyphens.")
    if wanted in taken:
        raise InputError(f"The data set '{shown(folder.name)}' has a case '{wanted}' already; give another name.")
    highest = max([0, *(int(match[1]) for name in taken if (match := NUMBERED.fullmatch(name)))])
    name = wanted or f"case_{highest + 1:03d}"
    drafts = folder / f".adding-{name}"
    drafts.mkdir()
    try:
        yield name, drafts
    finally:
        shutil.rmtree(drafts, ignore_errors=True)


@contextmanager
def _undone_after_an_error() -> Iterator[list[Path]]:
    """A list of files, which are deleted after an exception."""
    files: list[Path] = []
    try:
        yield files
    except BaseException:
        for path in files:
            path.unlink(missing_ok=True)
        raise


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns an error of the disk, also from SimpleITK, into one sentence."""
    try:
        yield
    except FileExistsError:
        raise InputError(f"Another case is being added to '{shown(folder.name)}'; try again.") from None
    except (OSError, RuntimeError) as error:
        if isinstance(error, DiffusionSegmentationError):
            raise
        reason = explain(error)[1] if isinstance(error, OSError) else "a file could not be written; check the disk."
        raise DiffusionSegmentationError(f"The case could not be added: {reason}") from error


def _new_listing(folder: Path, names: Mapping[int, str], channel_names: Sequence[str], ending: str) -> dict[str, Any]:
    """A dataset.json for labels numbered as in `names`."""
    return {
        "name": folder.name if is_valid_name(folder.name, MAX_NAME_LENGTH) else "Data",
        "channel_names": {str(n): name for n, name in enumerate(channel_names)},
        "labels": {"background": 0, **{names[number]: number for number in sorted(names)}},
        "numTraining": 0,
        "file_ending": ending,
    }


def _list_case(folder: Path, name: str, images: Sequence[str], label: str) -> int:
    """Add a case to dataset.json, also to its list of cases if there is one; returns the number of cases."""
    content = read_listing(folder).content
    cases, listed = content.get("dataset"), content.get("training")
    if isinstance(cases, dict) and cases:
        cases[name] = {"images": list(images), "label": label}
        count = len(cases)
    elif isinstance(listed, list) and listed:
        listed.append({"image": images[0] if len(images) == 1 else list(images), "label": label})
        count = len(listed)
    else:
        labels = (path.name for path in (folder / LABELS).iterdir() if ENDINGS.search(path.name))
        count = len({re.sub(r"_rater\w+$", "", ENDINGS.sub("", file)) for file in labels})
    write_report(folder / "dataset.json", {**content, "numTraining": count})
    return count
