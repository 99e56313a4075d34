"""Converts SAMSEG's probabilistic head atlas to arrays; run once, in a separate environment.

    python atlas.py priors.npz

The wheel `samseg` 0.4a0 (MIT) contains a tetrahedral atlas of 20 subjects with 44 structures (Puonti et al., "Fast and
sequence-adaptive whole-brain segmentation using parametric Bayesian modeling", NeuroImage 2016). It needs numpy < 2 and
Python 3.11 or older, hence the separate environment, which `Testing/run.py` creates; this file imports nothing of the
package.

Written: `priors` uint8 [tissues, z, y, x] (255 = 1; z to S, y to P, x to L; 1 mm), `tissues` their names in nesting
order (see `priors`), `classes` the label of each tissue in the segmentation (0 = background).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TISSUES: dict[str, tuple[tuple[int, ...], int]] = {
    "air": ((0,), 0),
    "soft tissue": ((258,), 0),
    "eye fluid": ((259,), 0),
    "skull": ((165,), 0),
    "optic chiasm": ((85,), 0),
    "csf": ((24,), 1),
    "cerebellar cortex": ((8, 47), 6),
    "cerebral cortex": ((3, 42), 3),
    "hippocampus and amygdala": ((17, 18, 53, 54), 5),
    "cerebellar white matter": ((7, 46), 6),
    "vessel": ((30, 62), 4),
    "cerebral white matter": ((2, 41, 77, 80), 4),
    "brainstem": ((16,), 7),
    "ventral diencephalon": ((28, 60), 5),
    "pallidum": ((13, 52), 5),
    "putamen": ((12, 51), 5),
    "thalamus": ((10, 49), 5),
    "caudate and accumbens": ((11, 50, 26, 58), 5),
    "choroid plexus": ((31, 63), 2),
    "ventricles": ((4, 43, 5, 44, 14, 15, 72), 2),
}
"""Tissue -> (FreeSurfer label numbers, class label), nested inwards: tissues that touch are close in the order, so that
a boundary drawn from one field moves like a surface."""
SHAPE_LAS = (181, 217, 181)  # 1 mm; x to L, y to A, z to S, as the atlas's template has them


def main(output: Path) -> None:
    import samseg
    from samseg import gems

    folder = Path(samseg.__file__).parent / "atlas" / "20Subjects_smoothing2_down2_smoothingForAffine2"
    table = (line.split() for line in (folder / "compressionLookupTable.txt").read_text().splitlines() if line.strip())
    number = {int(label): int(structure) for label, structure, *_ in table}  # of the atlas, by FreeSurfer's label
    collection = gems.KvlMeshCollection()
    collection.read(str(folder / "atlas_level2.txt.gz"))
    raster = collection.reference_mesh.rasterize(SHAPE_LAS, -1)  # uint16 [x, y, z, structure], 65535 = 1
    merged = [
        raster[..., [number[label] for label in labels]].sum(-1, dtype=np.uint32) for labels, _ in TISSUES.values()
    ]
    uncovered = 65535 - np.minimum(np.sum(merged, axis=0), 65535)
    merged[0] = merged[0] + uncovered  # air where the mesh does not cover
    priors = np.stack([np.round(np.minimum(m, 65535) / 257).astype(np.uint8) for m in merged])
    np.savez_compressed(
        output,
        # From [tissue, x to L, y to A, z to S] to [tissue, z to S, y to P, x to L].
        priors=np.ascontiguousarray(priors.transpose(0, 3, 2, 1)[:, :, ::-1]),
        tissues=np.array(list(TISSUES)),
        classes=np.array([c for _, c in TISSUES.values()], dtype=np.uint8),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
