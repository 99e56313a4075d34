"""nnU-Net's file of the cross-validation: which cases each fold was trained on.

nnU-Net keeps splits_final.json in the folder of the data set in nnUNet_preprocessed; a file in the folder of the raw
data set is copied there (`nnUNetTrainer.do_split`, `ExperimentPlanner`). It is a list with an entry {"train": cases,
"val": cases} for each fold from 0 on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError, shown
from ..model.nnunet_metadata import is_case_name

SPLITS = "splits_final.json"
PREPROCESSED = "nnUNet_preprocessed"
"""nnU-Net's environment variable with the folder of all preprocessed data sets."""
MAX_BYTES = 64 * 2**20


def find_splits(folders: Iterable[Path], dataset: str) -> Path | None:
    """The file in one of the folders, or in that of the data set `dataset` in nnUNet_preprocessed; None if none."""
    root = os.environ.get(PREPROCESSED)
    candidates = [*folders, *([Path(root) / dataset] if root and Path(dataset).name == dataset else [])]
    return next((folder / SPLITS for folder in candidates if (folder / SPLITS).is_file()), None)


def training_cases(path: Path, folds: Sequence[str]) -> dict[str, list[str]]:
    """Training cases of each of the `folds` by nnU-Net's file. Raises InputError if it is none.

    A fold that the file does not have, which nnU-Net trains on random cases, and fold_all count as trained on all.
    """
    name = f"The file of splits '{shown(path.name)}'"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        splits = [(list(entry["train"]), list(entry["val"])) for entry in json.loads(data[:MAX_BYTES])]
        cases = sorted({case for split in splits for part in split for case in part})
    except OSError as error:
        raise InputError(f"{name} cannot be opened; check that it is there and that you may read it.") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        cases = []
    if not cases or not all(map(is_case_name, cases)):
        raise InputError(
            f"{name} is not one of nnU-Net's; give the {SPLITS} that nnU-Net keeps in the folder of the data set in "
            f"{PREPROCESSED}."
        )
    listed = {fold: int(fold) for fold in folds if fold != "all" and int(fold) < len(splits)}
    return {fold: sorted(splits[listed[fold]][0]) if fold in listed else cases for fold in folds}
