"""Which cases a model has seen in its training, by our section of its metadata.

Models of ours list the cases of their training and of the models that they started from. A converted nnU-Net lists
those of each fold, if nnU-Net's file of splits was found; a sampler on top of it lists them if the file was given then.
A network's errors on its own training cases are too small to learn from, or to be judged by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any


def seen_cases(section: Mapping[str, Any], name: str, frozen: Mapping[str, Any] | None = None) -> set[str]:
    """Cases of the data set `name` on which a model of ours was trained, or one that it started or was averaged from.

    With those that the model has seen on top of which it was trained, whose section is `frozen`; of an nnU-Net, whose
    data set can have another name, the cases that all folds have seen.
    """
    training, seen = section.get("training", {}), set() if frozen is None else seen_cases(frozen, name)
    if frozen is not None and (folds := _trained_folds(section, frozen)):
        seen |= set.intersection(*map(set, folds.values()))
    while training:
        facts = training.get("data", {})
        if facts.get("kind") == "folder" and facts.get("name") == name:
            seen |= set(facts.get("cases", ()))
        if other := training.get("averaged_with"):
            seen |= seen_cases({"training": other.get("training") or {}}, name)
        training = (training.get("started_from") or {}).get("training") or {}
    return seen


def calibrated_cases(section: Mapping[str, Any], name: str) -> set[str]:
    """Cases of the data set `name` to which the spread of a model's samples was fitted, as far as they are listed."""
    calibration = section.get("calibration", {})
    cases = calibration.get("cases") if calibration.get("data", {}).get("name") == name else None
    return set(cases) if isinstance(cases, list) else set()


def cases_of_folds(section: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """Training cases of each fold of a converted nnU-Net; None if they are not known."""
    return section.get("training", {}).get("data", {}).get("folds")


def _trained_folds(section: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """Those of the nnU-Net `frozen`; first by the splits that were given when the sampler of `section` was trained."""
    return section.get("frozen", {}).get("trained") or cases_of_folds(frozen)


def unseen_by(trained: Mapping[str, Collection[str]], cases: Iterable[str]) -> dict[str, str | None]:
    """For each case the first fold that has not seen it, None if no fold has; cases that all have seen are left out.

    `trained` are the training cases of each fold.
    """
    unseen: dict[str, str | None] = {}
    for case in cases:
        without = [fold for fold, names in trained.items() if case not in names]
        if len(without) == len(trained):
            unseen[case] = None
        elif without:
            unseen[case] = without[0]
    return unseen


def fold_of_cases(
    section: Mapping[str, Any], name: str, frozen: Mapping[str, Any], cases: Iterable[str]
) -> dict[str, str]:
    """Fold of the nnU-Net `frozen` for each of the `cases` of the data set `name` that other folds have seen.

    `section` is that of a sampler on it. All other cases are predicted by all folds.
    """
    trained = _trained_folds(section, frozen) or {}
    folds = {case: fold for case, fold in unseen_by(trained, cases).items() if fold is not None}
    if section.get("training", {}).get("data", {}).get("name") == name:
        folds |= {case: fold for fold, names in section["frozen"].get("folds", {}).items() for case in names}
    return folds
