"""A small cohort: results of masks, with the index that the command writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from diffusion_segmentation.masks.import_masks import ImportRequest, import_masks

FAILED = "The volume has no voxel spacing; give it with --spacing."


def write_cohort(folder: Path, spreads: dict[str, float], failed: tuple[str, ...] = ()) -> Path:
    """Write a cohort of balls, by the name of each case the spread (mm) of the radii of its five masks."""
    cases = [write_case(folder, name, spread, n) for n, (name, spread) in enumerate(spreads.items())]
    cases += [
        {"key": None, "case": name, "inputs": ["/nowhere"], "model": "m", "state": "failed", "error": FAILED}
        for name in failed
    ]
    write_index(folder, cases)
    return folder


def write_index(folder: Path, cases: list[dict]) -> None:
    (folder / "cohort.json").write_text(json.dumps({"version": 1, "cases": cases}), encoding="utf-8")


def write_case(folder: Path, name: str, spread: float, seed: int) -> dict:
    """Write the result of a case and its volume; returns its entry in the index."""
    key, files = f"key{seed}", folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    distance = np.linalg.norm(np.mgrid[:20, :24, :24].astype(float).T - (10, 12, 12), axis=-1).T
    volume, masks = files / f"volume{seed}.nrrd", []
    sitk.WriteImage(_image((100 * (distance < 7) + rng.normal(0, 5, distance.shape)).astype(np.float32)), str(volume))
    for n, shift in enumerate((-2, -1, 0, 1, 2)):
        masks.append(files / f"mask{seed}-{n}.nrrd")
        labels = (distance < 7 + spread * shift).astype(np.uint8) + (distance < 3).astype(np.uint8)
        sitk.WriteImage(_image(labels), str(masks[-1]))
    result = folder / "cases" / key
    import_masks(ImportRequest(volume, result, tuple(masks), keep_samples=True))
    return {"key": key, "case": name, "inputs": [str(volume)], "model": "m", "state": "done", "error": None}


def set_report(folder: Path, key: str, **changes: object) -> None:
    """Change entries of a result's report; those of `input` are merged."""
    path = folder / "cases" / key / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    report["input"] |= changes.pop("input", {})  # type: ignore[arg-type]
    path.write_text(json.dumps(report | changes), encoding="utf-8")


def _image(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 3.0))
    image.SetOrigin((5.0, -7.0, 3.0))
    image.SetDirection((0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    return image
