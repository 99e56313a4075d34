"""Checks of the geometry that the header of a volume states: orthogonal axes, a position, and no contradiction."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..errors import GeometryError
from .headers import VolumeHeader

MAX_ORIGIN_MM = 1e6  # 1 km; a first voxel farther from the origin indicates a damaged header
MIN_DETERMINANT = 0.999  # minimum determinant of the unit axes; below it they are not orthogonal
Spacing = tuple[float, float, float]  # voxel size along i, j and k, mm


def check_geometry(
    direction: np.ndarray, origin: Spacing, size: Spacing, spacing: Spacing, header: VolumeHeader, name: str
) -> str:
    """Raise GeometryError unless the axes are orthogonal and the affine is one of the header's.

    Returns the end of a warning where the header has two different affines and ITK uses one of them, else "".
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    if not np.isfinite(affine).all():
        raise GeometryError(f"{name} does not state its position; correct its origin, spacing and directions.")
    if np.abs(origin).max() > MAX_ORIGIN_MM:
        raise GeometryError(f"{name} lies more than a kilometre from the origin of its coordinates; correct that.")
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.matrix_rank(direction) < 3 or not steps.all():
        raise GeometryError(f"{name} has axes of zero length or in one plane; correct its spacing and directions.")
    if _sheared(affine):
        raise GeometryError(f"{name} has axes that are not at right angles; resample it onto a rectangular grid.")
    corners = np.array([(*corner, 1) for corner in itertools.product(*[(0, n - 1) for n in size])]).T
    distances = {key: np.abs((other - affine) @ corners).max() for key, other in header.affines.items()}
    agrees = {key: bool(distance <= steps.min() / 2) for key, distance in distances.items()}  # False for NaN
    if agrees and not any(agrees.values()):
        raise GeometryError(f"{name} has contradictory positions in its header; export it again.")
    if all(agrees.values()):
        return ""
    used, other = sorted(agrees, key=agrees.__getitem__, reverse=True)
    if not np.isfinite(distances[other]):
        return ""
    rotation = np.linalg.inv(header.affines[used][:3, :3]) @ header.affines[other][:3, :3]
    angle = math.degrees(math.acos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
    sheared = ", which is sheared," if _sheared(header.affines[other]) else ""
    return (
        f"has two positions in its header, {angle:.0f} degrees and up to {distances[other]:.0f} mm apart; its {used} "
        f"was used and its {other}{sheared} was ignored"
    )


def _sheared(affine: np.ndarray) -> bool:
    """Whether the axes of an affine, 4 x 4, are not orthogonal."""
    return bool(abs(np.linalg.det(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))) < MIN_DETERMINANT)
