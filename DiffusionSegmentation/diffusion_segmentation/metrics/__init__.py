"""Scores of a segmentation and of its uncertainty: against a reference, against raters, against a known law.

Where a perfect model's score depends on the number of samples, the docstring says what it is, and there is a form of
the score that does not.
"""

from .accuracy import VolumeError, dice, hd95, lesion_f1, nsd, volume_error
from .bootstrap import Interval, interval, paired_difference
from .calibration import (
    Reliability,
    adaptive_calibration_error,
    ambiguous,
    average_calibration_error,
    brier,
    brier_debiased,
    ece_floor,
    expected_calibration_error,
    probability_rmse,
    reliability,
    sample_spread,
)
from .distribution import (
    EnergyDistance,
    coverage,
    d_max,
    distance,
    energy_distance,
    energy_distance_exact,
    hungarian_iou,
    law_diversity,
    pairwise_distance,
    randomised_pit,
    rank,
    rank_histogram,
    volume_variance_ratio,
)
from .gates import GATES, Gate, check
from .intervals import interval_coverage, interval_method, predictive_interval
from .region import within
from .uncertainty import aurc, e_aurc, error_aupr, error_auroc, image_sum, patch_max, risk_coverage, threshold_mean

__all__ = [
    "GATES",
    "EnergyDistance",
    "Gate",
    "Interval",
    "Reliability",
    "VolumeError",
    "adaptive_calibration_error",
    "ambiguous",
    "aurc",
    "average_calibration_error",
    "brier",
    "brier_debiased",
    "check",
    "coverage",
    "d_max",
    "dice",
    "distance",
    "e_aurc",
    "ece_floor",
    "energy_distance",
    "energy_distance_exact",
    "error_aupr",
    "error_auroc",
    "expected_calibration_error",
    "hd95",
    "hungarian_iou",
    "image_sum",
    "interval",
    "interval_coverage",
    "interval_method",
    "law_diversity",
    "lesion_f1",
    "nsd",
    "paired_difference",
    "pairwise_distance",
    "patch_max",
    "predictive_interval",
    "probability_rmse",
    "randomised_pit",
    "rank",
    "rank_histogram",
    "reliability",
    "risk_coverage",
    "sample_spread",
    "threshold_mean",
    "volume_error",
    "volume_variance_ratio",
    "within",
]
