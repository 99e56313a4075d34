"""The phantom `lesions`: couplings, what the image determines, and counts of chimeras."""

import numpy as np
import pytest

from diffusion_segmentation.phantoms.lesions import (
    ORGAN,
    PROBABILITIES,
    TEXTURE,
    Lesions,
    combinations,
    random_groups,
    stripes,
)
from diffusion_segmentation.phantoms.shapes import checkerboard


@pytest.fixture(scope="module", params=[(32, 32), (24, 24, 24)])
def cases(request):
    rng = np.random.default_rng(11)
    return [Lesions(request.param).draw(rng) for _ in range(20)]


def presence(case, masks):
    """Presence of each candidate [masks, k], read from one voxel of each."""
    flat = case.candidates.reshape(len(case.candidates), -1)
    return masks.reshape(len(masks), -1)[:, flat.argmax(1)] > 0


def test_candidates_are_apart_and_up_to_eight(cases):
    counts = [len(case.candidates) for case in cases]
    assert min(counts) >= 3 and 6 <= max(counts) <= 8
    for case in cases:
        assert case.candidates.sum(0).max() == 1 and case.candidates.reshape(len(case.candidates), -1).sum(1).min() > 6


def test_couplings_hold_in_every_mask(cases):
    kinds = set()
    for case in cases:
        masks, weights = case.support()
        there = presence(case, masks)
        np.testing.assert_allclose(weights @ there, case.chances, atol=1e-12)
        for kind, members in case.groups:
            kinds.add(kind)
            count = there[:, list(members)].sum(1)
            if kind == "equal":
                assert set(count) == {0, 2}
            elif kind == "exactly one":
                assert set(count) == {1} and sum(case.chances[list(members)]) == pytest.approx(1)
        assert sorted(k for _, members in case.groups for k in members) == list(range(len(case.candidates)))
    assert kinds == {"free", "equal", "exactly one"}


def test_groups_are_independent_of_each_other():
    groups = (("equal", (0, 2)), ("exactly one", (1, 4)), ("free", (3,)))
    present, weights = combinations(groups, np.array([0.2, 0.7, 0.2, 0.5, 0.3]))
    assert len(present) == 8
    law = {tuple(row): weight for row, weight in zip(present.tolist(), weights, strict=True)}
    assert law[1, 1, 1, 0, 0] == pytest.approx(0.2 * 0.7 * 0.5)
    assert law[0, 0, 0, 1, 1] == pytest.approx(0.8 * 0.3 * 0.5)


def test_groups_fit_any_number_of_candidates():
    rng = np.random.default_rng(0)
    for k in [1, 2, 3, 8] * 10:
        groups, chances = random_groups(rng, k)
        assert sorted(c for _, members in groups for c in members) == list(range(k))
        assert np.isclose(chances[:, None], PROBABILITIES).any(1).all()
        assert len(combinations(groups, chances)[1]) <= 2**k


def test_the_image_alone_determines_the_joint_law(cases):
    """A reader that averages: sign gives the class, contrast the probability, texture the group."""
    for case in cases:
        groups = {}
        for k, candidate in enumerate(case.candidates):
            values = case.image[candidate].astype(float) - ORGAN
            patterns = {
                "equal": checkerboard(candidate.shape)[candidate],
                "exactly one": stripes(candidate.shape)[candidate],
            }
            # Contrast and textures at once, because a small candidate holds not quite as many +1 as -1.
            design = np.stack([np.ones(len(values)), *patterns.values()], axis=1)
            contrast, *textures = np.linalg.lstsq(design, values, rcond=None)[0]
            assert case.labels[k] == (1 if contrast > 0 else 2)
            levels = np.array(PROBABILITIES)
            assert levels[np.abs((abs(contrast) - 0.1) / 0.5 - levels).argmin()] == pytest.approx(case.chances[k])
            marked = [kind for kind, texture in zip(patterns, textures, strict=True) if texture > TEXTURE / 2]
            groups.setdefault(marked[0] if marked else "free", []).append(k)
        members_by_kind = {kind: sorted(members) for kind, members in case.groups if kind != "free"}
        assert {kind: members for kind, members in groups.items() if kind != "free"} == members_by_kind


def test_exact_samples_hold_no_chimeras_and_no_strays(cases):
    rng = np.random.default_rng(0)
    for case in cases:
        samples = case.sample(rng, 16)
        assert case.chimeras(samples) == 0 and case.strays(samples) == 0


def test_voxels_drawn_one_by_one_are_chimeras(cases):
    rng = np.random.default_rng(0)
    shares = []
    for case in cases:
        below = np.cumsum(case.marginals, axis=0)
        pixels = np.stack([(rng.random(case.image.shape) > below).sum(0) for _ in range(8)]).astype(np.uint8)
        shares.append(case.chimeras(pixels))
    assert np.mean(shares) > 0.6


def test_half_a_lesion_is_one_chimera(cases):
    for case in cases:
        whole = np.tensordot(case.labels, case.candidates, 1).astype(np.uint8)
        inside = np.flatnonzero(case.candidates[0])
        half = whole.copy()
        half.flat[inside[: len(inside) // 2]] = 0
        assert case.chimeras(np.stack([whole, half])) == pytest.approx(1 / (2 * len(case.candidates)))
        assert case.strays(np.stack([whole, half])) == 0


def test_strays_are_counted_in_voxels_a_mask(cases):
    case = cases[0]
    empty, wrong = np.zeros((2, *case.image.shape), np.uint8)
    outside = np.flatnonzero(~case.candidates.any(0))
    wrong.flat[outside[:5]] = 1
    assert case.strays(np.stack([empty, wrong])) == 2.5
    # A lesion of the other class lies where that class is impossible, and is no half of a lesion.
    other = (case.candidates[0] * (3 - case.labels[0])).astype(np.uint8)
    assert case.strays(other[None]) == case.candidates[0].sum() and case.chimeras(other[None]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64, 64), (128, 64), (64, 64, 64)])
def test_radii_grow_with_the_shortest_edge(shape):
    """The sizes that a grid of half the edge has, in units of its voxels, and up to an edge of 32 the same."""

    def radii(shape):
        rng, axes = np.random.default_rng(2), len(shape)
        sizes = np.concatenate(
            [Lesions(shape).draw(rng).candidates.reshape(-1, np.prod(shape)).sum(1) for _ in range(20)]
        )
        return (sizes / (np.pi if axes == 2 else 4 / 3 * np.pi)) ** (1 / axes)

    radius, small = radii(shape), radii((32,) * len(shape))
    assert 4.0 - 0.3 < radius.min() and radius.max() < 7.6 + 0.3
    assert np.median(radius) == pytest.approx(2 * np.median(small), rel=0.06)
    assert np.median(small) == pytest.approx(np.median(radii((24,) * len(shape))), rel=0.06)


def test_small_grid_holds_at_least_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert len(Lesions((16, 16)).draw(rng).candidates) >= 1
