"""Recognition of a trained nnU-Net v2 in a folder or an archive.

dataset.json, plans.json              written by nnU-Net
fold_N/checkpoint_final.pth           one for each fold; fold_all only if there is no other one
crossval_results*/postprocessing.pkl  only if nnU-Net determined a postprocessing
splits_final.json                     only if it was copied there; see `splits`
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from ..errors import ModelError, explain, shown
from ..model import archive
from ..model.metadata import METADATA, folder_name
from ..model.nnunet_metadata import FOLD_NAME, MAX_FOLD_WEIGHTS
from .checkpoint import CHECKPOINT
from .splits import SPLITS

PLANS, DATASET = "plans.json", "dataset.json"
POSTPROCESSING = "postprocessing.pkl"
MAX_JSON_BYTES = 16 * 2**20
MAX_CHECKPOINT_BYTES = 16 * MAX_FOLD_WEIGHTS  # weights and momentum as float32, and room for a second optimizer state
FOLD_FOLDER = re.compile(rf"fold_({FOLD_NAME.pattern})")


def is_trained_folder(folder: Path) -> bool:
    """Whether a folder looks like the result of a training of nnU-Net v2, even if files are missing."""
    try:
        has_plans = (folder / PLANS).is_file() or any(folder.glob(f"fold_*/{CHECKPOINT}"))
        return has_plans and not (folder / METADATA).is_file()
    except (OSError, ValueError):  # no permission, or not a valid file name
        return False


def has_postprocessing(folder: Path) -> bool:
    """Whether nnU-Net determined a postprocessing of the masks."""
    return (folder / POSTPROCESSING).is_file() or any(folder.glob(f"crossval_results*/{POSTPROCESSING}"))


@contextmanager
def trained_folder(source: Path) -> Iterator[Path | None]:
    """The trained folder that `source` is, or the unpacked one of an archive; None if `source` is neither.

    Raises ModelError if `source` is a fold of a trained folder, or a folder of several.
    """
    try:
        is_folder, is_archive = is_trained_folder(source), archive.is_archive(source)
        if not is_folder and source.is_dir():
            _refuse_neighbours(source)
    except OSError as error:
        raise ModelError(explain(error)[1]) from error
    if is_archive:
        unpack = partial(_unpack, source)
        with archive.unpacked(source, _root_of, "nnU-Nets", unpack) as folder:
            yield folder
    else:
        yield source if is_folder else None


def _refuse_neighbours(folder: Path) -> None:
    """Raise ModelError for a folder that is inside a trained one, or around trained ones."""
    name = folder_name(folder)
    if (folder / CHECKPOINT).is_file():
        above = folder_name(folder.absolute().parent)
        raise ModelError(f"'{name}' is one fold of an nnU-Net; give the folder '{above}' above it, with plans.json.")
    inside = [path.name for path in sorted(folder.glob("*")) if is_trained_folder(path)]
    if inside and not (folder / METADATA).is_file():
        listed = ", ".join(f"'{shown(one)}'" for one in inside[:5]) + (", ..." if inside[5:] else "")
        raise ModelError(f"'{name}' has folders of trained nnU-Nets in it; give one of these: {listed}.")


def _root_of(path: PurePosixPath) -> PurePosixPath | None:
    return path.parent if path.name == PLANS else None


def _unpack(source: Path, members: archive.Members, inside: PurePosixPath, folder: Path) -> None:
    """Write the files that conversion reads; of the postprocessing only its name."""
    for path in members:
        if path.parent == inside and path.name in (PLANS, DATASET, SPLITS):
            limit, target = MAX_JSON_BYTES, folder / path.name
        elif path.parent.parent == inside and path.name == CHECKPOINT and FOLD_FOLDER.fullmatch(path.parent.name):
            limit, target = MAX_CHECKPOINT_BYTES, folder / path.parent.name / CHECKPOINT
        elif path.name == POSTPROCESSING and inside in (path.parent, path.parent.parent):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / POSTPROCESSING).touch()
            continue
        else:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        archive.copy(archive.opened(source, members, path), target, limit)
