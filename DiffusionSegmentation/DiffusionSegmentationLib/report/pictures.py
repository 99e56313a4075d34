"""Pictures of a result for a report, drawn from its voxels: no view of the application is touched. No qt."""

import itertools
from collections.abc import Iterator

import numpy as np
import slicer
import slicer.util
import vtk

from ..review.review import OUTLINE_COLOR
from ..scene import display, offscreen
from ..scene import voxel_grids as grids
from ..scene.display import VOLUME_ROLE
from ..scene.label_map import Labels
from ..scene.result_nodes import ENTROPY_ROLE

PLATE_PIXELS = 240
PLATE_MM = 110.0
"""Side of a picture of a region: enough around it to know where one is."""

PLANES = (2, 1, 0)
"""Axial, coronal, sagittal: the RAS axis that each looks along."""

SHELL_COLOR, REGION_COLOR = (0.45, 0.52, 0.6), (0.85, 0.0, 0.35)

SOLID_VOXELS = 500_000
"""Surfaces are made of every second (third, ...) voxel where there are more."""


class Plates:
    """Draws slices and surfaces of one segmentation node of ours."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Raises LookupError, one sentence, where a part of the result is gone."""
        self._labels = Labels(segmentationNode)
        self._current = self._labels.current()
        self._segmentation = segmentationNode.GetSegmentation()
        self._matrix = self._labels.ijkToRAS
        volumeNode = segmentationNode.GetNodeReference(VOLUME_ROLE)
        self._grey = self._onBlock(volumeNode)
        self._window = (0.0, 1.0)
        if volumeNode is not None and volumeNode.GetScalarVolumeDisplayNode() is not None:
            displayNode = volumeNode.GetScalarVolumeDisplayNode()
            self._window = displayNode.GetWindowLevelMin(), displayNode.GetWindowLevelMax()
        entropyNode = segmentationNode.GetNodeReference(ENTROPY_ROLE)
        self._bits = self._onBlock(entropyNode)
        shown = entropyNode.GetScalarVolumeDisplayNode() if entropyNode else None
        self._range = (shown.GetLowerThreshold(), shown.GetWindowLevelMax()) if shown else (1.0, 1.0)
        self._axes = _anatomical(self._matrix)

    def _onBlock(self, node: slicer.vtkMRMLVolumeNode | None) -> np.ndarray:
        if node is None or node.GetImageData() is None:
            return np.zeros(self._labels.shape, np.float32)
        start = grids.offset(self._matrix, grids.ijkToRAS(node))
        return grids.block(slicer.util.arrayFromVolume(node), start, self._labels.shape)

    def slices(self, ras: tuple[float, float, float], region: np.ndarray | None = None) -> np.ndarray:
        """Axial, coronal and sagittal slice through `ras` (mm), the patient's right and front at the left.

        Above the image alone, below with the entropy, the segments' outlines and that of `region`, bool [k, j, i] on
        the block of the result. Returns uint8 [row, column, RGB].
        """
        pairs = [self._slice(plane, np.array(ras), region) for plane in PLANES]
        plain, painted = (offscreen.sideBySide(row) for row in zip(*pairs, strict=True))
        bar = np.full((offscreen.GAP_PIXELS, plain.shape[1], 3), offscreen.GAP_COLOR, np.uint8)
        return np.concatenate([plain, bar, painted])

    def _slice(self, plane: int, ras: np.ndarray, region: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The pixels' voxels are the nearest to points on a square around `ras`, along the axes of the voxels."""
        across, up = [axis for axis in (0, 1, 2) if axis != plane]
        center = np.linalg.solve(self._matrix, [*ras, 1.0])[:3]
        reach = (np.arange(PLATE_PIXELS) + 0.5) / PLATE_PIXELS * PLATE_MM - PLATE_MM / 2
        index = []
        for rasAxis, steps in ((across, -reach), (up, -reach), (plane, np.zeros(1))):
            ijkAxis, sign = self._axes[rasAxis]
            spacing = np.linalg.norm(self._matrix[:3, ijkAxis])
            index.append((ijkAxis, np.rint(center[ijkAxis] + sign * steps / spacing).astype(int)))
        (column, columns), (row, rows), (depth, depths) = index
        limits = self._labels.shape[::-1]
        inside = np.outer((rows >= 0) & (rows < limits[row]), (columns >= 0) & (columns < limits[column]))
        inside &= 0 <= depths[0] < limits[depth]
        place = [None] * 3
        place[2 - row] = np.clip(rows, 0, limits[row] - 1)[:, None]
        place[2 - column] = np.clip(columns, 0, limits[column] - 1)[None, :]
        place[2 - depth] = np.clip(depths, 0, limits[depth] - 1)
        at = tuple(place)
        low, high = self._window
        unit = np.clip((self._grey[at].astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * inside
        plain = np.repeat(unit[..., None], 3, 2)
        painted = self._paint(
            plain.copy(), self._bits[at], self._current[at], inside, None if region is None else region[at]
        )
        return tuple((255 * picture).round().astype(np.uint8) for picture in (plain, painted))

    def _paint(
        self, picture: np.ndarray, bits: np.ndarray, labels: np.ndarray, inside: np.ndarray, region: np.ndarray | None
    ) -> np.ndarray:
        """Paint entropy and outlines over `picture` [row, column, RGB], in place; returns it."""
        threshold, highest = self._range
        unsure = inside & (bits >= threshold)
        colors = np.array(display.COLORS)
        level = np.clip(bits / highest, 0, 1) * (len(colors) - 1)
        below = np.minimum(level.astype(int), len(colors) - 2)
        part = (level - below)[..., None]
        overlay = colors[below] * (1 - part) + colors[below + 1] * part
        picture[unsure] = (1 - display.DEFAULT_OPACITY) * picture[unsure] + display.DEFAULT_OPACITY * overlay[unsure]
        for label, segmentID in self._labels.segmentIDs.items():
            segment = self._segmentation.GetSegment(segmentID)
            if segment is not None:
                picture[_edge((labels == label) & inside)] = segment.GetColor()
        if region is not None:
            picture[_edge(region & inside)] = OUTLINE_COLOR
        return picture

    def solidSteps(self, regions: list[np.ndarray], pixels: int = 420) -> Iterator[np.ndarray | None]:
        """What was segmented as a translucent shell around the `regions`, seen from the front and the right.

        Yields None after each surface, which takes its time, and at last the picture, uint8 [row, column, RGB].
        """
        step = max(1, round((self._current.size / SOLID_VOXELS) ** (1 / 3)))
        thin = (slice(None, None, step),) * 3
        matrix = self._matrix.copy()
        matrix[:3, :3] *= step
        renderer = vtk.vtkRenderer()
        renderer.SetBackground(1.0, 1.0, 1.0)
        shell = _add(renderer, self._current[thin] > 0, matrix, SHELL_COLOR)
        # Only its far side is drawn opaque enough to be seen: no sorting of surfaces, which takes seconds in software.
        shell.GetProperty().SetOpacity(0.3)
        shell.GetProperty().FrontfaceCullingOn()
        yield None
        for region in regions:
            _add(renderer, region[thin], matrix, REGION_COLOR)
            yield None
        camera = renderer.GetActiveCamera()
        camera.SetPosition(0.6, 1.0, 0.35)
        camera.SetFocalPoint(0.0, 0.0, 0.0)
        camera.SetViewUp(0.0, 0.0, 1.0)
        renderer.ResetCamera()
        camera.Zoom(1.5)
        yield offscreen.drawn(renderer, pixels, pixels)


def _anatomical(matrix: np.ndarray) -> dict[int, tuple[int, float]]:
    """For each RAS axis the IJK axis that runs most along it, each once, and the sign of its direction."""
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    best = max(
        itertools.permutations(range(3)), key=lambda order: sum(abs(directions[r, i]) for r, i in enumerate(order))
    )
    return {r: (i, 1.0 if directions[r, i] > 0 else -1.0) for r, i in enumerate(best)}


def _edge(mask: np.ndarray) -> np.ndarray:
    """The pixels of `mask` [row, column] that touch others."""
    padded = np.pad(mask, 1)
    whole = padded[1:-1, :-2] & padded[1:-1, 2:] & padded[:-2, 1:-1] & padded[2:, 1:-1]
    return mask & ~whole


def _add(renderer: vtk.vtkRenderer, mask: np.ndarray, matrix: np.ndarray, color: tuple[float, ...]) -> vtk.vtkActor:
    """Add the surface of `mask` [k, j, i] on the grid `matrix`."""
    image = grids.orientedImage(np.pad(mask, 1).astype(np.uint8), np.eye(4), (-1, -1, -1))
    cubes = vtk.vtkFlyingEdges3D()
    cubes.SetInputData(image)
    cubes.SetValue(0, 0.5)
    smooth = vtk.vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(cubes.GetOutputPort())
    smooth.SetPassBand(0.1)
    transform = vtk.vtkTransform()
    transform.SetMatrix(slicer.util.vtkMatrixFromArray(matrix))
    place = vtk.vtkTransformPolyDataFilter()
    place.SetInputConnection(smooth.GetOutputPort())
    place.SetTransform(transform)
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(place.GetOutputPort())
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputConnection(normals.GetOutputPort())
    mapper.ScalarVisibilityOff()
    mapper.Update()  # now, not all of them when the picture is drawn
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*color)
    renderer.AddActor(actor)
    return actor
