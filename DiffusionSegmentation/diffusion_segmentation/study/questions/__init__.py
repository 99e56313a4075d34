"""The questions of a study, by the names that `--only` takes."""

from __future__ import annotations

from ...errors import InputError
from ..question import Question
from .adaptation import Adaptation, StepGrids
from .crop_selection import CropSelection
from .direct_or_diffusion import DICE, DIRECT, DROPOUT, ENSEMBLE, STOCHASTIC, DirectOrDiffusion
from .fusion import Fusion
from .noise_levels import NoiseLevels
from .sample_count import SampleCount
from .variations import Architectures, Losses, NoisyMask, StepsAndSampler, Targets
from .windows import Windows


def short() -> list[Question]:
    """What is asked by default: on two CPU cores and three tasks in two dimensions, an hour and a half."""
    return [DirectOrDiffusion((DIRECT, DICE)), NoiseLevels(), StepGrids()]


def whole() -> dict[str, Question]:
    """Every question in its whole length, by key."""
    asked = (
        Architectures(),
        DirectOrDiffusion((DIRECT, DICE, ENSEMBLE, DROPOUT, STOCHASTIC)),
        NoisyMask(),
        NoiseLevels(),
        Adaptation(),
        Targets(),
        StepsAndSampler(),
        SampleCount(),
        Losses(),
        CropSelection(),
        Windows(),
        Fusion(),
    )
    return {question.key: question for question in asked}


def chosen(keys: str) -> list[Question]:
    """The questions that `--only` names, "A1,A3". Raises InputError for a name that is none."""
    known = {key.lower(): question for key, question in whole().items()}
    wanted = [key.strip().lower() for key in keys.split(",") if key.strip()]
    unknown = [key for key in wanted if key not in known]
    if unknown or not wanted:
        raise InputError(f"'{keys}' names no question of the study; known are {', '.join(whole())}.")
    return [known[key] for key in dict.fromkeys(wanted)]
