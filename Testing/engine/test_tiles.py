"""Windows cover a volume, overlap where there are several, and blend without seams."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from diffusion_segmentation.segmentation.tiling import Tiling


def test_a_head_is_one_window():
    tiling = Tiling((92, 109, 91), (128, 128, 128), 16)
    assert tiling.padded == (96, 112, 96) and len(tiling.windows) == 1


@pytest.mark.parametrize("shape", [(200, 64, 33), (130, 131, 250), (2, 129, 7)])
def test_every_cell_is_covered_and_windows_overlap_by_a_quarter(shape):
    tiling = Tiling(shape, (64, 64, 64), 16)
    seen = np.zeros(tiling.cells, int)
    for window in tiling.windows:
        seen[window] += 1
    assert seen.min() >= 1
    assert all(p >= n and p % 2 == 0 for p, n in zip(tiling.padded, shape, strict=True))
    starts = sorted({window[0].start for window in tiling.windows})
    size = tiling.windows[0][0].stop - tiling.windows[0][0].start
    assert all(b - a <= 0.75 * size for a, b in pairwise(starts))


@pytest.mark.parametrize(
    ("shape", "window"), [((100, 70, 33), (64, 32, 32)), ((150, 17), (32, 16)), ((9, 9), (16, 16))]
)
def test_windows_and_weights_are_those_of_monai(shape, window):
    from monai.data.utils import compute_importance_map, dense_patch_slices

    tiling = Tiling(shape, window, 8)
    cells = tuple(s.stop - s.start for s in tiling.windows[0])
    assert tiling.windows == dense_patch_slices(tiling.cells, cells, [int(0.75 * n) for n in cells])
    weight = compute_importance_map(cells, mode="gaussian", sigma_scale=0.25).clamp_min(1e-3)
    torch.testing.assert_close(tiling._weight, weight, rtol=1e-6, atol=0)


def test_a_run_does_not_wait_for_packages_of_training():
    """Their imports take long: that of MONAI longer than that of PyTorch."""
    code = "import sys, diffusion_segmentation.any_model; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "torch" in loaded and not loaded & {"monai", "lightning", "matplotlib", "pandas", "scipy.stats"}


def test_blending_equal_answers_changes_nothing():
    tiling = Tiling((40, 100, 36), (32, 32, 32), 16)
    truth = torch.randn(2, 5, *tiling.cells)
    blended = tiling.blend([truth[(..., *window)] for window in tiling.windows])
    torch.testing.assert_close(blended, truth)


def test_blending_moves_gradually_from_one_window_to_the_next():
    tiling = Tiling((16, 56, 16), (16, 32, 16), 16)
    answers = [torch.full((1, 1, 8, 16, 8), float(n)) for n in range(len(tiling.windows))]
    profile = tiling.blend(answers)[0, 0, 4, :, 4]
    assert profile[0] == 0 and profile[-1] == len(answers) - 1
    assert (profile.diff() >= -1e-6).all() and profile.diff().max() < 0.7


def test_padding_and_cropping_are_inverse():
    tiling = Tiling((9, 17, 30), (64, 64, 64), 16)
    image = np.random.default_rng(0).random((9, 17, 30), dtype=np.float32)
    np.testing.assert_array_equal(tiling.crop(torch.from_numpy(tiling.pad(image))).numpy(), image)
