"""Whether imported files can be masks of one image, and warnings about masks that are probably not what was meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError, shown
from ..images.compressed_mask import CompressedMask
from ..images.file_digest import array_sha256
from ..segmentation import result_folder
from .probability_file import is_probability_file

EQUAL = (
    "Masks that are equal to another one: {count} of {total}; if they are copies, leave them out, because they make "
    "the spread too small."
)
DISJOINT = (
    "No two masks have a labelled voxel in common; if each is a mask of another structure, the result means nothing; "
    "merge them into one label map first."
)
TIES = "In {voxels} voxels two labels are tied for the most masks; the consensus has the lower label there."


def require_same_kind(masks: Sequence[Path]) -> None:
    """Raise InputError unless there are masks, or files of class probabilities, that can have a spread."""
    probabilities = [is_probability_file(path) for path in masks]
    if any(probabilities) and not all(probabilities):
        raise InputError("There are masks and files of class probabilities; give one kind.")
    if len({path.resolve() for path in masks}) < len(masks):
        raise InputError("One file was given twice; give each mask once.")
    if len(masks) == 1 and not probabilities[0]:
        raise InputError("One mask has no uncertainty; give two masks or more, or a file of class probabilities.")


def require_other_files(masks: Sequence[Path], volume: Path, output: Path) -> None:
    """Raise InputError if the volume is one of the masks, or if the result would replace a file that is read."""
    resolved = {path.resolve() for path in masks}
    if volume.resolve() in resolved:
        raise InputError("The volume is one of the masks; give the image that they were made from as the volume.")
    replaced = {(output / name).resolve() for name in result_folder.FILES}
    if taken := replaced & {volume.resolve(), *resolved}:
        raise InputError(f"The result would replace '{shown(min(taken).name)}', which is read; choose another folder.")


def vote_warnings(votes: np.ndarray, masks: Sequence[CompressedMask]) -> list[str]:
    """Warnings about masks that are perhaps copies or of different structures, and about ties.

    `votes` uint16 [C, k, j, i] are the numbers of `masks` that have each class.
    """
    copies = len(masks) - len({array_sha256(mask.whole()) for mask in masks})
    warnings = [EQUAL.format(count=copies, total=len(masks))] if copies else []
    if sum(bool(mask.whole().any()) for mask in masks) > 1 and (len(masks) - votes[0]).max() == 1:
        warnings.append(DISJOINT)
    tied = _tied_voxels(votes)
    return [*warnings, TIES.format(voxels=tied)] if tied else warnings


def _tied_voxels(votes: np.ndarray) -> int:
    """Number of voxels where several classes have the most votes [C, k, j, i]; needs no memory for each class."""
    most = votes.max(0)
    leaders = np.zeros(most.shape, np.uint8)
    for count in votes:
        leaders += count == most
    return int((leaders > 1).sum())
