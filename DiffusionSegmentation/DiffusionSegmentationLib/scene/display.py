"""How a result looks: segments as outlines, an entropy as a thresholded colour overlay with its legend.

The overlay takes the foreground layer of the slice views and gives it back. A layer of its own (SetNthLayerVolumeID,
since Slicer 5.10) would leave a person's foreground in sight, but the colour legend appears only for background,
foreground and label layer, and a scene file keeps no opacity of other layers: a reopened scene would show the entropy
opaque and unexplained. What the foreground was is written on the slice composite nodes themselves, so that it comes
back exactly, also after the module was reloaded and in a reopened scene.
"""

from collections.abc import Iterator

import slicer

from diffusion_segmentation.segmentation.uncertain_regions import REVIEW_BITS

from ..i18n import tr as _

DEFAULT_OPACITY = 0.6
DEFAULT_THRESHOLD_BITS = REVIEW_BITS
"""What is coloured at first is what the report's uncertain regions consist of."""

COLORS = (
    (0.050, 0.030, 0.528),
    (0.261, 0.013, 0.618),
    (0.418, 0.001, 0.658),
    (0.563, 0.052, 0.642),
    (0.693, 0.165, 0.565),
    (0.798, 0.280, 0.470),
    (0.881, 0.393, 0.383),
    (0.947, 0.513, 0.299),
    (0.988, 0.652, 0.211),
    (0.989, 0.810, 0.145),
    (0.940, 0.975, 0.131),
)
"""Plasma by Nathaniel Smith and Stefan van der Walt (matplotlib, CC0) at 11 equal steps: perceptually uniform, legible
to the colour-blind, and unlike inferno and magma not black where it begins, which would hide low entropy on dark
tissue. Linear between these points it is within 0.02 of the original."""

OUTLINE_PIXELS = 1
"""Thicker ones would cover most of the overlay in the cortex, where borders lie few voxels apart."""

BESIDE_ATTRIBUTE = "DiffusionSegmentation.Beside"
VOLUME_ROLE = "DiffusionSegmentation.Volume"
"""Reference of every node of a result to the volume that was segmented."""

COLORS_ATTRIBUTE = "DiffusionSegmentation.EntropyColors"
OPACITY_ATTRIBUTE = "DiffusionSegmentation.OverlayOpacity"
OVERLAY_ROLE = "DiffusionSegmentation.Overlay"
HIDDEN_ROLE = "DiffusionSegmentation.HiddenForeground"
HIDDEN_OPACITY_ATTRIBUTE = "DiffusionSegmentation.HiddenForegroundOpacity"


def nodesOfClass(scene: slicer.vtkMRMLScene, className: str) -> Iterator[slicer.vtkMRMLNode]:
    """Yield the nodes of `scene` that are a `className`, the oldest first."""
    for index in range(scene.GetNumberOfNodesByClass(className)):
        yield scene.GetNthNodeByClass(index, className)


def styleSegmentation(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Show the segments as outlines, which hide neither the image nor the overlay."""
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


def addBeside(segmentationNode: slicer.vtkMRMLSegmentationNode, title: str) -> slicer.vtkMRMLSegmentationNode:
    """Add an empty segmentation at the place of `segmentationNode` that only shows something for a while.

    `title` has "{name}" for the volume's name. It is made again when needed, so no scene keeps it.
    """
    scene, volumeNode = segmentationNode.GetScene(), segmentationNode.GetNodeReference(VOLUME_ROLE)
    name = volumeNode.GetName() if volumeNode else segmentationNode.GetName()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(title.format(name=name)))
    node.SetSaveWithScene(False)
    node.SetAttribute(BESIDE_ATTRIBUTE, segmentationNode.GetID())
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(segmentationNode.GetTransformNodeID())
    styleSegmentation(node)
    return node


def removeOrphans(scene: slicer.vtkMRMLScene) -> None:
    """Take out what `addBeside` has added to segmentations that are gone."""
    for node in list(nodesOfClass(scene, "vtkMRMLSegmentationNode")):
        owner = node.GetAttribute(BESIDE_ATTRIBUTE)
        if owner is not None and scene.GetNodeByID(owner) is None:
            removeNode(node)


def removeNode(node: slicer.vtkMRMLNode) -> None:
    """Take `node` out of its scene with its display nodes, which would stay."""
    for _step in removeSteps(node):
        pass


def removeSteps(node: slicer.vtkMRMLNode) -> Iterator[None]:
    """As removeNode, one slow piece a step."""
    scene = node.GetScene()
    if scene is None:
        return
    displayNodes = []
    if isinstance(node, slicer.vtkMRMLDisplayableNode):
        displayNodes = list(filter(None, map(node.GetNthDisplayNode, range(node.GetNumberOfDisplayNodes()))))
    # A colour legend first: it looks for the display node of its volume until it is gone.
    displayNodes.sort(key=lambda node: not node.IsA("vtkMRMLColorLegendDisplayNode"))
    for displayNode in displayNodes:
        if displayNode.GetScene() is scene:
            scene.RemoveNode(displayNode)
            yield
    if node.GetScene() is scene:
        scene.RemoveNode(node)


def styleEntropy(entropyNode: slicer.vtkMRMLScalarVolumeNode, maximumBits: float, title: str) -> None:
    """Give `entropyNode`, new in its scene, its colours over the fixed range 0 to `maximumBits`, threshold and legend.

    The range is that of the model's classes, never that of the data, so that a colour means the same in every case.
    `title` is that of the legend.
    """
    scene = entropyNode.GetScene()
    displayNode = scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    displayNode.SetAndObserveColorNodeID(_colorNode(scene).GetID())
    displayNode.AutoWindowLevelOff()
    displayNode.SetWindowLevelMinMax(0.0, maximumBits)
    displayNode.AutoThresholdOff()
    # One above the maximum: rounding must not make the most uncertain voxel transparent.
    displayNode.SetThreshold(DEFAULT_THRESHOLD_BITS, maximumBits + 1.0)
    displayNode.ApplyThresholdOn()
    entropyNode.SetAndObserveDisplayNodeID(displayNode.GetID())
    _addLegend(entropyNode, title)


def _colorNode(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLProceduralColorNode:
    """The entropy colours of `scene`, made on first use. The points span 0 to 1: a volume's window stretches them."""
    for node in nodesOfClass(scene, "vtkMRMLProceduralColorNode"):
        if node.GetAttribute(COLORS_ATTRIBUTE):
            return node
    node = slicer.vtkMRMLProceduralColorNode()
    node.SetName(_("Entropy (plasma)"))
    node.SetAttribute(COLORS_ATTRIBUTE, "plasma")
    node.SetHideFromEditors(False)  # hidden colour nodes are not saved with the scene
    function = node.GetColorTransferFunction()
    function.RemoveAllPoints()
    for index, color in enumerate(COLORS):
        function.AddRGBPoint(index / (len(COLORS) - 1), *color)
    return scene.AddNode(node)


def _addLegend(entropyNode: slicer.vtkMRMLScalarVolumeNode, title: str) -> None:
    """A small legend at the right edge: Slicer's default covers a quarter of a slice view."""
    legendNode = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(entropyNode)
    legendNode.SetTitleText(title)
    legendNode.SetLabelFormat("%.1f")
    legendNode.SetNumberOfLabels(4)
    legendNode.SetSize(0.03, 0.22)  # text grows with the width of the bar, whatever its font size
    legendNode.SetPosition(0.99, 0.03)
    for property in (legendNode.GetTitleTextProperty(), legendNode.GetLabelTextProperty()):
        property.SetFontFamilyToArial()
        property.SetShadow(True)
    legendNode.SetVisibility(True)


class Overlay:
    """An entropy as overlay in the slice views that show its volume, and the way back to what was there.

    Views whose background is the entropy's volume take part; if there are none, all do. Nothing else in a view is
    touched. Objects of this class keep no state: opacity, threshold and the way back are in the scene.
    """

    def __init__(self, entropyNode: slicer.vtkMRMLScalarVolumeNode) -> None:
        self._entropyNode = entropyNode
        self._scene = entropyNode.GetScene()

    @property
    def visible(self) -> bool:
        """True while a slice view shows the entropy in its foreground."""
        return any(self._isShownIn(composite) for composite in self._compositeNodes())

    def show(self) -> None:
        """Put the entropy into the foreground. A view that another overlay holds is taken over with its way back."""
        compositeNodes = list(self._compositeNodes())
        volumeID = self._entropyNode.GetNodeReferenceID(VOLUME_ROLE)
        showingVolume = [node for node in compositeNodes if volumeID and node.GetBackgroundVolumeID() == volumeID]
        for compositeNode in showingVolume or compositeNodes:
            if self._isShownIn(compositeNode) and not _isHeld(compositeNode):
                continue  # a person has put it there: nothing is to come back
            if not _isHeld(compositeNode):
                _record(compositeNode)
            compositeNode.SetNodeReferenceID(OVERLAY_ROLE, self._entropyNode.GetID())
            compositeNode.SetForegroundVolumeID(self._entropyNode.GetID())
            compositeNode.SetForegroundOpacity(self.opacity)
        self._updateLegend()

    def takeOver(self, other: "Overlay") -> None:
        """Take the place of `other` in the views that show it, with its way back."""
        for compositeNode in self._compositeNodes():
            if other._isShownIn(compositeNode):
                if _isHeld(compositeNode):
                    compositeNode.SetNodeReferenceID(OVERLAY_ROLE, self._entropyNode.GetID())
                compositeNode.SetForegroundVolumeID(self._entropyNode.GetID())
        self._updateLegend()

    def hide(self) -> None:
        """Give the foreground back as it was, except where the person has chosen another one meanwhile."""
        for compositeNode in self._compositeNodes():
            overlayIsGone = _isHeld(compositeNode) and compositeNode.GetForegroundVolumeID() is None
            if self._isShownIn(compositeNode) or overlayIsGone:
                _restore(compositeNode)
        self._updateLegend()

    @property
    def opacity(self) -> float:
        """Opacity of the overlay, 0 to 1, kept with the entropy node also while it is hidden."""
        return float(self._entropyNode.GetAttribute(OPACITY_ATTRIBUTE) or DEFAULT_OPACITY)

    @opacity.setter
    def opacity(self, opacity: float) -> None:
        self._entropyNode.SetAttribute(OPACITY_ATTRIBUTE, repr(float(opacity)))
        for compositeNode in self._compositeNodes():
            if self._isShownIn(compositeNode):
                compositeNode.SetForegroundOpacity(opacity)

    @property
    def threshold(self) -> float:
        """Entropy in bits below which nothing is drawn."""
        return self._entropyNode.GetScalarVolumeDisplayNode().GetLowerThreshold()

    @threshold.setter
    def threshold(self, bits: float) -> None:
        self._entropyNode.GetScalarVolumeDisplayNode().SetLowerThreshold(bits)

    def _compositeNodes(self) -> Iterator[slicer.vtkMRMLSliceCompositeNode]:
        return nodesOfClass(self._scene, "vtkMRMLSliceCompositeNode")

    def _isShownIn(self, compositeNode: slicer.vtkMRMLSliceCompositeNode) -> bool:
        return compositeNode.GetForegroundVolumeID() == self._entropyNode.GetID()

    def _updateLegend(self) -> None:
        # The legend follows layers only while a person changes them in the slice view's own controls.
        legendNode = slicer.modules.colors.logic().GetColorLegendDisplayNode(self._entropyNode)
        if legendNode is not None:
            legendNode.Modified()


def _isHeld(compositeNode: slicer.vtkMRMLSliceCompositeNode) -> bool:
    """True if an overlay is in the foreground, or was until its entropy was removed from the scene."""
    isRecorded = compositeNode.GetAttribute(HIDDEN_OPACITY_ATTRIBUTE) is not None
    return isRecorded and compositeNode.GetForegroundVolumeID() == compositeNode.GetNodeReferenceID(OVERLAY_ROLE)


def _record(compositeNode: slicer.vtkMRMLSliceCompositeNode) -> None:
    compositeNode.SetNodeReferenceID(HIDDEN_ROLE, compositeNode.GetForegroundVolumeID())
    compositeNode.SetAttribute(HIDDEN_OPACITY_ATTRIBUTE, repr(compositeNode.GetForegroundOpacity()))


def _restore(compositeNode: slicer.vtkMRMLSliceCompositeNode) -> None:
    compositeNode.SetForegroundVolumeID(compositeNode.GetNodeReferenceID(HIDDEN_ROLE))
    opacity = compositeNode.GetAttribute(HIDDEN_OPACITY_ATTRIBUTE)
    if opacity is not None:  # else a person has put the entropy there
        compositeNode.SetForegroundOpacity(float(opacity))
    compositeNode.RemoveNodeReferenceIDs(HIDDEN_ROLE)
    compositeNode.RemoveNodeReferenceIDs(OVERLAY_ROLE)
    compositeNode.RemoveAttribute(HIDDEN_OPACITY_ATTRIBUTE)
