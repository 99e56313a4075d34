"""Training on top of a network that others trained: an nnU-Net, by the folds that have not seen a case, or a bundle."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..any_model import foreign_head, foreign_model
from ..errors import InputError
from ..images.dataset import Dataset
from ..images.input_names import channel_count, inputs_of
from ..model.folder import find, load
from ..model.frozen import given_logits
from ..model.metadata import NNUNET, kind
from ..model.seen_cases import cases_of_folds, unseen_by
from ..nnunet.splits import find_splits, training_cases
from ..segmentation.foreign_head import ForeignHead
from .case_odds import CaseOdds
from .folder import Folder
from .on_top import FrozenModel, settings_on
from .settings import Optimisation
from .sources import Source

logger = logging.getLogger(__name__)

ONLY_ALL = (
    "'{name}' has only fold_all, which was trained on these cases, and its errors on them are too small to learn from; "
    "give cases that it has not seen, or an nnU-Net with the folds of a cross-validation."
)
NO_SPLITS = (
    "'{name}' was trained on this data set, and nnU-Net's splits_final.json, which says which fold has not seen a "
    "case, was not found; give it with --splits: nnU-Net keeps it in nnUNet_preprocessed/{data}."
)

WINDOWS = 128
"""Windows for each temperature: one of few windows is that of the few cases on which the network fails."""
RENAMED = (
    "'{name}' was trained on a data set of this name, but none of these cases has the name of one of its training "
    "cases; the result is right only if it has not seen them."
)


def open_frozen(model: str, splits: Path | None) -> FrozenModel:
    """The model of a name or folder as the frozen part of a training; `splits` is nnU-Net's file.

    Raises ModelError, and InputError for splits of another model.
    """
    kind_of_model, folder = foreign_model(model)
    if splits is not None and kind_of_model != NNUNET:
        raise InputError("--splits names the file of an nnU-Net's cross-validation, and the model is no nnU-Net.")
    return FrozenModel.of(load(find(model))) if folder is None else ForeignModel(foreign_head(folder), splits)


class ForeignModel(FrozenModel):
    """A network that others trained as the frozen part of a sampler."""

    def __init__(self, head: ForeignHead, splits: Path | None) -> None:
        super().__init__(head.section, given_logits(head.section))
        self._head, self._splits = head, splits
        self._folds: dict[str, str] = {}  # by case, for those that other folds have seen
        self._trained_on: dict[str, list[str]] = {}  # by fold

    def unseen_part(self, source: Source) -> Source:
        """`source` without the cases that all folds were trained on, or from now on with the fold of each other case.

        Raises InputError if it is not known which fold has seen a case of nnU-Net's own data, or if too few remain.
        """
        name = self.section["name"]
        if not isinstance(source, Folder):
            raise InputError(f"A sampler on top of '{name}' is trained on a folder of labelled images; give one.")
        if source.has_pictures:
            raise InputError(f"'{name}' segments volumes, and the data set '{source.folder.name}' has pictures.")
        cases = [case.name for case in source.dataset.training]
        trained = self._trained_on = self._trained(source)
        if self._head.members == ["all"] and set(trained.get("all", ())) & set(cases):
            raise InputError(ONLY_ALL.format(name=name))
        unseen = unseen_by(trained, cases)
        self.leave_out(source, set(cases) - set(unseen))
        self._folds = {case: fold for case, fold in unseen.items() if fold is not None}
        logger.info(
            f"{len(self._folds)} cases are predicted by a fold of '{name}' that has not seen them, and "
            f"{len(unseen) - len(self._folds)} that no fold has seen by each of them"
        )
        return source

    def _trained(self, source: Folder) -> dict[str, list[str]]:
        """Training cases of each fold; none of each if nothing says that it has seen these data. Raises InputError."""
        members, own = self._head.members, self.section.get("training", {}).get("data", {}).get("name")
        if kind(self.section) != NNUNET:
            trained = None
        elif self._splits is not None:
            trained = training_cases(self._splits, members)
        else:
            trained = cases_of_folds(self.section)
            beside = find_splits([source.folder], own) if own else None
            if trained is None and beside is not None:
                trained = training_cases(beside, members)
        name, is_own = self.section["name"], own is not None and _is_named(source.dataset, source.folder, own)
        if trained is not None:
            listed = {case for cases in trained.values() for case in cases}
            if is_own and not any(case.name in listed for case in source.dataset.training):
                logger.warning(RENAMED.format(name=name))
            return trained
        if is_own:
            raise InputError((ONLY_ALL if members == ["all"] else NO_SPLITS).format(name=name, data=own))
        logger.warning(
            f"The training cases of '{name}' are not known; the result is right only if it has not seen these cases."
        )
        return {fold: [] for fold in members}

    def settings(self, suggested: dict[str, Any]) -> dict[str, Any]:
        """As for our own models; voxel size, window and intensity scale are those that the data suggest."""
        settings = settings_on(self.section, suggested, ("labels", "inputs"))
        section = settings["diffusion_segmentation"]
        section["network"]["inputs"] = channel_count(inputs_of(self.section))
        by_fold: dict[str, list[str]] = {fold: [] for fold in sorted(set(self._folds.values()))}
        for case, fold in sorted(self._folds.items()):
            by_fold[fold].append(case)
        section["frozen"] |= {"kind": kind(self.section), "mean_temperature": 1.0, "folds": by_fold}
        if any(self._trained_on.values()) and cases_of_folds(self.section) != self._trained_on:
            section["frozen"]["trained"] = self._trained_on
        return settings

    def fit(self, source: Source, optimisation: Optimisation, frozen: dict[str, Any]) -> None:
        """Fit the temperature of single folds, and that of their mean on cases that no fold has seen.

        Without such cases, and of a single network, the mean has that of single folds.
        """
        assert isinstance(source, Folder), "unseen_part refuses other sources"
        cases, untempered = [*source.held_out, *source.seen], {**frozen, "temperature": 1.0, "mean_temperature": 1.0}
        source.odds = CaseOdds(self._head, self._folds, untempered)
        windows = source.some_windows(cases, optimisation, WINDOWS)
        of_fold = self.fitted_temperature(windows, "a fold's")
        frozen |= {"temperature": of_fold, "mean_temperature": of_fold}
        of_mean = [case for case in cases if case.name not in self._folds]
        if of_mean and len(self._head.members) > 1:
            source.odds = CaseOdds(self._head, self._folds, untempered, as_mean=True)
            windows = source.some_windows(of_mean, optimisation, WINDOWS)
            frozen["mean_temperature"] = self.fitted_temperature(windows, "the mean's")
        elif not of_mean:
            logger.warning(
                "No case is unseen by all folds, so their mean takes the temperature of a single fold, which is too "
                "high for it and makes the map too unsure; add labelled cases that the network was not trained on."
            )
        source.odds = CaseOdds(self._head, self._folds, frozen)


def _is_named(dataset: Dataset, folder: Path, name: str) -> bool:
    """Whether a data set has the name that nnU-Net gave to its training data, with or without its number."""
    names = {text.partition("_")[2] if text.startswith("Dataset") else text for text in (dataset.name, folder.name)}
    own = name.partition("_")[2] if name.startswith("Dataset") else name
    return own.lower() in {text.lower() for text in names}
