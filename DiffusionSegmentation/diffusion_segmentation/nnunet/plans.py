"""What running needs of nnU-Net's plans.json, as the entry `nnunet` of a model's metadata.

Plans name classes and functions by their import path. None of these names is imported: each is looked up in a table,
and what is not there is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..model.nnunet_metadata import (
    CONFIGURATIONS,
    INTENSITIES,
    NETWORKS,
    NONLINS,
    NORMALIZATIONS,
    NORMS,
    RESAMPLED,
    RESAMPLING,
    wrong_part,
)
from ..model.refusal import Refusal

READERS = {
    "SimpleITKIO": False,
    "NibabelIO": False,
    "SimpleITKIOWithReorient": True,
    "NibabelIOWithReorient": True,
}
"""nnU-Net's readers of volumes, and whether they turn the voxel axes to right, anterior and superior."""
NETWORK_PATH = re.compile(r"dynamic_network_architectures\.architectures\.(?:unet|residual_unet)\.(\w+)")
LAYER_PATH = re.compile(r"torch\.nn\.(?:modules\.\w+\.)?(\w+)")
CONVOLUTIONS = {"Conv2d": 2, "Conv3d": 3}  # with their number of axes
NORM_LAYERS = {f"{norm.capitalize()}Norm{axes}d": (norm, axes) for norm in NORMS for axes in (2, 3)}
DROPOUTS = ("Dropout", "Dropout2d", "Dropout3d")  # have no effect in a run
MAX_INHERITANCE = 20
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What wrong types and missing entries raise."""


def nnunet_entry(plans: Any, configuration: str, trainer: str, mirror_axes: list[int], inputs: int) -> dict[str, Any]:
    """The entry `nnunet` for a configuration of `plans`, the content of plans.json. Raises Refusal."""
    try:
        entry = _entry(plans, configuration, trainer, mirror_axes, inputs)
        part = wrong_part(entry)
    except MALFORMED:
        raise Refusal("has a plans.json that is incomplete or damaged; copy its folder again") from None
    if part is not None:
        raise Refusal(f"has plans whose entry for '{part}' cannot be run; choose another model")
    return entry


def resolved(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """A configuration of the plans with what it inherits. Raises Refusal."""
    merged: dict[str, Any] = {}
    name: Any = configuration
    for _ in range(MAX_INHERITANCE):
        own = plans["configurations"][name]
        merged = {**own, **merged}
        name = own.get("inherits_from")
        if name is None:
            return merged
    raise Refusal("has plans whose configurations inherit from each other in a circle; choose another model")


def _entry(plans: Any, name: str, trainer: str, mirror_axes: list[int], inputs: int) -> dict[str, Any]:
    configuration = resolved(plans, name)
    if configuration.get("previous_stage") is not None:
        raise Refusal("is the second stage of a cascade, which needs the first one's masks; choose another one")
    _require("configuration", name, CONFIGURATIONS)
    _require("preprocessor", configuration["preprocessor_name"], ("DefaultPreprocessor",))
    _require("label manager", plans.get("label_manager", "LabelManager"), ("LabelManager",))
    _require("reader of images", plans["image_reader_writer"], READERS)
    schemes = list(configuration["normalization_schemes"])
    for scheme in schemes:
        _require("normalisation", scheme, NORMALIZATIONS)
    if len(schemes) != inputs:
        raise Refusal(f"has {inputs} inputs in its dataset.json and {len(schemes)} in its plans.json; copy both again")
    transpose = list(plans["transpose_forward"])
    if [transpose[axis] for axis in plans["transpose_backward"]] != sorted(transpose):
        raise Refusal("has plans whose two orders of axes contradict each other; choose another model")
    return {
        "configuration": name,
        "trainer": trainer,
        "plans": plans["plans_name"],
        "patch_size": list(configuration["patch_size"]),
        "spacing_mm": list(configuration["spacing"]),
        "transpose": transpose,
        "mirror_axes": mirror_axes,
        "normalization": schemes,
        "use_mask_for_norm": list(configuration["use_mask_for_norm"]),
        "intensities": _intensities(plans, schemes),
        "resampling": {what: _resampling(configuration, what) for what in RESAMPLED},
        "reoriented": READERS[plans["image_reader_writer"]],
        "network": _network(configuration, 2 if name == "2d" else 3),
    }


def _require(what: str, name: Any, known: Any) -> None:
    """Raise Refusal unless a table has this name."""
    if not isinstance(name, str) or name not in known:
        shown = f"'{name[:60]}'" if isinstance(name, str) and name.isprintable() else "an unnamed one"
        raise Refusal(f"uses {shown} as its {what}, which cannot be run; choose another model")


def _intensities(plans: Mapping[str, Any], schemes: list[str]) -> list[dict[str, float]]:
    """Statistics of each input's intensities; only CTNormalization uses them, so other inputs can lack them."""
    key = "foreground_intensity_properties_per_channel"
    stored = plans[key if key in plans else "foreground_intensity_properties_by_modality"]
    unused = {"mean": 0.0, "std": 1.0, "percentile_00_5": 0.0, "percentile_99_5": 0.0}
    return [
        {name: stored[str(n)][name] for name in INTENSITIES} if scheme == "CTNormalization" else unused
        for n, scheme in enumerate(schemes)
    ]


def _resampling(configuration: Mapping[str, Any], what: str) -> dict[str, Any]:
    function = configuration[f"resampling_fn_{what}"]
    _require("resampling", function, RESAMPLING)
    options = dict(configuration[f"resampling_fn_{what}_kwargs"])
    for option in options:
        _require("option of resampling", option, RESAMPLING[function])
    return {"function": function, "options": options}


def _network(configuration: Mapping[str, Any], axes: int) -> dict[str, Any]:
    """The entry `network` of the metadata, from the plans of any version of nnU-Net 2."""
    if "architecture" not in configuration:
        return _network_of_old_plans(configuration, axes)
    name = _class_name("network", configuration["architecture"]["network_class_name"], NETWORK_PATH, NETWORKS)
    options = dict(configuration["architecture"]["arch_kwargs"])
    blocks = options.pop(NETWORKS[name])
    stages = options.pop("n_stages")
    network = {
        "class": name,
        "features_per_stage": list(options.pop("features_per_stage")),
        "kernel_sizes": [_along_axes(sizes, axes) for sizes in options.pop("kernel_sizes")],
        "strides": [_along_axes(steps, axes) for steps in options.pop("strides")],
        "blocks_per_stage": list(blocks),
        "n_conv_per_stage_decoder": list(options.pop("n_conv_per_stage_decoder")),
        "conv_bias": options.pop("conv_bias", False),
    }
    if stages != len(network["features_per_stage"]):
        raise Refusal("has plans whose network has another number of stages than features; choose another model")
    if CONVOLUTIONS[_layer(options.pop("conv_op"), CONVOLUTIONS)] != axes:
        raise Refusal("has plans whose network has another number of axes than its windows; choose another model")
    network |= _norm(options.pop("norm_op"), options.pop("norm_op_kwargs"), axes)
    network |= _nonlin(options.pop("nonlin"), options.pop("nonlin_kwargs"))
    dropout = options.pop("dropout_op", None)
    if dropout is not None:
        _layer(dropout, DROPOUTS)
    options.pop("dropout_op_kwargs", None)
    options.pop("deep_supervision", None)  # concerns training only
    for option, value in options.items():
        if value is not None:
            _require("option of the network", option, ())
    return network


def _network_of_old_plans(configuration: Mapping[str, Any], axes: int) -> dict[str, Any]:
    """The same for plans of nnU-Net 2.0 to 2.3, which do not state the layers."""
    _require("network", configuration["UNet_class_name"], NETWORKS)
    blocks = list(configuration["n_conv_per_stage_encoder"])
    first, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return {
        "class": configuration["UNet_class_name"],
        "features_per_stage": [min(first * 2**stage, most) for stage in range(len(blocks))],
        "kernel_sizes": [_along_axes(sizes, axes) for sizes in configuration["conv_kernel_sizes"]],
        "strides": [_along_axes(steps, axes) for steps in configuration["pool_op_kernel_sizes"]],
        "blocks_per_stage": blocks,
        "n_conv_per_stage_decoder": list(configuration["n_conv_per_stage_decoder"]),
        "conv_bias": True,
        "norm": "instance",
        "norm_options": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
        "nonlin_options": {},
    }


def _class_name(what: str, path: Any, pattern: re.Pattern[str], known: Any) -> str:
    """Name of a class in a table, from its import path, which must have the pattern. Raises Refusal."""
    matched = pattern.fullmatch(path) if isinstance(path, str) else None
    name = matched[1] if matched else None
    _require(what, path if name is None else name, () if name is None else known)
    assert name is not None
    return name


def _layer(path: Any, known: Any) -> str:
    """Name of a class of torch.nn in a table, from its import path. Raises Refusal."""
    return _class_name("layer", path, LAYER_PATH, known)


def _norm(path: Any, options: Any, axes: int) -> dict[str, Any]:
    norm, of_axes = NORM_LAYERS[_layer(path, NORM_LAYERS)]
    if of_axes != axes:
        raise Refusal("has plans whose layers differ in their number of axes; choose another model")
    options = {"eps": 1e-5, "affine": norm == "batch", **(options or {})}  # defaults of torch.nn
    return {"norm": norm, "norm_options": options}


def _nonlin(path: Any, options: Any) -> dict[str, Any]:
    options = {key: value for key, value in (options or {}).items() if key != "inplace"}
    return {"nonlin": _layer(path, NONLINS), "nonlin_options": options}


def _along_axes(value: Any, axes: int) -> list[Any]:
    """A value for each axis."""
    return [value] * axes if isinstance(value, int) else list(value)
