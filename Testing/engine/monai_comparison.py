"""Comparison of installed MONAI bundles with MONAI's own parser, transforms and inferer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from diffusion_segmentation.monai_bundle.model import read_model
from diffusion_segmentation.monai_bundle.prediction import Prediction
from diffusion_segmentation.segmentation.run_control import RunControl

TURNED = (0.8, -0.6, 0, 0, 0, -1, 0.6, 0.8, 0)
"""Oblique directions whose axes are not in the order of the patient's."""
CROP = {"_target_": "CropForegroundd", "source_key": "image", "margin": 1}
NORMALISED = {"_target_": "NormalizeIntensityd", "nonzero": True, "channel_wise": True}


def write_ball(path: Path, seed: int = 0) -> Path:
    """Write a ball in zeros: anisotropic, oblique, 26 x 40 x 18 voxels, with noise."""
    k, j, i = np.ogrid[:18, :40, :26]
    radius = np.sqrt(((k - 8) / 8) ** 2 + ((j - 20) / 15) ** 2 + ((i - 12) / 11) ** 2)
    noise = np.random.default_rng(seed).standard_normal((18, 40, 26))
    image = sitk.GetImageFromArray(((60 + 10 * noise + 40 * (radius < 0.4)) * (radius < 1)).astype(np.float32))
    image.SetSpacing((1.7, 2.0, 5.0))
    image.SetOrigin((-30.0, 11.0, 4.0))
    image.SetDirection(TURNED)
    sitk.WriteImage(image, str(path))
    return path


def monai_result(bundle: Path, *volumes: Path) -> tuple[MetaTensor, torch.Tensor, np.ndarray]:
    """The preprocessed volume, logits and labels [k, j, i] of MONAI's own parser, transforms and inferer."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs/inference.json")
    before = parser.get_parsed_content("preprocessing")
    # Without the last one, SaveImaged, which needs a package that writes files.
    after = [parser.get_parsed_content(f"postprocessing::transforms::{n}") for n in range(3)]
    data = before({"image": str(volumes[0]) if len(volumes) == 1 else [*map(str, volumes)]})
    model = parser.get_parsed_content("network_def").eval()
    model.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], model)[0]
    logits = torch.as_tensor(data["pred"]).clone()
    image = data["image"]
    for transform in after:
        data = transform(data)
    return image, logits, data["pred"].numpy()[0].transpose(2, 1, 0)


def prediction_of(folder: Path) -> Prediction:
    return Prediction(
        read_model(folder), torch.device("cpu"), RunControl(lambda _: None, lambda: None), lambda done, of: None
    )


def compare(model: Path, bundle: Path, variant: str, *volumes: Path) -> None:
    """Compare the prediction of an installed bundle with MONAI's own on the same volumes."""
    prediction = prediction_of(model)
    data = prediction.preprocessed([sitk.ReadImage(str(path), sitk.sitkFloat32) for path in volumes])
    logits = prediction.logits(data)
    image, expected, labels = monai_result(bundle, *volumes)
    assert data.shape == image.shape and float((data - torch.as_tensor(image)).abs().max()) < 1e-4
    difference = float((logits - expected).abs().max())
    print(f"{variant}: logits differ by {difference:g}, their deviation is {expected.std():.3g}")
    assert logits.shape == expected.shape and expected.std() > 0.05 and difference <= 1e-4
    p = prediction.probabilities(logits)
    classes = len(logits) + (variant == "sigmoid")
    assert p.shape == (classes, 18, 40, 26) and np.abs(p.sum(0) - 1).max() < 1e-5
    assert len(np.unique(labels)) > 1, "the comparison would be idle"
    ties = np.diff(np.sort(p, 0)[-2:], axis=0)[0] < 1e-4
    print(f"{(p.argmax(0) != labels).sum()} of {labels.size} labels differ, {ties.sum()} voxels are ties")
    assert ties.mean() < 0.01
    np.testing.assert_array_equal(p.argmax(0)[~ties], labels[~ties])
