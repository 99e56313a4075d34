"""Joint samples of labelled cases beside wrong samplers made of the same model: `metrics.joint` for a model.

Everything is measured on the model's working grid, where the samples are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ..calibration.covariance import LabelledCase
from ..calibration.start import samples
from ..errors import ModelError
from ..metrics.joint import CONTROLS, LAGS_MM, JointScores, Measure, joint_record
from ..model.folder import Model, Start
from .known_answer.samplers import independent_pixels
from .pooling import difference, finite
from .report.formatting import number

SAMPLES, FEWEST_SAMPLES = 32, 3
"""Samples a case by default; with one in the truth's place two must be left for a spread."""
OWN, INDEPENDENT, HALVED, REPEATED, WIDENED = (
    "samples", "independent voxels", "samples of halved spread", "the map repeated", "intervals widened twofold",
)  # fmt: skip
COPULA = "copula alone"
"""Where the sampler starts: what its samples are without the denoiser."""
BLOCK_MM = 16.0
"""Edge of the blocks in which a sample of halved spread takes the map instead."""
SPECK_IDS = ("cortical_grey", "white_matter")
"""Structures whose specks are counted, where a model has them; otherwise those of every structure."""

TITLES = {
    "z_rms": "rms z of the volumes",
    "z_mean": "mean z of the volumes",
    "coverage_50": "50 % intervals hold",
    "coverage_80": "80 % intervals hold",
    "coverage_90": "90 % intervals hold",
    "crps_ml": "CRPS of the volumes, ml",
    "energy_score": "energy score, distance 1 - Dice",
    "dice_ratio": "1 - Dice: sample to truth, over sample to sample",
    **{f"variogram_{lag:g}mm": f"correlation at {lag:g} mm, samples less truth" for lag in LAGS_MM},
    "specks": "specks, samples over truth",
}


AGAINST = {
    "energy_score": "energy score",
    "crps_ml": "CRPS of the volumes, ml,",
    "one_sample_dice": "Dice of one sample",
}
"""What the samples are compared in with the copula alone, case by case."""


def joint_case(model: Model, case: LabelledCase, count: int, seed: int) -> dict[str, Any]:
    """Records of the model's samples and of the wrong samplers, by row, and what the map scores.

    Of a model that denoises the masks of a copula there is a row of those masks as well.
    """
    masks, mean = samples(model, case, count, seed)
    if not np.isfinite(mean.sum(dtype=np.float64)):
        name = model.section["title"]
        raise ModelError(f"The model '{name}' gives no numbers for this volume; choose another model.")
    rng = np.random.default_rng(seed)
    k = model.map_prior
    shown = case.p if np.isinf(k) or mean is case.p else (count * mean + k * case.p) / (count + k)
    chosen = shown.argmax(0).astype(np.uint8)
    spacing = (model.spacing,) * case.labels.ndim
    classes = [entry["label"] for entry in model.labels if entry["id"] in SPECK_IDS] or None
    rows = {
        OWN: masks,
        INDEPENDENT: independent_pixels(case.p, count, rng),
        HALVED: halved(masks, chosen, round(BLOCK_MM / model.spacing), rng),
        REPEATED: np.broadcast_to(chosen, masks.shape),
    }
    if model.start is not None and not model.is_copula_only:
        rows[COPULA] = samples(model.with_start(Start(model.start.covariance, None)), case, count, seed)[0]
    records = {name: joint_record(case.labels, row, case.p, chosen, spacing, classes) for name, row in rows.items()}
    return {"rows": records}


def halved(masks: np.ndarray, chosen: np.ndarray, block: int, rng: np.random.Generator) -> np.ndarray:
    """The masks with the map in a random half of the blocks of `block` voxels: they differ less from each other."""
    shape = chosen.shape
    coins = rng.random((len(masks), *(-(-n // block) for n in shape))) < 0.5
    for axis in range(1, coins.ndim):
        coins = coins.repeat(block, axis)
    return np.where(coins[(slice(None), *(slice(n) for n in shape))], chosen, masks)


def summarise(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Measures with their bands, what the controls score, which control was not found out, and the Dice of the map."""
    rows = {name: [record["rows"][name] for record in records] for name in records[0]["rows"]}
    own = JointScores(rows[OWN])
    measures = own.scores()
    controls = {name: JointScores(rows[name]).scores() for name in rows if name not in (OWN, COPULA)}
    controls[WIDENED] = JointScores(rows[OWN], widen=2.0).scores()
    blind = [
        name for name in measures if (wrong := control_of(name)) and not found_out(name, measures, controls[wrong])
    ]
    dice = np.array([record["map_dice"] for record in rows[OWN]])  # [cases, n + 1, structures]
    to_truth, to_samples = dice[:, 0].mean(1), dice[:, 1:].mean((1, 2))
    agreement = 1 - own.between[:, 0].mean(1)
    return {
        "n": own.n,
        "structures": list(names),
        "measures": {name: as_json(measure) for name, measure in measures.items()},
        "controls": {
            row: {name: finite(measure.value) for name, measure in scores.items()} for row, scores in controls.items()
        },
        "blind": blind,
        "describe": {name: finite_all(value) for name, value in own.describe().items()},
        "map_dice": float(to_truth.mean()),
        "expected_dice": float(to_samples.mean()),
        "against_copula": _against(own, JointScores(rows[COPULA])) if COPULA in rows else None,
        "rank_correlation": finite(stats.spearmanr(agreement, to_truth).statistic) if len(dice) > 2 else None,
    }


def _against(own: JointScores, other: JointScores) -> dict[str, Any]:
    """Case by case, the samples' scores less those of others on the same cases, with 95 % intervals (bootstrap)."""
    ours, theirs = own.case_scores(), other.case_scores()
    there = [np.isfinite(ours[name]) & np.isfinite(theirs[name]) for name in ours]
    return {name: difference(ours[name][at], theirs[name][at]) for name, at in zip(ours, there, strict=True)}


def control_of(measure: str) -> str | None:
    """The wrong sampler that a measure must find out; None for a measure without one."""
    return CONTROLS.get("variogram" if measure.startswith("variogram") else measure)


def found_out(name: str, own: Mapping[str, Measure], control: Mapping[str, Measure]) -> bool:
    """Whether a measure tells the control from a perfect sampler: it lies outside the band.

    CRPS and energy score are lower for better samplers: there the control must score worse than the model's samples.
    """
    value, measure = control[name].value, own[name]
    if not np.isfinite(value):
        return False
    if name in ("crps_ml", "energy_score"):
        return value > measure.value
    return not measure.low <= value <= measure.high


def as_json(measure: Measure) -> dict[str, Any]:
    """A measure as evaluation.json holds it."""

    def listed(values: np.ndarray | None) -> list[float | None] | None:
        return None if values is None else [finite(value) for value in values]

    return {
        "value": finite(measure.value),
        "low": finite(measure.low),
        "high": finite(measure.high),
        "inside": measure.inside,
        "by_structure": listed(measure.by_structure),
        "low_by_structure": listed(measure.low_by_structure),
        "high_by_structure": listed(measure.high_by_structure),
    }


def text(found: Mapping[str, Any]) -> str:
    """The measures as a table for a terminal."""
    width = max(len(title) for title in TITLES.values())
    lines = [f"{'':<{width}}{'value':>9}  {'a perfect sampler, 99 %':>23}  {'the control':>11}"]
    for name, title in TITLES.items():
        one, control = found["measures"][name], control_of(name)
        wrong = f"{number(found['controls'][control][name]):>11}  {control}" if control else ""
        band = f"{number(one['low'])} to {number(one['high'])}"
        mark = "  outside" if one["inside"] is False else ""
        lines.append(f"{title:<{width}}{number(one['value']):>9}  {band:>23}  {wrong}{mark}")
    keys = ("z_rms", "coverage_90", "dice_ratio")
    lines.append(
        f"{'by structure':<{width}}{'rms z':>9}{'90 %':>9}{'ratio':>9}   * outside the band of a perfect sampler"
    )
    for index, name in enumerate(found["structures"]):
        of = [found["measures"][key] for key in keys]
        cells = (number(one["by_structure"][index], 2) + ("" if within(one, index) else "*") for one in of)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>9}" for cell in cells))
    about = found["describe"]
    pairs = ", ".join(
        f"{lag:g} mm {number(truth)} and {number(drawn)}"
        for lag, truth, drawn in zip(LAGS_MM, about["correlation_truth"], about["correlation_samples"], strict=True)
    )
    lines.append(f"Correlation of truth and samples: {pairs}.")
    lines.append(f"Specks: {about['specks_truth']:.3%} of the truth, {about['specks_samples']:.3%} of the samples.")
    widths = ", ".join(number(value, 1) for value in about["interval_90_width_ml"])
    lines.append(f"Mean width of the 90 % intervals by structure, ml: {widths}.")
    lines.append(
        f"Dice of the map {found['map_dice']:.3f}, expected from the samples {found['expected_dice']:.3f}; "
        f"of one sample {number(about['one_sample_dice'])}."
    )
    if against := found["against_copula"]:
        parts = "; ".join(
            f"{title} {number(one['value'], 4)} ({number(one['low'], 4)} to {number(one['high'], 4)})"
            for one, title in ((against[name], title) for name, title in AGAINST.items())
        )
        lines.append(f"Samples less the copula alone, 95 % interval over the cases: {parts}.")
    lines.append(f"Spearman of the samples' agreement and the Dice of the map: {number(found['rank_correlation'])}.")
    return "\n".join(lines)


def finite_all(value: float | list[float]) -> Any:
    """A number or a list of numbers as JSON holds them: None for NaN and infinity."""
    return [finite(one) for one in value] if isinstance(value, list) else finite(value)


def within(measure: Mapping[str, Any], structure: int) -> bool:
    """Whether a structure's value lies in the band of a perfect sampler; also where it has none."""
    value, low, high = (measure[key][structure] for key in ("by_structure", "low_by_structure", "high_by_structure"))
    return value is None or low is None or high is None or low <= value <= high
