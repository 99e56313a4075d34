"""Small trained folders of nnU-Net v2, as nnU-Net writes them, with random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_segmentation import any_model
from diffusion_segmentation.errors import ModelError

LABELS = {"background": 0, "ball": 1, "core": 2}


def plans(axes: int = 3, residual: bool = False) -> dict[str, Any]:
    """Content of plans.json of nnU-Net 2.8, with a network of two stages."""
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    normalised = {"mean": 50.0, "std": 20.0, "percentile_00_5": -10.0, "percentile_99_5": 110.0, "median": 50.0}
    separate = {"force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 24, 16][-axes:],
        "median_image_size_in_voxels": [20.0, 30.0, 24.0][-axes:],
        "spacing": [4.0, 3.0, 3.0][-axes:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, **separate},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, **separate},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, **separate},
        "batch_dice": False,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 8],
                "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
                "kernel_sizes": [[3] * axes] * 2,
                "strides": [[1] * axes, [2] * axes],
                "n_blocks_per_stage" if residual else "n_conv_per_stage": [1, 2],
                "n_conv_per_stage_decoder": [1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset001_Ball",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [4.0, 3.0, 3.0],
        "original_median_shape_after_transp": [20, 30, 24],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d" if axes == 2 else "3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": normalised},
    }


def dataset(
    labels: dict[str, Any] = LABELS, channels: tuple[str, ...] = ("MR",), order: list[int] | None = None
) -> dict[str, Any]:
    """Content of dataset.json; `order` is that of regions."""
    names = {str(n): name for n, name in enumerate(channels)}
    content = {"channel_names": names, "labels": dict(labels), "numTraining": 5, "file_ending": ".nii.gz"}
    return content if order is None else {**content, "regions_class_order": order}


def random_network(plans: dict[str, Any], seed: int, classes: int = 3) -> torch.nn.Module:
    """The network that nnU-Net builds from the plans."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    [configuration] = plans["configurations"].values()
    torch.manual_seed(seed)
    architecture = configuration["architecture"]
    inputs = len(configuration["normalization_schemes"])
    options = architecture["arch_kwargs"], architecture["_kw_requires_import"], inputs, classes
    network = get_network_from_plans(architecture["network_class_name"], *options, deep_supervision=False)
    with torch.no_grad():  # nnU-Net's start gives nearly the same logit everywhere
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, parameter in network.named_parameters():
            if "seg_layers" in name and name.endswith("bias"):
                parameter.zero_()
    return network


def constant_network(plans: dict[str, Any], logit: float) -> torch.nn.Module:
    """A network of two classes, of which the second has this logit everywhere."""
    network = random_network(plans, 0, classes=2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "seg_layers" in name:
                parameter.copy_(torch.tensor([0.0, logit]) if name.endswith("bias") else torch.zeros(()))
    return network


def stand_in_weights(seed: int) -> dict[str, torch.Tensor]:
    """Weights with the names of a network's, of which some have several, for tests without nnU-Net."""
    generator = torch.Generator().manual_seed(seed)
    weight, norm = torch.randn(4, 1, 3, 3, 3, generator=generator), torch.ones(4)
    layer = "encoder.stages.0.0.convs.0"
    return {
        f"{layer}.conv.weight": weight,
        f"{layer}.norm.weight": norm,
        f"{layer}.all_modules.0.weight": weight,
        f"{layer}.all_modules.1.weight": norm,
        f"decoder.{layer}.conv.weight": weight,
        f"decoder.{layer}.all_modules.1.weight": norm,
        "decoder.seg_layers.0.weight": torch.randn(3, 4, 1, 1, 1, generator=generator),
    }


def checkpoint(
    weights: dict[str, torch.Tensor],
    plans: dict[str, Any],
    fold: int,
    dataset_json: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Content of checkpoint_final.pth, with the entries and types of `nnUNetTrainer.save_checkpoint`."""
    [configuration] = plans["configurations"]
    axes = len(plans["configurations"][configuration].get("patch_size", (1, 1, 1)))
    history = {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.1)], "epoch_start_timestamps": [1.5]}
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], 0.01, momentum=0.99, nesterov=True)
    parameter.sum().backward()
    optimizer.step()
    init = {"plans": plans, "configuration": configuration, "fold": fold, "device": torch.device("cuda")}
    return {
        "network_weights": weights,
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0},
        "logging": {**history, "dice_per_class_or_region": [[np.float32(0.5), np.int64(1), np.bool_(True)]]},
        "_best_ema": np.float64(0.4),
        "current_epoch": 1000,
        "init_args": {**init, "dataset_json": dataset_json or dataset(), "unpack_dataset": True},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(range(axes)),
        **changes,
    }


def write_folder(
    folder: Path,
    plans_json: dict[str, Any] | None = None,
    dataset_json: dict[str, Any] | None = None,
    folds: tuple[str, ...] = ("0", "1"),
    trained: bool = False,
    logits: tuple[float, ...] | None = None,
    **changes: Any,
) -> Path:
    """Write a trained folder; `changes` replace entries of the checkpoints. `trained`: networks of nnU-Net.

    With `logits` the networks have two classes, and each fold gives its logit to the second one everywhere.
    """
    plans_json = plans() if plans_json is None else plans_json
    for n, fold in enumerate(folds):
        path = folder / f"fold_{fold}"
        path.mkdir(parents=True)
        weights = random_network(plans_json, n).state_dict() if trained else stand_in_weights(n)
        if logits is not None:
            weights = constant_network(plans_json, logits[n]).state_dict()
        torch.save(checkpoint(weights, plans_json, n, dataset_json, **changes), path / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans_json), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset_json or dataset()), encoding="utf-8")
    return folder


def refusal(folder: Path, root: Path) -> str:
    """The sentence with which a folder is refused; nothing is left behind in the folder of models `root`."""
    try:
        installed = any_model.add(folder)
    except ModelError as error:
        sentence = str(error)
    else:
        raise AssertionError(f"{installed} was installed")
    assert len(re.findall(r"[.?!](?=\s|$)", sentence)) == 1 and sentence.endswith("."), sentence
    assert "\n" not in sentence and len(sentence) < 400
    assert not root.exists() or list(root.iterdir()) == []
    return sentence
