"""Networks of MONAI that a model can have: their allowed arguments, each with a check of its value.

The bounds let a network have at most some thousand layers; its weights are counted before any memory is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..images.input_names import MAX_CHANNELS as MAX_INPUTS
from .checks import are_integers, is_integer, is_number

Rule = Callable[[Any], bool]

AXES = 3  # volumes
MAX_CLASSES = 128
MAX_STAGES, MAX_CHANNELS, MAX_BLOCKS = 8, 2048, 16
NORMS = {"instance": ("affine", "eps"), "batch": ("affine", "eps"), "group": ("affine", "eps", "num_groups")}
ACTIVATIONS = {
    "relu": ("inplace",),
    "leakyrelu": ("inplace", "negative_slope"),
    "prelu": ("num_parameters", "init"),
    "elu": ("inplace", "alpha"),
    **dict.fromkeys(("relu6", "selu", "mish"), ("inplace",)),
    **dict.fromkeys(("gelu", "swish", "memswish"), ()),
}
_LAYER_OPTIONS: dict[str, Rule] = {
    "affine": lambda value: isinstance(value, bool),
    "inplace": lambda value: isinstance(value, bool),
    "eps": lambda value: is_number(value, 1e-12, 1),
    "num_groups": lambda value: is_integer(value, 1, MAX_CHANNELS),
    "num_parameters": lambda value: is_integer(value, 1, 1),
    "negative_slope": lambda value: is_number(value, 0, 1),
    "init": lambda value: is_number(value, -10, 10),
    "alpha": lambda value: is_number(value, 0, 10),
}


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _between(low: int, high: int) -> Rule:
    return lambda value: is_integer(value, low, high)


def _share(value: Any) -> bool:
    return is_number(value, 0, 1)


def _share_or_none(value: Any) -> bool:
    return value is None or _share(value)


def _one_of(*texts: str) -> Rule:
    return lambda value: isinstance(value, str) and value in texts


def _sizes(low: int, high: int) -> Rule:
    """An integer, or one for each axis."""
    return lambda value: (
        is_integer(value, low, high)
        or (isinstance(value, list) and len(value) == AXES and are_integers(value, low, high))
    )


def _stages(rule: Rule, least: int = 1) -> Rule:
    """A list with an entry for each stage."""
    return lambda value: isinstance(value, list) and least <= len(value) <= MAX_STAGES and all(map(rule, value))


def _or_none(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _layer(options: dict[str, tuple[str, ...]]) -> Rule:
    """A name of a layer, or [name, its options]; capitals do not count."""

    def is_layer(value: Any) -> bool:
        name, given = (value, {}) if isinstance(value, str) else value
        return name.lower() in options and all(
            option in options[name.lower()] and _LAYER_OPTIONS[option](number) for option, number in given.items()
        )

    return is_layer


_ACT, _NORM = _layer(ACTIVATIONS), _layer(NORMS)
_CHANNELS, _BLOCKS = _stages(_between(1, MAX_CHANNELS), 2), _stages(_between(1, MAX_BLOCKS))
_KERNEL, _STRIDE = _sizes(1, 9), _sizes(1, 8)
_UPSAMPLE = _one_of("deconv", "nontrainable", "pixelshuffle")
_COMMON: dict[str, Rule] = {
    "spatial_dims": _between(AXES, AXES),
    "in_channels": _between(1, MAX_INPUTS),
    "out_channels": _between(1, MAX_CLASSES),
}
_U_SHAPE = {"channels": _CHANNELS, "strides": _stages(_STRIDE), "kernel_size": _KERNEL, "up_kernel_size": _KERNEL}
_RESNET = {
    "init_filters": _between(1, 512),
    "act": _ACT,
    "norm": _NORM,
    "blocks_down": _BLOCKS,
    "upsample_mode": _UPSAMPLE,
}

NETWORKS: dict[str, dict[str, Rule]] = {
    "UNet": {
        **_COMMON,
        **_U_SHAPE,
        "num_res_units": _between(0, MAX_BLOCKS),
        "act": _ACT,
        "norm": _NORM,
        "dropout": _share,
        "bias": _flag,
        "adn_ordering": _one_of("NDA", "NAD", "AND", "DNA", "ADN", "DAN", "NA", "AN", "N", "A"),
    },
    "BasicUNet": {
        **_COMMON,
        "features": lambda value: _CHANNELS(value) and len(value) == 6,
        "act": _ACT,
        "norm": _NORM,
        "bias": _flag,
        "dropout": _share,
        "upsample": _UPSAMPLE,
    },
    "DynUNet": {
        **_COMMON,
        "kernel_size": _stages(_KERNEL, 2),
        "strides": _stages(_STRIDE, 2),
        "upsample_kernel_size": _stages(_STRIDE),
        "filters": _or_none(_CHANNELS),
        "dropout": _share_or_none,
        "norm_name": _NORM,
        "act_name": _ACT,
        "deep_supervision": _flag,
        "deep_supr_num": _between(1, MAX_STAGES),
        "res_block": _flag,
        "trans_bias": _flag,
    },
    "SegResNet": {
        **_COMMON,
        **_RESNET,
        "dropout_prob": _share_or_none,
        "norm_name": _one_of(""),
        "num_groups": _between(1, 512),
        "use_conv_final": _flag,
        "blocks_up": _BLOCKS,
    },
    "SegResNetDS": {
        **_COMMON,
        **_RESNET,
        "blocks_up": _or_none(_BLOCKS),
        "dsdepth": _between(1, MAX_STAGES),
        "resolution": lambda value: (
            value is None or (len(value) == AXES and all(is_number(mm, 1e-3, 1e3) for mm in value))
        ),
    },
    "AttentionUnet": {**_COMMON, **_U_SHAPE, "dropout": _share},
    "UNETR": {
        **_COMMON,
        "img_size": _sizes(16, 512),
        "feature_size": _between(1, 256),
        "hidden_size": _between(1, MAX_CHANNELS),
        "mlp_dim": _between(1, 8192),
        "num_heads": _between(1, 64),
        "proj_type": _one_of("conv", "perceptron"),
        "norm_name": _NORM,
        "conv_block": _flag,
        "res_block": _flag,
        "dropout_rate": _share,
        "qkv_bias": _flag,
    },
    "SwinUNETR": {
        **_COMMON,
        "patch_size": _between(2, 2),
        "depths": _stages(_between(1, MAX_BLOCKS)),
        "num_heads": _stages(_between(1, 64)),
        "window_size": _sizes(2, 16),
        "qkv_bias": _flag,
        "mlp_ratio": lambda value: is_number(value, 0.5, 8),
        "feature_size": lambda value: is_integer(value, 12, 192) and value % 12 == 0,
        "norm_name": _NORM,
        "drop_rate": _share,
        "attn_drop_rate": _share,
        "dropout_path_rate": _share,
        "normalize": _flag,
        "patch_norm": _flag,
        "use_checkpoint": _flag,
        "downsample": _one_of("merging", "mergingv2"),
        "use_v2": _flag,
    },
    "VNet": {
        **_COMMON,
        "act": _ACT,
        "dropout_prob": _share_or_none,
        "dropout_prob_down": _share_or_none,
        "dropout_prob_up": lambda value: len(value) == 2 and all(map(_share_or_none, value)),
        "dropout_dim": _between(1, AXES),
        "bias": _flag,
    },
}


def wrong_argument(network: str, options: dict[str, Any]) -> str | None:
    """Name of the first argument of a network that is unknown or whose value cannot be used; None if there is none."""
    rules = NETWORKS[network]
    for name, value in options.items():
        try:
            if name not in rules or not rules[name](value):
                return name
        except (TypeError, AttributeError, ValueError, KeyError):
            return name
    return next((name for name in ("in_channels", "out_channels") if name not in options), None)
