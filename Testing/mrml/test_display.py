"""The overlay as pixels of slice views, and restoring of the user's foreground."""

import numpy as np
import pytest
import slicer
import slicer.util
from mrml_cases import MAXIMUM_BITS, VIEW_SIZE, addVolume, importJob, segment, showInViews

from DiffusionSegmentationLib.scene import offscreen
from DiffusionSegmentationLib.scene.display import (
    COLORS,
    DEFAULT_OPACITY,
    Overlay,
    outlined,
    removeNode,
    showOutlines,
)


@pytest.fixture
def shown(views, volumeNode, job):
    """A result whose volume is in the background of all views; its segments are hidden."""
    result = importJob(volumeNode, job)
    result.segmentationNode.SetDisplayVisibility(False)
    showInViews(views, volumeNode)
    return result


def layers(views):
    """Everything of the composite nodes that the overlay may touch."""
    return {
        name: (
            view.compositeNode.GetBackgroundVolumeID(),
            view.compositeNode.GetForegroundVolumeID(),
            view.compositeNode.GetForegroundOpacity(),
            view.compositeNode.GetLabelVolumeID(),
            view.compositeNode.GetLabelOpacity(),
        )
        for name, view in views.items()
    }


def coloured(picture: np.ndarray) -> np.ndarray:
    """Mask of pixels that are not grey; volume, letters and legend text are grey."""
    return np.ptp(picture.astype(int), axis=2) > 12


def withoutLegend(result) -> None:
    slicer.modules.colors.logic().GetColorLegendDisplayNode(result.entropyNode).SetVisibility(False)


@pytest.mark.parametrize("name", ["Red", "Yellow", "Green"])
def test_overlay_can_be_shown_and_hidden(shown, views, name):
    withoutLegend(shown)
    overlay = Overlay(shown.entropyNode)
    before = views[name].render()

    overlay.show()
    seen = views[name].render()
    overlay.hide()

    assert coloured(before).sum() == 0
    assert coloured(seen).sum() > 200
    assert np.array_equal(views[name].render(), before)


def test_only_entropy_above_the_threshold_is_drawn(shown, views):
    withoutLegend(shown)
    overlay = Overlay(shown.entropyNode)
    overlay.show()
    high = coloured(views["Red"].render())

    overlay.threshold = 0.05  # the rest has 0.1 bits
    everything = coloured(views["Red"].render())
    overlay.threshold = 1.3  # nothing has more than 1.2
    nothing = coloured(views["Red"].render())

    assert 0 < high.sum() < 0.8 * everything.sum()
    assert not (high & ~everything).any()
    assert nothing.sum() == 0


def test_colour_is_that_of_the_entropy_in_the_fixed_range(shown, views):
    withoutLegend(shown)
    overlay = Overlay(shown.entropyNode)
    overlay.opacity = 1.0
    overlay.show()

    picture = views["Red"].render()

    steps = np.linspace(0, 1, len(COLORS))
    expected = [np.interp(1.2 / MAXIMUM_BITS, steps, channel) for channel in np.transpose(COLORS)]
    colour = np.median(picture[coloured(picture)], axis=0)
    assert np.allclose(colour, 255 * np.array(expected), atol=4)


def test_the_most_uncertain_voxels_are_drawn(shown, views):
    """Rounding may make them slightly larger than the maximum."""
    withoutLegend(shown)
    voxels = slicer.util.arrayFromVolume(shown.entropyNode)
    voxels[:] = np.nextafter(np.float32(MAXIMUM_BITS), np.float32(9))
    slicer.util.arrayFromVolumeModified(shown.entropyNode)

    Overlay(shown.entropyNode).show()

    assert coloured(views["Red"].render()).sum() > 200


def test_opacity_is_drawn(shown, views):
    withoutLegend(shown)
    overlay = Overlay(shown.entropyNode)
    background = views["Red"].render().astype(float)
    overlay.opacity = 1.0
    overlay.show()
    opaque = views["Red"].render().astype(float)

    overlay.opacity = 0.25

    inside = coloured(opaque.astype(np.uint8))
    expected = 0.75 * background[inside] + 0.25 * opaque[inside]
    assert np.allclose(views["Red"].render()[inside], expected, atol=3)


def test_opacity_is_kept_while_hidden_and_across_objects(shown, views):
    Overlay(shown.entropyNode).opacity = 0.4

    Overlay(shown.entropyNode).show()

    assert Overlay(shown.entropyNode).opacity == 0.4
    assert views["Red"].compositeNode.GetForegroundOpacity() == 0.4
    assert DEFAULT_OPACITY != 0.4


def test_legend_is_shown_in_each_view_with_the_overlay(shown, views):
    overlay = Overlay(shown.entropyNode)
    overlay.threshold = 1.3  # so that only the legend of the overlay is drawn
    for view in views.values():
        assert not coloured(view.render()).any()
    overlay.show()
    for view in views.values():
        rows, columns = np.nonzero(coloured(view.render()))
        assert rows.min() > 0.5 * VIEW_SIZE[1] and columns.min() > 0.9 * VIEW_SIZE[0]  # at the lower right, narrow
        assert np.ptp(rows) > 0.1 * VIEW_SIZE[1]
    overlay.hide()
    for view in views.values():
        assert not coloured(view.render()).any()


def test_legend_and_its_title_stay_at_the_edge(shown, views):
    Overlay(shown.entropyNode).show()
    for view in views.values():
        slicer.modules.colors.logic().GetColorLegendDisplayNode(shown.entropyNode).SetVisibility(True)
        withIt = view.render().astype(int)
        withoutLegend(shown)
        rows, columns = np.nonzero(np.abs(withIt - view.render()).max(axis=2) > 12)
        assert columns.min() > 0.82 * VIEW_SIZE[0] and rows.min() > 0.6 * VIEW_SIZE[1]


def test_legend_is_titled_with_its_unit(shown):
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(shown.entropyNode)
    assert legend.GetTitleText() == "Entropy (bits)"


def test_the_users_foreground_is_restored_exactly(shown, views, volumeNode):
    pet = addVolume("PET", np.eye(4))
    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "mask")
    for name, opacity in (("Red", 0.35), ("Green", 0.123456789)):
        views[name].compositeNode.SetForegroundVolumeID(pet.GetID())
        views[name].compositeNode.SetForegroundOpacity(opacity)
        views[name].compositeNode.SetLabelVolumeID(label.GetID())
    before = layers(views)
    overlay = Overlay(shown.entropyNode)

    overlay.show()
    assert {layer[1] for layer in layers(views).values()} == {shown.entropyNode.GetID()}
    overlay.show()
    overlay.opacity = 0.9
    overlay.hide()
    assert layers(views) == before

    overlay.hide()
    assert layers(views) == before


def test_a_foreground_selected_while_the_overlay_is_shown_is_kept(shown, views):
    pet, later = addVolume("PET", np.eye(4)), addVolume("CT", np.eye(4))
    views["Red"].compositeNode.SetForegroundVolumeID(pet.GetID())
    overlay = Overlay(shown.entropyNode)
    overlay.show()
    views["Red"].compositeNode.SetForegroundVolumeID(later.GetID())
    views["Red"].compositeNode.SetForegroundOpacity(0.2)

    overlay.hide()
    assert layers(views)["Red"][1:3] == (later.GetID(), 0.2)

    overlay.show()
    overlay.hide()
    assert layers(views)["Red"][1:3] == (later.GetID(), 0.2)


def test_another_overlay_replaces_the_first_and_restores_the_foreground(shown, views, volumeNode, tmp_path):
    pet = addVolume("PET", np.eye(4))
    views["Red"].compositeNode.SetForegroundVolumeID(pet.GetID())
    before = layers(views)
    Overlay(shown.entropyNode).show()
    second = importJob(volumeNode, segment(volumeNode, tmp_path))

    Overlay(second.entropyNode).show()
    assert not Overlay(shown.entropyNode).visible
    Overlay(shown.entropyNode).hide()
    assert Overlay(second.entropyNode).visible
    Overlay(second.entropyNode).hide()

    assert layers(views) == before


def test_views_of_another_volume_are_not_changed(shown, views):
    ct = addVolume("CT", np.eye(4))
    views["Green"].compositeNode.SetBackgroundVolumeID(ct.GetID())
    before = layers(views)["Green"]

    Overlay(shown.entropyNode).show()

    assert layers(views)["Green"] == before
    assert layers(views)["Red"][1] == shown.entropyNode.GetID()


def test_all_views_are_used_if_none_shows_the_volume(shown, views):
    for view in views.values():
        view.compositeNode.SetBackgroundVolumeID(None)

    Overlay(shown.entropyNode).show()

    assert {layer[1] for layer in layers(views).values()} == {shown.entropyNode.GetID()}


def test_an_entropy_put_into_the_foreground_by_hand_can_be_hidden(shown, views):
    views["Red"].compositeNode.SetForegroundVolumeID(shown.entropyNode.GetID())
    overlay = Overlay(shown.entropyNode)
    assert overlay.visible

    overlay.show()
    overlay.hide()

    assert not overlay.visible


def test_the_next_overlay_restores_the_foreground_of_a_removed_one(shown, views, volumeNode, tmp_path):
    pet = addVolume("PET", np.eye(4))
    views["Red"].compositeNode.SetForegroundVolumeID(pet.GetID())
    before = layers(views)
    Overlay(shown.entropyNode).show()
    slicer.mrmlScene.RemoveNode(shown.entropyNode)
    overlay = Overlay(importJob(volumeNode, segment(volumeNode, tmp_path)).entropyNode)

    overlay.show()
    overlay.hide()

    assert layers(views) == before


def test_a_foreground_removed_while_hidden_is_not_restored(shown, views):
    pet = addVolume("PET", np.eye(4))
    views["Red"].compositeNode.SetForegroundVolumeID(pet.GetID())
    overlay = Overlay(shown.entropyNode)
    overlay.show()
    slicer.mrmlScene.RemoveNode(pet)

    overlay.hide()

    assert layers(views)["Red"][1] is None


def test_the_foreground_is_restored_after_removal_of_the_entropy(shown, views):
    pet = addVolume("PET", np.eye(4))
    views["Red"].compositeNode.SetForegroundVolumeID(pet.GetID())
    views["Red"].compositeNode.SetForegroundOpacity(0.35)
    overlay = Overlay(shown.entropyNode)
    overlay.show()

    slicer.mrmlScene.RemoveNode(shown.entropyNode)
    overlay.hide()

    assert layers(views)["Red"][1:3] == (pet.GetID(), 0.35)


def test_removal_of_a_shown_overlay_raises_no_error(shown, views, capfd):
    Overlay(shown.entropyNode).show()
    for view in views.values():
        view.render()
    capfd.readouterr()
    removeNode(shown.entropyNode)
    for view in views.values():
        view.render()
    assert "ERR" not in "".join(capfd.readouterr())


def test_segments_are_outlines(shown):
    displayNode = shown.segmentationNode.GetDisplayNode()
    assert displayNode.GetVisibility2DOutline() and not displayNode.GetVisibility2DFill()


def test_outlines_are_drawn_in_the_colours_of_the_segments_and_can_be_hidden(shown, views, monkeypatch):
    monkeypatch.setattr(offscreen, "SUPERSAMPLING", 1)  # lines of one pixel would be averaged away
    node = shown.segmentationNode
    node.SetDisplayVisibility(True)

    def drawn() -> int:
        picture = views["Red"].render().reshape(-1, 3).astype(int)
        return (np.abs(picture - 255 * np.array([0.25, 0.5, 0.75])).max(axis=1) < 12).sum()

    assert drawn() > 30 and outlined(node)
    showOutlines(node, False)
    assert drawn() == 0 and not outlined(node)
    showOutlines(node, True)
    assert drawn() > 30 and outlined(node)


def test_all_results_share_one_colour_node(shown, volumeNode, tmp_path):
    importJob(volumeNode, segment(volumeNode, tmp_path))

    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLProceduralColorNode")]
    assert names.count("Entropy (plasma)") == 1
