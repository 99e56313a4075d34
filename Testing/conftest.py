"""Fixtures of several layers: a small model with random weights and a synthetic head."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest

from diffusion_segmentation.runtime.log import configure_logging

configure_logging()  # as the command and the worker do: tests read warnings and progress notes from stderr

# One thread: the networks of the tests are too small to gain from more. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Models that the user has added are not those of the tests.
os.environ["DIFFUSION_SEGMENTATION_MODELS"] = os.path.join(tempfile.gettempdir(), "diffusion-segmentation-no-models")

# A shell starts background jobs with SIGINT ignored. Child processes of pytest would inherit that, and the tests of
# Ctrl+C would wait forever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep what is imported out of garbage collections: runs request them, and each would take 0.4 s."""
    gc.collect()
    gc.freeze()


def metadata(classes: int = 3) -> dict:
    """Valid metadata.json of a model with random weights."""
    terminology = (
        "Segmentation category and type - 3D Slicer General Anatomy list"
        "~SCT^123037004^Anatomical Structure~{}~^^~~^^~^^"
    )
    codes = ["SCT^12738006^Brain", "SCT^89546000^Skull"]
    labels = [
        {
            "label": n,
            "id": f"structure_{n}",
            "name": f"Structure {n}",
            "color": [1 / n, 0.5, 0.2],
            "terminology": terminology.format(code),
        }
        for n, code in zip(range(1, classes), codes, strict=False)
    ]
    return {
        "version": "0.0.1",
        "diffusion_segmentation": {
            "schema": 1,
            "name": "random",
            "title": "Random weights",
            "map_source": "samples",
            "working_spacing_mm": 4.0,
            "window": [64, 64, 64],
            "steps": {"cpu": 3, "gpu": 3},
            "input_range": {"modality": "MR", "spacing_mm": [0.5, 6.0], "extent_mm": [40, 400]},
            "labels": labels,
            "network": {
                "encoder": {"channels": [8, 16], "blocks": [1, 1]},
                "denoiser": {"channels": [8, 16], "blocks": 1},
            },
            "process": {
                "input_scale": 0.5,
                "loss_curve": {"log_snr": [-11.0, -3.0, 1.0, 7.0], "cross_entropy": [0.9, 0.8, 0.1, 0.0]},
            },
        },
    }


@pytest.fixture(scope="session")
def a_model_folder(tmp_path_factory) -> Path:
    """A model folder with random weights: three classes, 4 mm."""
    import torch

    from diffusion_segmentation.model.building import build
    from diffusion_segmentation.model.folder import save

    description = metadata()
    torch.manual_seed(7)
    encoder, denoiser = build(description["diffusion_segmentation"]["network"], 3)
    # The last layer of the denoiser is initialised to zero; that of a trained one is not.
    torch.nn.init.normal_(denoiser.head.weight, std=0.5)
    folder = tmp_path_factory.mktemp("models") / "random"
    save(folder, description, encoder, denoiser)
    return folder


@pytest.fixture(scope="session")
def a_head_file(tmp_path_factory) -> Path:
    """A bright ellipsoid with a darker core, oblique, anisotropic, off-centre: 40 x 48 x 30 voxels."""
    import numpy as np
    import SimpleITK as sitk

    k, j, i = np.ogrid[:30, :48, :40]
    radius = np.sqrt(((k - 14) / 11) ** 2 + ((j - 25) / 19) ** 2 + ((i - 19) / 15) ** 2)
    rng = np.random.default_rng(3)
    image = sitk.GetImageFromArray(
        (np.where(radius < 0.5, 60.0, 100.0) * (radius < 1) + 5 * rng.random((30, 48, 40))).astype(np.float32)
    )
    image.SetSpacing((3.0, 2.5, 4.0))
    image.SetOrigin((-70.0, 11.0, 34.0))
    c, s = np.cos(0.2), np.sin(0.2)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    path = tmp_path_factory.mktemp("volumes") / "head é 1.nrrd"
    sitk.WriteImage(image, str(path))
    return path
