"""The measurements of table.py: pure functions of a label map and one or two structures.

None depends on the orientation of the array. Lengths are in mm, areas in mm2, volumes in ml; of pictures in px where no
pixel size is stated. A measurement that needs a structure which is absent is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, KDTree, QhullError
from scipy.spatial.distance import pdist
from skimage import measure

from .label_map import ALL, LabelMap, Part

Labels = Collection[int]


def volume(image: LabelMap, a: Labels) -> float:
    part = image.part(a)
    voxel = float(np.prod(image.spacing[1:] if image.is_picture else image.spacing / 10))
    return 0.0 if part is None else float(part.mask.sum()) * voxel


def diameter(image: LabelMap, a: Labels) -> float:
    part = image.part(a)
    if part is None:
        return math.nan
    # Only the first and last voxel of each row can be a vertex of the convex hull.
    ends = part.mask & ~(_moved(part.mask, 1) & _moved(part.mask, -1))
    axes = [1, 2] if image.is_picture else [0, 1, 2]
    points = _hull(image.points(part, ends)[:, axes])
    half = np.diag(image.spacing[axes] / 2)
    faces = (points[:, None] + np.concatenate([half, -half])).reshape(-1, len(axes))
    return float(pdist(_hull(faces)).max())


def surface(image: LabelMap, a: Labels) -> float:
    part = image.part(a)
    if part is None:
        return math.nan
    vertices, faces, *_ = measure.marching_cubes(np.pad(part.mask, 1).astype(np.float32), 0.5, spacing=image.spacing)
    return float(measure.mesh_surface_area(vertices, faces))


def perimeter(image: LabelMap, a: Labels) -> float:
    part = image.part(a)
    if part is None:
        return math.nan
    contours = measure.find_contours(np.pad(part.mask[0], 1).astype(np.float32), 0.5)
    return float(sum(np.linalg.norm(np.diff(c * image.spacing[1:], axis=0), axis=1).sum() for c in contours))


def distance(image: LabelMap, a: Labels, b: Labels) -> float:
    one, other = image.part(a), image.part(b)
    if one is None or other is None:
        return math.nan
    if ALL in (*a, *b) or set(a) & set(b):
        return 0.0
    return float(KDTree(_surface_points(image, one)).query(_surface_points(image, other))[0].min())


def centroid_distance(image: LabelMap, a: Labels, b: Labels) -> float:
    one, other = image.part(a), image.part(b)
    if one is None or other is None:
        return math.nan
    return float(np.linalg.norm(image.points(one).mean(0) - image.points(other).mean(0)))


def ratio(image: LabelMap, a: Labels, b: Labels) -> float:
    other = volume(image, b)
    return volume(image, a) / other if other else math.nan


def width_ratio(image: LabelMap, a: Labels, b: Labels) -> float:
    one, other = image.part(a), image.part(b)
    return math.nan if one is None or other is None else _width(image, one) / _width(image, other)


def asymmetry(image: LabelMap, a: Labels) -> float:
    part, whole = image.part(a), image.part((ALL,))
    if part is None or whole is None:
        return math.nan
    left = image.axes[:, 0]
    side = np.sign(image.points(part) @ left - (image.points(whole) @ left).mean())
    return 100 * float(side.mean())


def pieces(image: LabelMap, a: Labels) -> float:
    part = image.part(a)
    return 0.0 if part is None else float(ndimage.label(part.mask, np.ones((3, 3, 3)))[1])


def exists(image: LabelMap, a: Labels) -> float:
    return float(image.part(a) is not None)


def one_piece(image: LabelMap, a: Labels) -> float:
    return float(pieces(image, a) == 1)


FUNCTIONS: dict[str, Callable[..., float]] = {
    "volume": volume,
    "area": volume,
    "diameter": diameter,
    "surface": surface,
    "perimeter": perimeter,
    "distance": distance,
    "centroid_distance": centroid_distance,
    "ratio": ratio,
    "width_ratio": width_ratio,
    "asymmetry": asymmetry,
    "pieces": pieces,
    "exists": exists,
    "one_piece": one_piece,
}
"""The function of every measurement of table.py, of a label map and one or two structures."""


def _moved(mask: np.ndarray, step: int) -> np.ndarray:
    """The mask moved by one voxel along its last axis, False at the border."""
    moved = np.zeros_like(mask)
    if step > 0:
        moved[..., 1:] = mask[..., :-1]
    else:
        moved[..., :-1] = mask[..., 1:]
    return moved


def _hull(points: np.ndarray) -> np.ndarray:
    """Vertices [m, d] of the convex hull of points [n, d]; few or degenerate points are returned as they are."""
    spread = np.ptp(points, 0) > 0
    if len(points) <= 2 * points.shape[1] or spread.sum() < 2:
        low, high = points.argmin(0), points.argmax(0)
        return points[np.unique(np.concatenate([low, high]))] if spread.sum() < 2 else points
    try:
        return points[ConvexHull(points[:, spread]).vertices]
    except QhullError:  # on a line or in a plane oblique to the axes
        return points[ConvexHull(points[:, spread], qhull_options="QJ").vertices]


def _surface_points(image: LabelMap, part: Part) -> np.ndarray:
    """Centres [n, 3] in mm of the voxels with a neighbour outside."""
    padded = np.pad(part.mask, 1)
    return image.points(part, part.mask & ~ndimage.binary_erosion(padded)[1:-1, 1:-1, 1:-1])


def _width(image: LabelMap, part: Part) -> float:
    """Extent in mm along the patient's left-right axis, from outer border to outer border."""
    left = image.axes[:, 0]
    return float(np.ptp(_surface_points(image, part) @ left) + np.abs(image.spacing * left).sum())
