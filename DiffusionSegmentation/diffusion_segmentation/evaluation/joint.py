"""Joint samples of labelled cases, and of wrong samplers made from the same model, scored by `metrics.joint`.

All scores are taken on the model's working grid, on which the samples are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ..calibration.covariance import LabelledCase
from ..calibration.start import samples
from ..errors import ModelError
from ..metrics.joint import LAGS, JointScores, Measure, joint_record, variogram_key
from ..model.folder import Model, Start
from ..runtime.units import VOLUMES, Units
from .known_answer.samplers import independent_pixels
from .pooling import difference, finite

SAMPLES, FEWEST_SAMPLES = 32, 3
"""Default and smallest number of samples per case; with one in the place of the truth, a spread needs two others."""
MODEL = "samples"  # key of the model's row
INDEPENDENT, HALVED, REPEATED = "independent voxels", "samples of halved spread", "the map repeated"
WIDENED = "intervals widened twofold"
COPULA = "copula alone"  # key of the row of copula masks, from which the denoiser starts
BLOCK = 16.0
"""Edge of the blocks in which a sample of halved spread is replaced by the map: mm, in pictures working pixels."""
SPECK_IDS = ("cortical_grey", "white_matter")
"""Structures whose specks are counted, if the model has them; otherwise every structure."""


def controls(units: Units = VOLUMES) -> dict[str, str]:
    """The wrong sampler that a measure must detect, for the measures that have one."""
    return {
        "z_rms": INDEPENDENT,
        "coverage_90": INDEPENDENT,
        units.key("crps"): WIDENED,
        "energy_score": REPEATED,
        "dice_ratio": HALVED,
        **{variogram_key(lag, units.suffix): INDEPENDENT for lag in LAGS},
        "specks": INDEPENDENT,
    }


def titles(units: Units = VOLUMES) -> dict[str, str]:
    """Titles of the measures."""
    pixels = "working pixels" if units.is_area else "mm"
    return {
        "z_rms": f"rms z of the {units.what}s",
        "z_mean": f"mean z of the {units.what}s",
        "coverage_50": "coverage of the 50 % intervals",
        "coverage_80": "coverage of the 80 % intervals",
        "coverage_90": "coverage of the 90 % intervals",
        units.key("crps"): f"CRPS of the {units.what}s ({units.symbol})",
        "energy_score": "energy score (1 - Dice)",
        "dice_ratio": "1 - Dice, sample to truth / sample to sample",
        **{variogram_key(lag, units.suffix): f"correlation at {lag:g} {pixels}, samples - truth" for lag in LAGS},
        "specks": "specks, samples / truth",
    }


def paired_scores(units: Units = VOLUMES) -> dict[str, str]:
    """Titles of the scores in which the samples are compared with the copula alone on the same cases."""
    return {
        "energy_score": "energy score",
        units.key("crps"): f"CRPS of the {units.what}s ({units.symbol})",
        "one_sample_dice": "Dice of one sample",
    }


def joint_case(
    model: Model,
    case: LabelledCase,
    count: int,
    seed: int,
    spacing: Sequence[float] | None = None,
    units: Units = VOLUMES,
) -> dict[str, Any]:
    """Record of one case: {"rows": joint records of `count` samples and of the wrong samplers}.

    `spacing` is that of the working grid in the order of the axes, by default isotropic. A model that denoises masks of
    a copula has a row of those masks as well. Raises ModelError for a model whose probabilities are not finite.
    """
    masks, mean = samples(model, case, count, seed)
    if not np.isfinite(mean.sum(dtype=np.float64)):
        name = model.section["title"]
        raise ModelError(f"The model '{name}' gives no numbers for this volume; choose another model.")
    rng = np.random.default_rng(seed)
    prior = model.map_prior
    shown = case.p if np.isinf(prior) or mean is case.p else (count * mean + prior * case.p) / (count + prior)
    chosen = shown.argmax(0).astype(np.uint8)
    spacing = spacing or (model.spacing,) * case.labels.ndim
    blocks = [max(1, round(BLOCK if units.is_area else BLOCK / width)) for width in spacing]
    classes = [entry["label"] for entry in model.labels if entry["id"] in SPECK_IDS] or None
    rows = {
        MODEL: masks,
        INDEPENDENT: independent_pixels(case.p, count, rng),
        HALVED: halve_spread(masks, chosen, blocks, rng),
        REPEATED: np.broadcast_to(chosen, masks.shape),
    }
    if model.start is not None and not model.is_copula_only:
        rows[COPULA] = samples(model.with_start(Start(model.start.covariance, None)), case, count, seed)[0]
    about = case.p, chosen, spacing, classes, units.suffix
    return {"rows": {name: joint_record(case.labels, row, *about) for name, row in rows.items()}}


def halve_spread(masks: np.ndarray, chosen: np.ndarray, blocks: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Masks [n, *shape] with a random half of their blocks (edges in voxels) replaced by the map `chosen`."""
    coins = rng.random((len(masks), *(-(-n // edge) for n, edge in zip(chosen.shape, blocks, strict=True)))) < 0.5
    coins = np.kron(coins, np.ones((1, *blocks), bool))
    return np.where(coins[(slice(None), *(slice(n) for n in chosen.shape))], chosen, masks)


def summarise(records: Sequence[Mapping[str, Any]], names: Sequence[str], units: Units = VOLUMES) -> dict[str, Any]:
    """Measures with bands, scores of the wrong samplers, measures that miss theirs ("blind"), and Dice of the map."""
    rows = {name: [record["rows"][name] for record in records] for name in records[0]["rows"]}
    unit = units.suffix
    model = JointScores(rows[MODEL], unit=unit)
    measures = model.scores()
    wrong = {name: JointScores(rows[name], unit=unit).scores() for name in rows if name not in (MODEL, COPULA)}
    wrong[WIDENED] = JointScores(rows[MODEL], widen=2.0, unit=unit).scores()
    blind = [name for name, row in controls(units).items() if not detects(name, measures, wrong[row])]
    dice = np.array([record["map_dice"] for record in rows[MODEL]])  # [cases, n + 1, structures]
    to_truth, to_samples = dice[:, 0].mean(1), dice[:, 1:].mean((1, 2))
    agreement = 1 - model.between[:, 0].mean(1)
    return {
        "n": model.n,
        "structures": list(names),
        "measures": {
            name: {key: finite(x) for key, x in vars(measure).items()} | {"inside": measure.inside}
            for name, measure in measures.items()
        },
        "controls": {
            row: {name: finite(measure.value) for name, measure in scores.items()} for row, scores in wrong.items()
        },
        "blind": blind,
        "describe": {name: finite(value) for name, value in model.describe().items()},
        "map_dice": float(to_truth.mean()),
        "expected_dice": float(to_samples.mean()),
        "against_copula": _paired_differences(model, JointScores(rows[COPULA], unit=unit)) if COPULA in rows else None,
        "rank_correlation": finite(stats.spearmanr(agreement, to_truth).statistic) if len(dice) > 2 else None,
    }


def _paired_differences(a: JointScores, b: JointScores) -> dict[str, Any]:
    """Scores of a minus those of b over the same cases, with 95 % bootstrap intervals."""
    second = b.case_scores()
    return {name: difference(first, second[name]) for name, first in a.case_scores().items()}


def detects(name: str, model: Mapping[str, Measure], control: Mapping[str, Measure]) -> bool:
    """Whether a measure distinguishes the control from a perfect sampler: its value lies outside the band.

    CRPS and energy score are lower for better samplers; there the control must score worse than the model's samples.
    """
    value, measure = control[name].value, model[name]
    if not np.isfinite(value):
        return False
    if name.startswith(("crps", "energy")):
        return value > measure.value
    return not measure.low <= value <= measure.high


def within(measure: Mapping[str, Any], structure: int) -> bool:
    """Whether the value of a structure lies in the band of a perfect sampler; True if it has no value or no band."""
    value, low, high = (measure[key][structure] for key in ("by_structure", "low_by_structure", "high_by_structure"))
    return value is None or low is None or high is None or low <= value <= high
