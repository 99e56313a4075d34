"""Scores of a segmentation and of its uncertainty, against a reference, several raters or a known distribution.

Where the score of a perfect model depends on the number of samples, the docstring gives that score, and there is a form
of the score that does not depend on it.
"""

# ruff: noqa: F401 - the names are imported for callers of the package
from .accuracy import dice, hd95, lesion_f1, nsd
from .bootstrap import interval
from .calibration import ambiguous, calibration_table, ece_floor, expected_calibration_error, table_ece, within
from .distribution import (
    EnergyDistance,
    coverage,
    d_max,
    energy_distance,
    energy_distance_exact,
    expected_dice,
    hungarian_iou,
    law_diversity,
    pairwise_distance,
    randomised_pit,
    rank,
    rank_histogram,
)
from .gates import GATES, check
from .intervals import covered, interval_method, predictive_interval
from .uncertainty import aurc, e_aurc, error_aupr, error_auroc, patch_max, risk_coverage, threshold_mean
