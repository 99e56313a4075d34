"""Accuracy compared with values computed by hand, and classes missing from one map or from both."""

import math

import monai.metrics  # noqa: F401 (slow to import: here, so that no test pays for it)
import numpy as np
import pytest

from diffusion_segmentation.metrics import dice, hd95, lesion_f1, nsd, within

SCORES = {
    "dice": lambda a, b: dice(a, b, 2),
    "hd95": lambda a, b: hd95(a, b, 2, (1.0,) * a.ndim),
    "nsd": lambda a, b: nsd(a, b, 2, (1.0,) * a.ndim, 1.0),
    "lesions": lambda a, b: lesion_f1(a, b, 2),
}


def grid(shape: tuple[int, ...], *boxes: tuple) -> np.ndarray:
    """Labels with 1 in the boxes, each a tuple of slices."""
    mask = np.zeros(shape, np.uint8)
    for box in boxes:
        mask[box] = 1
    return mask


def test_dice_by_hand_and_empty_equals_empty():
    a, b = np.array([0, 1, 1, 2, 0], np.uint8), np.array([0, 1, 2, 2, 1], np.uint8)
    np.testing.assert_allclose(dice(a, b, 4), [2 / 3, 2 / 4, 2 / 3, 1.0])


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_other_grids_are_refused(score):
    with pytest.raises(ValueError, match="grids"):
        score(np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.uint8))


@pytest.mark.parametrize("score", [lambda a, s: hd95(a, a, 2, s), lambda a, s: nsd(a, a, 2, s, 1.0)])
def test_spacing_of_other_dimension_is_refused(score):
    with pytest.raises(ValueError, match="3 axes and the spacing 2"):
        score(np.zeros((3, 3, 3), np.uint8), (1.0, 1.0))


def test_hd95_counts_millimetres_of_the_axis():
    a, b = grid((9, 9, 9), (1, 4, 4)), grid((9, 9, 9), (4, 4, 4))
    np.testing.assert_allclose(hd95(a, b, 2, (2.0, 1.0, 0.5)), [6.0])


def test_hd95_is_the_larger_directed_percentile():
    """9 voxels in common and one 20 mm off: 0.55 of the last gap, where both directions pooled would give 0.1."""
    a = grid((40, 40), (slice(5, 14), 20))
    b = grid((40, 40), (slice(5, 14), 20), (33, 20))
    np.testing.assert_allclose(hd95(a, b, 2, (1.0, 1.0)), [0.55 * 20], rtol=1e-6)
    np.testing.assert_allclose(hd95(b, a, 2, (1.0, 1.0)), [0.55 * 20], rtol=1e-6)


def test_classes_are_taken_one_by_one():
    a, b = np.zeros((2, 12, 12), np.uint8)
    a[2:5, 2:5], b[2:5, 2:5] = 1, 1
    a[8:10, 2:4], b[8:10, 6:8] = 3, 3
    b[11, 11] = 2
    np.testing.assert_allclose(hd95(a, b, 4, (1.0, 1.0)), [0.0, math.hypot(12, 12), 4.0])
    np.testing.assert_allclose(nsd(a, b, 4, (1.0, 1.0), 1.0), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(lesion_f1(a, b, 4), [1.0, 0.0, 0.0])


@pytest.mark.parametrize("dims", [2, 3])
def test_empty_classes_have_a_score(dims):
    shape, spacing = (6, 8, 4)[:dims], (1.0, 2.0, 3.0)[:dims]
    empty, full = np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
    diagonal = math.hypot(6, 16, *[12][: dims - 2])
    for a, b in ((empty, full), (full, empty)):
        np.testing.assert_allclose(hd95(a, b, 2, spacing), [diagonal])
        np.testing.assert_array_equal(nsd(a, b, 2, spacing, 99.0), [0.0])
        np.testing.assert_array_equal(lesion_f1(a, b, 2), [0.0])
    for same in (empty, full):
        np.testing.assert_array_equal(hd95(same, same, 2, spacing), [0.0])
        np.testing.assert_array_equal(nsd(same, same, 2, spacing, 0.0), [1.0])
        np.testing.assert_array_equal(lesion_f1(same, same, 2), [1.0])


@pytest.mark.parametrize("slices_mm", [1.0, 2.5])
def test_nsd_is_a_share_of_area_whatever_the_voxels(slices_mm):
    """A cube of 40 mm, moved by 2 mm, tolerance 0.5 mm.

    Of either surface of 9600 mm2 two faces miss, and 1.5 mm of the four sides: 2 * 1600 + 1.5 * 160 = 3440; but for a
    frame of half a millimetre in one face, 80, which lies near the other's sides.
    """
    depth = round(40 / slices_mm)
    shape = depth + 4, 46, 46
    a = grid(shape, (slice(2, 2 + depth), slice(2, 42), slice(2, 42)))
    b = grid(shape, (slice(2, 2 + depth), slice(4, 44), slice(2, 42)))
    assert nsd(a, b, 2, (slices_mm, 1, 1), 0.5)[0] == pytest.approx(1 - 3360 / 9600, abs=0.02)
    assert nsd(a, b, 2, (slices_mm, 1, 1), 2.0)[0] == pytest.approx(1.0)


def test_lesions_are_found_by_a_voxel_and_joined_by_a_corner():
    reference = grid((12, 12), (slice(0, 3), slice(0, 3)), (6, 6), (7, 7), (11, 0))
    prediction = grid((12, 12), (slice(2, 5), slice(2, 5)), (6, 6), (0, 11), (2, 11))
    # Found: the square by one voxel, and the pair that touches by a corner; missed: one; false: two.
    np.testing.assert_allclose(lesion_f1(prediction, reference, 2), [4 / (4 + 1 + 2)])


def test_one_prediction_over_two_lesions_finds_both():
    reference = grid((1, 9), (0, 1), (0, 7))
    np.testing.assert_allclose(lesion_f1(np.ones((1, 9), np.uint8), reference, 2), [1.0])


def test_within_counts_millimetres():
    mask = np.zeros((1, 1, 9), bool)
    mask[..., 4] = True
    assert within(mask, 4.0, (1, 1, 2.0)).sum() == 5


def test_voxels_that_meet_at_a_corner_are_one_lesion_on_either_side():
    chain = np.eye(4, dtype=np.uint8)
    blob, empty = np.zeros((2, 4, 4), np.uint8)
    blob[0, 0] = 1
    # One lesion found, none missed, none false: parts of a chain would be false, or missed.
    np.testing.assert_array_equal(lesion_f1(chain, blob, 2), [1.0])
    np.testing.assert_array_equal(lesion_f1(blob, chain, 2), [1.0])
    np.testing.assert_array_equal(lesion_f1(empty, chain, 2), [0.0])
