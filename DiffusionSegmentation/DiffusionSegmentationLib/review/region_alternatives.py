"""The distinct alternatives of the samples of a result inside one of its uncertain regions."""

import numpy as np
import slicer

from diffusion_segmentation.segmentation.alternatives import Alternative, alternatives

from ..i18n import tr as _
from ..scene import sequences, voxel_grids
from ..scene.result_nodes import SAMPLES_ROLE


def alternativesIn(segmentationNode: slicer.vtkMRMLSegmentationNode, mask: np.ndarray) -> list[Alternative]:
    """The alternatives inside `mask` [k, j, i] on the block of the result, most frequent first; [] without samples."""
    samples = sequences.arrays(segmentationNode.GetNodeReference(SAMPLES_ROLE))
    box = voxel_grids.boundingBox(mask)
    if not samples or box is None:
        return []
    return alternatives(np.stack([sample[box][mask[box]] for sample in samples]))


def sharesText(found: list[Alternative]) -> str:
    """How many samples each alternative stands for, one sentence; empty without alternatives."""
    if not found:
        return ""
    counts = ", ".join(str(one.count) for one in found)
    return _("Alternatives: {counts} of {total} samples.").format(counts=counts, total=sum(one.count for one in found))
