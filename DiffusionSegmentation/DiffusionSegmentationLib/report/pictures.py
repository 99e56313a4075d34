"""Pictures for the report, drawn from the voxels without changing the views of the application."""

import itertools
from collections.abc import Iterator

import numpy as np
import slicer.util
import vtk

from ..review.review import OUTLINE_COLOR
from ..scene import display, offscreen, voxel_grids
from ..scene.display import VOLUME_ROLE
from ..scene.label_map import Labels
from ..scene.result_nodes import ENTROPY_ROLE

SLICE_PIXELS = 240
SLICE_MM = 110.0
"""Side of a slice picture: large enough to recognize the anatomy."""
PICTURE_PIXELS = 360
"""Width of a picture that has been segmented, of which the report shows the whole."""

PLANES = (2, 1, 0)
"""RAS axes of the normals of the axial, coronal and sagittal plane."""

SHELL_COLOR, REGION_COLOR = (0.45, 0.52, 0.6), (0.85, 0.0, 0.35)

SURFACE_VOXELS = 500_000
"""Surfaces of label maps with more voxels are made from every second (third, ...) voxel."""


class RegionPictures:
    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Raises LookupError, one sentence, if a part of the result was removed."""
        self._labels = Labels(segmentationNode)
        self._current = self._labels.current()
        self._segmentation = segmentationNode.GetSegmentation()
        self._matrix = self._labels.ijkToRAS
        self._axes = _anatomicalAxes(self._matrix)
        volumeNode = segmentationNode.GetNodeReference(VOLUME_ROLE)
        self._image = self._onBlock(volumeNode)
        volumeDisplay = volumeNode.GetScalarVolumeDisplayNode() if volumeNode else None
        limits = volumeDisplay and (volumeDisplay.GetWindowLevelMin(), volumeDisplay.GetWindowLevelMax())
        self._window = limits or (0.0, 1.0)  # of colors, too
        entropyNode = segmentationNode.GetNodeReference(ENTROPY_ROLE)
        self._bits = self._onBlock(entropyNode)
        entropyDisplay = entropyNode.GetScalarVolumeDisplayNode() if entropyNode else None
        self._threshold = entropyDisplay.GetLowerThreshold() if entropyDisplay else 1.0
        self._maximumBits = entropyDisplay.GetWindowLevelMax() if entropyDisplay else 1.0

    def _onBlock(self, node: slicer.vtkMRMLVolumeNode | None) -> np.ndarray:
        """A volume on the block of the result, [k, j, i] or colors [k, j, i, value]; zeros if there is no volume."""
        if node is None or node.GetImageData() is None:
            return np.zeros(self._labels.shape, np.float32)
        start = voxel_grids.offset(self._matrix, voxel_grids.ijkToRAS(node))
        return voxel_grids.block(slicer.util.arrayFromVolume(node), start, self._labels.shape)

    def slices(self, ras: tuple[float, float, float], region: np.ndarray | None = None) -> np.ndarray:
        """Axial, coronal and sagittal slice through `ras` (mm), the patient's right and front at the left.

        Top row: image only. Bottom row: with entropy, outlines of the segments and of `region`, bool [k, j, i] on the
        block of the result. Of a picture, the whole without and with these beside each other.
        Returns uint8 [row, column, RGB].
        """
        if self._labels.unit.isArea:
            size = np.array(self._labels.shape[::-1])
            spacing = np.linalg.norm(self._matrix[:3, :3], axis=0)
            center = self._matrix @ [*(size - 1) / 2, 1.0]
            plane = next(axis for axis, (ijkAxis, _sign) in self._axes.items() if ijkAxis == 2)
            pair = self._slice(plane, center[:3], region, PICTURE_PIXELS, float((size * spacing)[:2].max()))
            return offscreen.joined(pair, axis=1)
        pairs = [self._slice(plane, np.array(ras), region) for plane in PLANES]
        return offscreen.joined((offscreen.joined(row, axis=1) for row in zip(*pairs, strict=True)), axis=0)

    def _slice(
        self,
        plane: int,
        ras: np.ndarray,
        region: np.ndarray | None,
        pixels: int = SLICE_PIXELS,
        sideMm: float = SLICE_MM,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image without and with overlay; nearest-neighbor sampling along the voxel axes closest to the plane."""
        center = np.linalg.solve(self._matrix, [*ras, 1.0])[:3]
        offsets = sideMm / 2 - (np.arange(pixels) + 0.5) / pixels * sideMm
        across, up = [axis for axis in (0, 1, 2) if axis != plane]
        index = [None] * 3  # [k, j, i], to broadcast to [row, column]
        inside = np.ones((pixels, pixels), bool)
        for rasAxis, mm in ((across, offsets[None, :]), (up, offsets[:, None]), (plane, np.zeros((1, 1)))):
            ijkAxis, sign = self._axes[rasAxis]
            spacing = np.linalg.norm(self._matrix[:3, ijkAxis])
            voxels = np.rint(center[ijkAxis] + sign * mm / spacing).astype(int)
            size = self._labels.shape[2 - ijkAxis]
            inside &= (voxels >= 0) & (voxels < size)
            index[2 - ijkAxis] = np.clip(voxels, 0, size - 1)
        at = tuple(index)
        plain = self._colorsAt(at) * inside[..., None]
        painted = plain.copy()
        uncertain = inside & (self._bits[at] >= self._threshold)
        colors = _colors(self._bits[at][uncertain] / self._maximumBits)
        painted[uncertain] = (1 - display.DEFAULT_OPACITY) * painted[uncertain] + display.DEFAULT_OPACITY * colors
        for label, segmentID in self._labels.segmentIDs.items():
            segment = self._segmentation.GetSegment(segmentID)
            if segment is not None:
                painted[_edge((self._current[at] == label) & inside)] = segment.GetColor()
        if region is not None:
            painted[_edge(region[at] & inside)] = OUTLINE_COLOR
        return tuple((255 * picture).round().astype(np.uint8) for picture in (plain, painted))

    def _colorsAt(self, at: tuple[np.ndarray, ...]) -> np.ndarray:
        """The image as displayed, RGB from 0 to 1 [row, column, RGB]."""
        values = self._image[at].astype(np.float32)
        values = values if values.ndim == 3 else values[..., None]
        values = values[..., :3] if values.shape[2] >= 3 else np.repeat(values[..., :1], 3, 2)
        low, high = self._window
        return np.clip((values - low) / max(high - low, 1e-6), 0, 1)

    def surfaceSteps(self, regions: list[np.ndarray], pixels: int = 420) -> Iterator[np.ndarray | None]:
        """The segmentation as a translucent shell around the `regions`, seen from the front right.

        Yields None after each (slow) surface, then the picture, uint8 [row, column, RGB].
        """
        step = max(1, round((self._current.size / SURFACE_VOXELS) ** (1 / 3)))
        thin = (slice(None, None, step),) * 3
        matrix = self._matrix @ np.diag([step, step, step, 1])
        renderer = vtk.vtkRenderer()
        renderer.SetBackground(1.0, 1.0, 1.0)
        shell = _addSurface(renderer, self._current[thin] > 0, matrix, SHELL_COLOR)
        # Only the far side is drawn: sorting translucent surfaces takes seconds in software rendering.
        shell.GetProperty().SetOpacity(0.3)
        shell.GetProperty().FrontfaceCullingOn()
        yield None
        for region in regions:
            _addSurface(renderer, region[thin], matrix, REGION_COLOR)
            yield None
        camera = renderer.GetActiveCamera()
        camera.SetPosition(0.6, 1.0, 0.35)
        camera.SetFocalPoint(0.0, 0.0, 0.0)
        camera.SetViewUp(0.0, 0.0, 1.0)
        renderer.ResetCamera()
        camera.Zoom(1.5)
        yield offscreen.renderPicture(renderer, pixels, pixels)


def _colors(levels: np.ndarray) -> np.ndarray:
    """The overlay's RGB colors [n, 3] for `levels` [n] between 0 and 1."""
    steps = np.linspace(0, 1, len(display.COLORS))
    return np.stack([np.interp(levels, steps, channel) for channel in zip(*display.COLORS, strict=True)], -1)


def _anatomicalAxes(matrix: np.ndarray) -> dict[int, tuple[int, float]]:
    """The IJK axis closest to each RAS axis, each used once, and the sign of its direction."""
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    best = max(itertools.permutations(range(3)), key=lambda order: np.abs(directions[range(3), order]).sum())
    return {r: (i, 1.0 if directions[r, i] > 0 else -1.0) for r, i in enumerate(best)}


def _edge(mask: np.ndarray) -> np.ndarray:
    """The pixels of `mask` [row, column] with a 4-neighbor outside."""
    padded = np.pad(mask, 1)
    return mask & ~(padded[1:-1, :-2] & padded[1:-1, 2:] & padded[:-2, 1:-1] & padded[2:, 1:-1])


def _addSurface(
    renderer: vtk.vtkRenderer, mask: np.ndarray, matrix: np.ndarray, color: tuple[float, ...]
) -> vtk.vtkActor:
    """Add the smoothed surface of `mask` [k, j, i] on the grid `matrix` (4 x 4 IJK to RAS)."""
    image = voxel_grids.orientedImage(np.pad(mask, 1).astype(np.uint8), np.eye(4), (-1, -1, -1))
    cubes = vtk.vtkFlyingEdges3D()
    cubes.SetInputData(image)
    cubes.SetValue(0, 0.5)
    smooth = vtk.vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(cubes.GetOutputPort())
    smooth.SetPassBand(0.1)
    transform = vtk.vtkTransform()
    transform.SetMatrix(slicer.util.vtkMatrixFromArray(matrix))
    transformed = vtk.vtkTransformPolyDataFilter()
    transformed.SetInputConnection(smooth.GetOutputPort())
    transformed.SetTransform(transform)
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(transformed.GetOutputPort())
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputConnection(normals.GetOutputPort())
    mapper.ScalarVisibilityOff()
    mapper.Update()  # one surface per step, not all when the picture is rendered
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*color)
    renderer.AddActor(actor)
    return actor
