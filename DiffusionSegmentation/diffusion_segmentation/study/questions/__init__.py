"""The questions of a study, by the names that `--only` takes."""

from __future__ import annotations

from ...errors import InputError
from ..question import Question
from .adaptation import Adaptation, StepGrids
from .crop_selection import CropSelection
from .direct_or_diffusion import DICE, DIRECT, DROPOUT, ENSEMBLE, STOCHASTIC, DirectOrDiffusion
from .frozen import Frozen
from .fusion import Fusion
from .noise_levels import NoiseLevels
from .sample_count import SampleCount
from .starts import Starts
from .variations import Architectures, Losses, NoisyMask, StepsAndSampler, Targets
from .windows import Windows


def short() -> list[Question]:
    """The default questions, which take 1.5 hours on two CPU cores for three two-dimensional tasks."""
    return [DirectOrDiffusion((DIRECT, DICE)), NoiseLevels(), StepGrids()]


def complete() -> dict[str, Question]:
    """Every question in its complete form, by key."""
    questions = (
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
        Frozen(),
        Starts(),
        Fusion(),
    )
    return {question.key: question for question in questions}


def chosen(keys: str) -> list[Question]:
    """The questions that `--only` names, "A1,A3". Raises InputError for an unknown name."""
    known = {key.lower(): question for key, question in complete().items()}
    requested = [key.strip().lower() for key in keys.split(",") if key.strip()]
    if not requested or not set(requested) <= set(known):
        raise InputError(f"'{keys}' names no question of the study; known are {', '.join(complete())}.")
    return [known[key] for key in dict.fromkeys(requested)]
