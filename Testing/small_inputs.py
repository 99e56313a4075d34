"""A small model with random weights and a small volume, for tests with real workers."""

from __future__ import annotations

from pathlib import Path


def write_model(folder: Path) -> None:
    """Write a model for two random classes and background: fast, with meaningless results."""
    import torch

    from diffusion_segmentation.model import folder as model
    from diffusion_segmentation.model.building import build

    torch.manual_seed(0)
    network = {"encoder": {"channels": [8, 8], "blocks": [1, 1]}, "denoiser": {"channels": [8, 8], "blocks": 1}}
    encoder, denoiser = build(network, 3)
    with torch.no_grad():  # the last layers are initialised to zero, which would make all voxels equal
        for parameter in (*encoder.parameters(), *denoiser.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    labels = [
        {
            "label": n,
            "id": name,
            "name": name.title(),
            "color": [1.0, 0.5 * n, 0.0],
            "terminology": "a~b^c^d~e^f^g~^^~h~^^~^^",
        }
        for n, name in enumerate(("inner", "outer"), start=1)
    ]
    section = {
        "schema": model.SCHEMA,
        "name": "tiny",
        "title": "Two random classes",
        "map_source": "samples",
        "working_spacing_mm": 4.0,
        "window": [32, 32, 32],
        "steps": {"cpu": 2, "gpu": 2},
        "network": network,
        "labels": labels,
        "process": {"loss_curve": {"log_snr": [-12.0, 0.0, 8.0], "cross_entropy": [1.0, 0.5, 0.1]}},
        "input_range": {"spacing_mm": [0.3, 8.0], "extent_mm": [60, 500], "modality": "MR"},
    }
    model.save(folder, {"version": "0.0.1", "diffusion_segmentation": section}, encoder, denoiser)


def write_ball(path: Path, oblique: bool = False) -> None:
    """Write a bright ball with noise, 40 x 44 x 36 voxels of 2.5 mm; `oblique` turns it by 37 degrees and moves it."""
    import numpy as np
    import SimpleITK as sitk

    z, y, x = np.ogrid[-1:1:36j, -1:1:44j, -1:1:40j]
    noise = np.random.default_rng(0).standard_normal((36, 44, 40))
    image = sitk.GetImageFromArray((100 * (x**2 + y**2 + z**2 < 0.6) + 5 * noise).astype(np.float32))
    image.SetSpacing((2.5, 2.5, 2.5))
    if oblique:
        image.SetOrigin((-40.0, 12.0, 7.0))
        image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
