"""Class probabilities of regions that contain each other, of which a network predicts each with a sigmoid.

For regions R1 > R2 > ... > Rn with the probabilities p1, ..., pn of a voxel to be in them, the class "in Ri and not in
R(i+1)" has the probability q_i - q_(i+1), where q_i = min(p_1, ..., p_i): a voxel cannot be in a region more probably
than in one around it. The background has 1 - q_1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def class_probabilities(p: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Class probabilities float32 [n + 1, ...], background first, of the probabilities [n, ...] of n regions.

    `order` is the label of what each region has more than the next one.
    """
    q = np.minimum.accumulate(p, axis=0)
    result = np.empty((len(p) + 1, *p.shape[1:]), np.float32)
    result[0] = 1 - q[0]
    for region, label in enumerate(order):
        result[label] = q[region] - q[region + 1] if region + 1 < len(q) else q[region]
    return result


def nnunet_dataset(order: Sequence[int]) -> dict[str, Any]:
    """Entries of a dataset.json with such regions.

    One more label lies in all regions, so that nnU-Net takes also a single one for a region and not for a label.
    """
    more = len(order) + 1
    regions = {f"region {n}": [*order[n:], more] for n in range(len(order))}
    return {"labels": {"background": 0, **regions}, "regions_class_order": list(order)}
