"""Fetches two T1-weighted scans of one person, for repeatability: DIR/structural1.nii.gz and DIR/structural2.nii.gz.

    python Testing/benchmarks/heads.py DIR

They come with the npm package brainbrowser 2.3.0 (AGPL-3; 43 MB are downloaded): 160 x 224 x 256 voxels of 1 mm,
oblique. For measurements only: nothing is trained on them and nothing of them is in this repository.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
import SimpleITK as sitk

REGISTRY = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
PACKAGE = "/brainbrowser/-/brainbrowser-2.3.0.tgz"
SHA256 = "413393ed6228627c"
"""First 16 digits of the SHA-256 of structural1.mnc.raw.gz."""


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Fetching {REGISTRY}{PACKAGE}", flush=True)
    with urllib.request.urlopen(REGISTRY + PACKAGE) as answer:
        archive = tarfile.open(fileobj=io.BytesIO(answer.read()))
    for name in ("structural1", "structural2"):
        part = [archive.extractfile(f"package/examples/models/{name}.mnc.{end}.gz").read() for end in ("header", "raw")]
        if name == "structural1" and not hashlib.sha256(part[1]).hexdigest().startswith(SHA256):
            sys.exit("The package holds another file than these measurements were made with.")
        header, raw = (gzip.decompress(data) for data in part)
        path = folder / f"{name}.nii.gz"
        sitk.WriteImage(image(json.loads(header), raw), str(path))
        print(path)


def image(header: dict, raw: bytes) -> sitk.Image:
    """A MINC volume as BrainBrowser stores it: voxel values and, for each axis, start, step and direction (RAS)."""
    axes = [header[name] for name in header["order"]]
    size = [axis["space_length"] for axis in axes]
    values = np.frombuffer(raw, np.uint8 if len(raw) == np.prod(size) else np.uint16).reshape(size)
    to_lps = np.array([-1, -1, 1])
    cosines = [np.array(header[name]["direction_cosines"]) for name in ("xspace", "yspace", "zspace")]
    # MINC's start is counted along each axis's own direction.
    start = sum(
        header[name]["start"] * cosine for name, cosine in zip(("xspace", "yspace", "zspace"), cosines, strict=True)
    )
    found = sitk.GetImageFromArray(values.copy())  # the last axis of the file is the fastest: it becomes i
    order = axes[::-1]
    found.SetSpacing([abs(axis["step"]) for axis in order])
    columns = [np.sign(axis["step"]) * np.array(axis["direction_cosines"]) * to_lps for axis in order]
    found.SetDirection(_orthonormal(columns).ravel().tolist())
    found.SetOrigin((start * to_lps).tolist())
    return found


def _orthonormal(columns: list[np.ndarray]) -> np.ndarray:
    """The nearest rotation or reflection to columns that are rounded."""
    u, _, v = np.linalg.svd(np.stack(columns, 1))
    return u @ v


if __name__ == "__main__":
    main()
