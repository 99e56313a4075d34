"""Previews of a run that is faster than they are shown."""

import pytest
import slicer.util

from DiffusionSegmentationLib.scene.preview import Preview


def shownNames():
    kinds = ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode")
    nodes = [node for kind in kinds for node in slicer.util.getNodesByClass(kind)]
    return sorted(node.GetName().removeprefix("Kopf é 頭") for node in nodes)


@pytest.mark.usefixtures("views")  # the overlay
@pytest.mark.parametrize("steps", range(7))
def test_a_newer_preview_replaces_one_that_is_half_shown(volumeNode, job, steps):
    files = job.folder / "segmentation.seg.nrrd", job.folder / "entropy.nrrd"
    preview = Preview()
    preview.show(volumeNode, "job", files, 1)
    for _ in range(steps):
        preview.poll()
    preview.show(volumeNode, "job", files, 2)
    while preview.busy:
        preview.poll()
    assert shownNames() == ["", " preview", " preview entropy"]
    assert preview._overlay is not None and preview._overlay.visible
    preview.close()
    assert shownNames() == [""]
