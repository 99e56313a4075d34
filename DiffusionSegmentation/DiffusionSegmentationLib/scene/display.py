"""Display of a result: segments as outlines, entropy as a thresholded color overlay with a legend.

The overlay uses the foreground layer of the slice views. An extra layer (SetNthLayerVolumeID, since Slicer 5.10) would
keep the user's foreground visible, but it has no color legend, and its opacity is not saved with the scene: a reopened
scene would show the entropy opaque. The previous foreground is stored on the slice composite nodes, so that it can be
restored also after a reload of the module and in a reopened scene.
"""

from collections.abc import Iterator

import slicer.util

from diffusion_segmentation.runtime.entropy_colors import COLORS
from diffusion_segmentation.segmentation.uncertain_regions import REVIEW_BITS

from ..i18n import tr as _

DEFAULT_OPACITY = 0.6
DEFAULT_THRESHOLD_BITS = REVIEW_BITS
"""The threshold of the report's uncertain regions."""

OUTLINE_PIXELS = 1
"""Thicker outlines would cover most of the overlay in the cortex, where borders are a few voxels apart."""

OWNER_ATTRIBUTE = "DiffusionSegmentation.Beside"
"""Attribute of a temporary segmentation: ID of the segmentation that it belongs to."""
VOLUME_ROLE = "DiffusionSegmentation.Volume"
"""Reference of every node of a result to the segmented volume."""

COLORS_ATTRIBUTE = "DiffusionSegmentation.EntropyColors"
OPACITY_ATTRIBUTE = "DiffusionSegmentation.OverlayOpacity"
OVERLAY_ROLE = "DiffusionSegmentation.Overlay"
HIDDEN_ROLE = "DiffusionSegmentation.HiddenForeground"
HIDDEN_OPACITY_ATTRIBUTE = "DiffusionSegmentation.HiddenForegroundOpacity"


def styleSegmentation(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Show the segments as outlines, which cover neither image nor overlay."""
    displayNode = segmentationNode.GetDisplayNode()
    displayNode.SetVisibility2DFill(False)
    displayNode.SetVisibility2DOutline(True)
    displayNode.SetSliceIntersectionThickness(OUTLINE_PIXELS)


def outlined(segmentationNode: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether the slice views show the outlines of the segments."""
    displayNode = segmentationNode.GetDisplayNode()
    return bool(displayNode and displayNode.GetVisibility() and displayNode.GetVisibility2DOutline())


def showOutlines(segmentationNode: slicer.vtkMRMLSegmentationNode, show: bool) -> None:
    """Show or hide the outlines of the segments in the slice views."""
    displayNode = segmentationNode.GetDisplayNode()
    displayNode.SetVisibility2DOutline(show)
    if show:
        displayNode.SetVisibility(True)


def addTemporarySegmentation(
    segmentationNode: slicer.vtkMRMLSegmentationNode, role: str, title: str
) -> slicer.vtkMRMLSegmentationNode:
    """Add an empty segmentation, for display only, under the transform of `segmentationNode`, which refers to it.

    `title` has "{name}" for the volume's name. The node is not saved with the scene.
    """
    scene, volumeNode = segmentationNode.GetScene(), segmentationNode.GetNodeReference(VOLUME_ROLE)
    name = volumeNode.GetName() if volumeNode else segmentationNode.GetName()
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(scene.GenerateUniqueName(title.format(name=name)))
    node.SetSaveWithScene(False)  # before observers are told of the node: they list only nodes that are saved
    node.SetAttribute(OWNER_ATTRIBUTE, segmentationNode.GetID())
    scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(segmentationNode.GetTransformNodeID())
    styleSegmentation(node)
    segmentationNode.SetNodeReferenceID(role, node.GetID())
    return node


def removeNode(node: slicer.vtkMRMLNode | None) -> None:
    """Remove `node`, if there is one, and its display nodes, which Slicer would keep, from the scene."""
    for _step in removeSteps(node) if node is not None else ():
        pass


def removeSteps(node: slicer.vtkMRMLNode) -> Iterator[None]:
    """As removeNode, yielding after each display node."""
    scene = node.GetScene()
    if scene is None:
        return
    displayNodes = []
    if isinstance(node, slicer.vtkMRMLDisplayableNode):
        displayNodes = list(filter(None, map(node.GetNthDisplayNode, range(node.GetNumberOfDisplayNodes()))))
    # The color legend first: it needs the display node of its volume.
    displayNodes.sort(key=lambda node: not node.IsA("vtkMRMLColorLegendDisplayNode"))
    for displayNode in displayNodes:
        if displayNode.GetScene() is scene:
            scene.RemoveNode(displayNode)
            yield
    if node.GetScene() is scene:
        scene.RemoveNode(node)


def styleEntropy(entropyNode: slicer.vtkMRMLScalarVolumeNode, maximumBits: float, title: str) -> None:
    """Set colors, threshold and legend of `entropyNode`, which must be in a scene; `title` is that of the legend.

    The color range is 0 to `maximumBits` of the model, not that of the data, so that colors are comparable.
    """
    scene = entropyNode.GetScene()
    displayNode = scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    displayNode.SetAndObserveColorNodeID(_colorNode(scene).GetID())
    displayNode.AutoWindowLevelOff()
    displayNode.SetWindowLevelMinMax(0.0, maximumBits)
    displayNode.AutoThresholdOff()
    # Upper limit above the maximum: rounding must not hide the most uncertain voxels.
    displayNode.SetThreshold(DEFAULT_THRESHOLD_BITS, maximumBits + 1.0)
    displayNode.ApplyThresholdOn()
    entropyNode.SetAndObserveDisplayNodeID(displayNode.GetID())
    # Slicer's default legend covers a quarter of a slice view.
    legendNode = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(entropyNode)
    legendNode.SetTitleText(title)
    legendNode.SetLabelFormat("%.1f")
    legendNode.SetNumberOfLabels(4)
    legendNode.SetSize(0.03, 0.22)  # the text scales with the width of the bar, whatever its font size
    legendNode.SetPosition(0.99, 0.03)
    for property in (legendNode.GetTitleTextProperty(), legendNode.GetLabelTextProperty()):
        property.SetFontFamilyToArial()
        property.SetShadow(True)
    legendNode.SetVisibility(True)


def _colorNode(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLProceduralColorNode:
    """The entropy colors of `scene`, created on first use. They cover 0 to 1; the window of a volume scales them."""
    for node in slicer.util.getNodesByClass("vtkMRMLProceduralColorNode", scene):
        if node.GetAttribute(COLORS_ATTRIBUTE):
            return node
    node = slicer.vtkMRMLProceduralColorNode()
    node.SetName(_("Entropy (plasma)"))
    node.SetAttribute(COLORS_ATTRIBUTE, "plasma")
    node.SetHideFromEditors(False)  # hidden color nodes are not saved with the scene
    function = node.GetColorTransferFunction()
    function.RemoveAllPoints()
    for index, color in enumerate(COLORS):
        function.AddRGBPoint(index / (len(COLORS) - 1), *color)
    return scene.AddNode(node)


class Overlay:
    """An entropy volume as overlay in the slice views whose background is its volume; in all views if there is none.

    Stateless: opacity, threshold and the previous foreground are stored in the scene.
    """

    def __init__(self, entropyNode: slicer.vtkMRMLScalarVolumeNode) -> None:
        self._entropyNode = entropyNode

    @property
    def visible(self) -> bool:
        return bool(self._showing())

    def show(self) -> None:
        """Put the entropy into the foreground, replacing another overlay if there is one."""
        compositeNodes = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        volumeID = self._entropyNode.GetNodeReferenceID(VOLUME_ROLE)
        showingVolume = [node for node in compositeNodes if volumeID and node.GetBackgroundVolumeID() == volumeID]
        for compositeNode in showingVolume or compositeNodes:
            if not _hasOverlay(compositeNode):
                if compositeNode.GetForegroundVolumeID() == self._entropyNode.GetID():
                    continue  # selected by the user: no foreground to restore
                compositeNode.SetNodeReferenceID(HIDDEN_ROLE, compositeNode.GetForegroundVolumeID())
                compositeNode.SetAttribute(HIDDEN_OPACITY_ATTRIBUTE, repr(compositeNode.GetForegroundOpacity()))
            compositeNode.SetNodeReferenceID(OVERLAY_ROLE, self._entropyNode.GetID())
            compositeNode.SetForegroundVolumeID(self._entropyNode.GetID())
            compositeNode.SetForegroundOpacity(self.opacity)
        self._updateLegend()

    def replace(self, other: "Overlay") -> None:
        """Replace `other` in the views that show it; the stored foreground is kept."""
        for compositeNode in other._showing():
            if _hasOverlay(compositeNode):
                compositeNode.SetNodeReferenceID(OVERLAY_ROLE, self._entropyNode.GetID())
            compositeNode.SetForegroundVolumeID(self._entropyNode.GetID())
        self._updateLegend()

    def hide(self) -> None:
        """Restore the previous foreground, except where the user has selected another one since."""
        for compositeNode in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            foregroundID = compositeNode.GetForegroundVolumeID()
            overlayWasRemoved = foregroundID is None and _hasOverlay(compositeNode)
            if foregroundID == self._entropyNode.GetID() or overlayWasRemoved:
                compositeNode.SetForegroundVolumeID(compositeNode.GetNodeReferenceID(HIDDEN_ROLE))
                opacity = compositeNode.GetAttribute(HIDDEN_OPACITY_ATTRIBUTE)
                if opacity is not None:  # None if the user has selected the entropy
                    compositeNode.SetForegroundOpacity(float(opacity))
                compositeNode.RemoveNodeReferenceIDs(HIDDEN_ROLE)
                compositeNode.RemoveNodeReferenceIDs(OVERLAY_ROLE)
                compositeNode.RemoveAttribute(HIDDEN_OPACITY_ATTRIBUTE)
        self._updateLegend()

    @property
    def opacity(self) -> float:
        """Opacity, 0 to 1; stored on the entropy node, also while it is hidden."""
        return float(self._entropyNode.GetAttribute(OPACITY_ATTRIBUTE) or DEFAULT_OPACITY)

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        self._entropyNode.SetAttribute(OPACITY_ATTRIBUTE, repr(float(opacity)))
        for compositeNode in self._showing():
            compositeNode.SetForegroundOpacity(opacity)

    @property
    def threshold(self) -> float:
        """Entropy in bits below which nothing is drawn."""
        return self._entropyNode.GetScalarVolumeDisplayNode().GetLowerThreshold()

    @threshold.setter
    def threshold(self, bits: float) -> None:
        self._entropyNode.GetScalarVolumeDisplayNode().SetLowerThreshold(bits)

    def _showing(self) -> list[slicer.vtkMRMLSliceCompositeNode]:
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        return [node for node in nodes if node.GetForegroundVolumeID() == self._entropyNode.GetID()]

    def _updateLegend(self) -> None:
        # Slicer updates the legend only for changes made in the slice view's own controls.
        legendNode = slicer.modules.colors.logic().GetColorLegendDisplayNode(self._entropyNode)
        if legendNode is not None:
            legendNode.Modified()


def _hasOverlay(compositeNode: slicer.vtkMRMLSliceCompositeNode) -> bool:
    """Whether the foreground is an overlay, or was one until its volume was removed from the scene."""
    isStored = compositeNode.GetAttribute(HIDDEN_OPACITY_ATTRIBUTE) is not None
    return isStored and compositeNode.GetForegroundVolumeID() == compositeNode.GetNodeReferenceID(OVERLAY_ROLE)
