"""Small MONAI bundles, as their authors write them, with random weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from monai.networks import nets

NAMES = ("background", "ball", "core")
NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8, 8],
    "strides": [2, 2],
    "num_res_units": 1,
    "norm": "batch",
}
NETWORKS: dict[str, dict[str, Any]] = {
    "UNet": {**NETWORK, "act": ["leakyrelu", {"negative_slope": 0.2}], "dropout": 0.1},
    "BasicUNet": {"features": [4, 4, 8, 8, 8, 4]},
    "DynUNet": {
        "spatial_dims": 3,
        "kernel_size": [3, [3, 3, 1], 3],
        "strides": [1, 2, [2, 2, 1]],
        "upsample_kernel_size": [2, [2, 2, 1]],
        "filters": [4, 8, 8],
        "deep_supervision": True,
        "norm_name": "instance",
        "res_block": True,
    },
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1], "dropout_prob": 0.2},
    "SegResNetDS": {"init_filters": 8, "blocks_down": [1, 1], "dsdepth": 2, "norm": "instance"},
    "AttentionUnet": {"spatial_dims": 3, "channels": [4, 8], "strides": [2]},
    "UNETR": {
        "img_size": [32, 32, 32],
        "feature_size": 4,
        "hidden_size": 24,
        "mlp_dim": 16,
        "num_heads": 2,
        "norm_name": "instance",
    },
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]},
    "VNet": {"dropout_dim": 3},
}
"""The options of a small network of each class, without its channels."""


def network(name: str) -> dict[str, Any]:
    """Entry `network_def` with a small network."""
    return {"_target_": name, "in_channels": 1, "out_channels": 3, **NETWORKS[name]}


def transforms(*between: dict[str, Any]) -> dict[str, Any]:
    """Entry `preprocessing` with these transforms between reading and conversion; their key is added."""
    listed = [
        {"_target_": "LoadImaged"},
        {"_target_": "EnsureChannelFirstd"},
        *between,
        {"_target_": "EnsureTyped"},
    ]
    return {"_target_": "Compose", "transforms": [{"keys": "image", **entry} for entry in listed]}


SPACING = {"_target_": "Spacingd", "pixdim": [2.0, 2.5, 3.0], "mode": "bilinear"}
SCALED = {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 120, "b_min": 0.0, "b_max": 1.0, "clip": True}


def postprocessing(nearest: bool = False, **activation: Any) -> dict[str, Any]:
    """Entry `postprocessing`, by default with softmax."""
    discrete = {"threshold": 0.5} if "sigmoid" in activation else {"argmax": True}
    inverse = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": nearest, "to_tensor": True}
    listed = [
        {"_target_": "Activationsd", **(activation or {"softmax": True})},
        {"_target_": "Invertd", **inverse},
        {"_target_": "AsDiscreted", **discrete},
        {"_target_": "SaveImaged", "output_dir": "@output_dir", "output_dtype": "$numpy.float32"},
    ]
    return {"_target_": "Compose", "transforms": [{"keys": "pred", **entry} for entry in listed]}


def inference(**changes: Any) -> dict[str, Any]:
    """Content of configs/inference.json; `changes` replace its entries."""
    content = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$list(sorted(glob.glob('*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": copy.deepcopy(NETWORK),
        "network": "$@network_def.to(@device)",
        "preprocessing": transforms(SPACING, SCALED),
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [16, 16, 16],
            "sw_batch_size": 4,
            "overlap": 0.5,
        },
        "postprocessing": postprocessing(),
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "run": ["$@evaluator.run()"],
    }
    return copy.deepcopy({**content, **changes})


def metadata(names: tuple[str, ...] = NAMES, inputs: tuple[str, ...] = ("image",), **changes: Any) -> dict[str, Any]:
    """Content of configs/metadata.json; `changes` replace its entries."""

    def channels(names: tuple[str, ...]) -> dict[str, Any]:
        return {"num_channels": len(names), "channel_def": {str(n): name for n, name in enumerate(names)}}

    return {
        "version": "0.2.0",
        "name": "Ball and core",
        "description": "A ball with a core.",
        "intended_use": "Tests",
        "network_data_format": {"inputs": {"image": channels(inputs)}, "outputs": {"pred": channels(names)}},
        **changes,
    }


def random_network(definition: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """The network of an entry `network_def` with random weights that give different classes."""
    options = {key: value for key, value in definition.items() if key != "_target_"}
    torch.manual_seed(seed)
    network = getattr(nets, definition["_target_"].rpartition(".")[2])(**options).eval()
    spread = {"UNet": 0.15, "VNet": 0.025}.get(definition["_target_"].rpartition(".")[2], 0.05)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.1 * torch.rand_like(buffer))
    return network


def write_bundle(
    folder: Path,
    config: dict[str, Any] | None = None,
    described: dict[str, Any] | None = None,
    weights: Any = None,
) -> Path:
    """Write a bundle; `weights` is the content of its model.pt, by default that of a random network."""
    config = inference() if config is None else config
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    (folder / "configs/inference.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "configs/metadata.json").write_text(json.dumps(described or metadata()), encoding="utf-8")
    torch.save(random_network(config["network_def"]).state_dict() if weights is None else weights, folder / MODEL)
    return folder


MODEL = "models/model.pt"
