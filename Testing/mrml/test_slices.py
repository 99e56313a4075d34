"""The most uncertain slice of each view, and the voxel probe, for any transform of the volume."""

import numpy as np
import pytest
import slicer
import slicer.util
from mrml_cases import addLinearTransform, addVolume, importJob, obliqueIJKToRAS, segment

from DiffusionSegmentationLib.scene import slice_entropy, voxel_grids
from DiffusionSegmentationLib.scene.slice_entropy import Profiles
from DiffusionSegmentationLib.scene.voxel_probe import VoxelProbe


@pytest.fixture(params=[False, True], ids=["plain", "transformed"])
def result(application, tmp_path, request):
    """A result with one very uncertain slice along each axis."""
    volumeNode = addVolume("Schief", obliqueIJKToRAS())
    if request.param:
        volumeNode.SetAndObserveTransformNodeID(addLinearTransform().GetID())
    result = importJob(volumeNode, segment(volumeNode, tmp_path))
    bits = slicer.util.arrayFromVolume(result.entropyNode)
    bits[:] = 0.1
    bits[5], bits[:, 12], bits[:, :, 17] = 1.0, 1.1, 1.2
    result.entropyNode.GetImageData().Modified()
    return result


def addView(result, axis, sign=1.0, tilt=0.0):
    """A slice view whose normal is axis `axis` of the volume."""
    directions = (voxel_grids.toWorld(result.entropyNode) @ voxel_grids.ijkToRAS(result.entropyNode))[:3, :3]
    directions = directions / np.linalg.norm(directions, axis=0)
    normal = sign * directions[:, axis] + tilt * directions[:, (axis + 1) % 3]
    normal /= np.linalg.norm(normal)
    right = np.cross(directions[:, (axis + 2) % 3], normal)
    right /= np.linalg.norm(right)
    node = slicer.mrmlScene.AddNode(slicer.vtkMRMLSliceNode())
    node.SetSliceToRASByNTP(*normal, *right, 3.0, -4.0, 5.0, 0)
    return node


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("axis", "worst"), [(0, 17), (1, 12), (2, 5)])
def test_the_most_uncertain_slice_is_shown(result, axis, worst, sign):
    profiles = Profiles(result.entropyNode)
    view = addView(result, axis, sign, tilt=0.1)
    count = result.entropyNode.GetImageData().GetDimensions()[axis]
    profile = profiles.of(view)
    assert len(profile) == count
    assert profile.argmax() == (worst if sign > 0 else count - 1 - worst)
    before = [view.GetSliceToRAS().GetElement(row, 2) for row in range(3)]
    profiles.goToWorst(view)
    # The plane goes through the middle of the worst slice.
    index = (np.array(result.entropyNode.GetImageData().GetDimensions()) - 1) / 2
    index[axis] = worst
    place = voxel_grids.toWorld(result.entropyNode) @ voxel_grids.ijkToRAS(result.entropyNode) @ [*index, 1.0]
    normal = np.array([view.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
    center = np.array([view.GetSliceToRAS().GetElement(row, 3) for row in range(3)])
    assert normal @ (place[:3] - center) == pytest.approx(0, abs=1e-3)
    assert normal == pytest.approx(before)


def test_the_position_follows_the_view(result):
    profiles = Profiles(result.entropyNode)
    for sign in (1.0, -1.0):
        view = addView(result, 2, sign)
        profiles.goToWorst(view)
        part = (5 + 0.5) / 14
        assert profiles.position(view) == pytest.approx(part if sign > 0 else 1 - part, abs=1e-3)


def test_views_are_in_the_order_of_the_layout(application):
    for name in ("Green", "Red", "Yellow", "Compare1"):
        slicer.mrmlScene.AddNode(slicer.vtkMRMLSliceNode()).SetLayoutName(name)
    names = [node.GetLayoutName() for node in slice_entropy.sliceNodes()]
    assert names[:3] == ["Red", "Yellow", "Green"] and "Compare1" not in names


def test_the_probe_gives_the_classes_of_the_voxel(result):
    pointer = VoxelProbe(result.segmentationNode)
    first = result.probabilitiesNode.GetNthDataNode(0)
    ijkToWorld = voxel_grids.toWorld(result.segmentationNode) @ voxel_grids.ijkToRAS(first)
    rng = np.random.default_rng(0)
    for _ in range(20):
        index = rng.integers(0, first.GetImageData().GetDimensions())
        world = (ijkToWorld @ [*(index + rng.uniform(-0.4, 0.4, 3)), 1.0])[:3]
        shares = pointer.sharesAt(tuple(world))
        for n, (_name, share) in enumerate(shares):
            voxels = slicer.util.arrayFromVolume(result.probabilitiesNode.GetNthDataNode(n))
            assert share == voxels[tuple(index[::-1])] / 255
        assert [name for name, _share in shares] == ["background", "Cortical grey matter", "Weiße Substanz"]
        text = pointer.textAt(tuple(world))
        best = max(shares, key=lambda pair: pair[1])
        assert text.startswith(f"{best[0]} {100 * best[1]:.0f} %") and text.endswith(" bits")
    assert pointer.textAt((1e4, 0, 0)) == ""
