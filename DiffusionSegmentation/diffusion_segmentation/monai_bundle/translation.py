"""Translation of a bundle's configuration into the entry `monai` of our metadata.

Names come from the tables of `model.monai_metadata` and `model.monai_networks`; anything else is refused.
"""

from __future__ import annotations

import re
from typing import Any

from ..model.monai_metadata import TRANSFORMS, WINDOW_RULES, wrong_transform
from ..model.monai_networks import AXES, NETWORKS, wrong_argument
from ..model.refusal import Refusal
from .configuration import Component, Configuration

READING = ("LoadImage", "EnsureChannelFirst", "AddChannel", "EnsureType", "ToTensor", "ToDevice")
"""Transforms that bring a volume into the form [1, i, j, k] of float32, which it has already."""
NO_CHANNELS: tuple[Any, ...] = (None, "no_channel", "$float('nan')")
CHANNELS: tuple[Any, ...] = (*NO_CHANNELS, 0, -1, 3)
"""Places of several inputs in their files; they are stacked here in the order of their names."""
READING_OPTIONS: dict[str, tuple[Any, ...]] = {
    "dtype": (None, "float32", "$torch.float32", "$np.float32", "$numpy.float32", "torch.float32"),
    "channel_dim": NO_CHANNELS,
    "data_type": ("tensor",),
    "track_meta": (None, True),
}
"""Values of their options that leave it in this form; other options do not change it."""
EFFECTLESS = ("keys", "allow_missing_keys", "dtype", "lazy", "start_coord_key", "end_coord_key", "source_key")
"""Options of transforms without an effect here, or with one value alone."""
WINDOW_OPTIONS_WITHOUT_EFFECT = (
    *("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh"),
    *("buffer_steps", "buffer_dim"),
)
KEPT_POSTPROCESSING = ("EnsureType", "SaveImage", "ToDevice")
"""Transforms of the prediction that do not change its labels."""


def translated(configuration: Configuration) -> dict[str, Any]:
    """The entry `monai`, without `bundle`. Raises Refusal."""
    network = _network(configuration)
    activation, interpolation = _postprocessing(configuration, network["options"]["out_channels"])
    return {
        "network": network,
        "preprocessing": _preprocessing(configuration, network["options"]["in_channels"]),
        "inferer": _inferer(configuration),
        "activation": activation,
        "interpolation": interpolation,
    }


def weights_file(configuration: Configuration) -> str:
    """Name of the file in the folder `models` that the bundle loads; MONAI's usual name if it states none."""
    candidates = [configuration.component(name) for name in ("checkpointloader", "load_checkpoint")]
    candidates += configuration.components("@handlers") or [] if configuration.has("handlers") else []
    for component in candidates:
        if component is not None and component.target == "CheckpointLoader":
            path = component.argument("load_path")
            name = path.rpartition("/")[2] if isinstance(path, str) else ""
            if not re.fullmatch(r"[\w-][\w.-]{0,99}", name, re.ASCII):
                raise Refusal("has a name of its file of weights that cannot be used; choose another model")
            return name
    return "model.pt"


def _network(configuration: Configuration) -> dict[str, Any]:
    component = configuration.component("network_def") or configuration.component("network")
    if component is None:
        raise Refusal("has no entry 'network_def' with one of MONAI's networks; choose another model")
    name = component.target
    if name not in NETWORKS:
        raise Refusal(f"has '{name[:60]}' as its network, which is not supported; choose another model")
    options = {key: component.argument(key) for key in component.arguments}
    if name == "SwinUNETR" and re.fullmatch(r"\d{1,4}|\[[\d, ]{5,20}\]", str(options.get("img_size", 0))):
        options.pop("img_size", None)  # MONAI 1.5 removed it; it has no effect
    if options.get("spatial_dims", AXES) != AXES:
        raise Refusal("has a network for pictures, and only volumes can be segmented; choose another model")
    if name in ("SegResNet", "SegResNetDS", "BasicUNet", "VNet"):  # these have defaults
        options = {"in_channels": 1, "out_channels": 1 if name == "VNet" else 2, **options}
    wrong = wrong_argument(name, options)
    if wrong is not None:
        shown = wrong[:60] if wrong.isprintable() else "?"
        raise Refusal(f"has a value for '{shown}' of its network {name} that cannot be used; choose another model")
    return {"class": name, "options": options}


def _preprocessing(configuration: Configuration, inputs: int) -> list[dict[str, Any]]:
    transforms = _transforms(configuration, "preprocessing")
    entries = [_transform(component, inputs) for component in transforms]
    if not any(_array_name(component) == "LoadImage" for component in transforms):
        raise Refusal("has no LoadImaged in its preprocessing; choose another model")
    return [entry for entry in entries if entry is not None]


def _transforms(configuration: Configuration, name: str) -> list[Component]:
    compose = configuration.component(name)
    transforms = None
    if compose is not None and compose.target == "Compose":
        compose.refuse_other(("transforms",))
        transforms = compose.parts("transforms")
    if transforms is None:
        raise Refusal(f"has no list of transforms in its entry '{name}'; choose another model")
    return transforms


def _array_name(component: Component) -> str:
    """Name of a transform without the ending for dictionaries: "Spacing" for Spacingd, SpacingD and SpacingDict."""
    return re.sub("(d|D|Dict)$", "", component.target)


def _transform(component: Component, inputs: int) -> dict[str, Any] | None:
    """Entry of a transform of the image; None if it only brings the volume into the form that it has."""
    name = _array_name(component)
    if name == component.target or (name not in TRANSFORMS and name not in READING):
        raise Refusal(
            f"has '{component.target[:60]}' in its preprocessing, which is not supported; choose another model"
        )
    keys = component.argument("keys")
    if keys not in ("image", ["image"]):
        raise Refusal(f"has a {component.target} that is not for 'image' alone; choose another model")
    if name in READING:
        for option, allowed in {**READING_OPTIONS, **({"channel_dim": CHANNELS} if inputs > 1 else {})}.items():
            if not component.is_one_of(option, allowed):
                raise Refusal(
                    f"has a value for '{option}' of {component.target} that cannot be used; choose another model"
                )
        return None
    component.refuse_other((*TRANSFORMS[name], *EFFECTLESS))
    if component.argument("source_key", "image") != "image" or component.argument("lazy", False) is not False:
        raise Refusal(f"has a {component.target} that is not for 'image' alone; choose another model")
    arguments = {key: component.argument(key) for key in component.arguments if key in TRANSFORMS[name]}
    if name == "Spacing":
        arguments["pixdim"] = _for_each_axis(arguments.get("pixdim"))
    arguments = {key: _single(value) if key != "pixdim" else value for key, value in arguments.items()}
    entry = {"transform": name, **arguments}
    wrong = wrong_transform(entry)
    if wrong is not None:
        raise Refusal(f"has a value for '{wrong}' of {component.target} that cannot be used; choose another model")
    return entry


def _single(value: Any) -> Any:
    """The value of an option that is a list for a single image."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _for_each_axis(value: Any) -> Any:
    return [value] * AXES if type(value) in (int, float) else value


def _inferer(configuration: Configuration) -> dict[str, Any] | None:
    """Arguments of MONAI's sliding windows; None if the network sees the whole volume at once."""
    component = configuration.component("inferer")
    if component is None or component.target not in ("SlidingWindowInferer", "SimpleInferer"):
        shown = "" if component is None else f", but '{component.target[:60]}'"
        raise Refusal(f"has no SlidingWindowInferer and no SimpleInferer{shown}; choose another model")
    if component.target == "SimpleInferer":
        component.refuse_other(())
        return None
    component.refuse_other((*WINDOW_RULES, *WINDOW_OPTIONS_WITHOUT_EFFECT))
    windows = {key: component.argument(key) for key in component.arguments if key in WINDOW_RULES}
    windows["roi_size"] = _for_each_axis(windows.get("roi_size"))
    return windows


def _postprocessing(configuration: Configuration, channels: int) -> tuple[str, str]:
    """Activation, and interpolation of the class probabilities. Raises Refusal."""
    activation, discrete, interpolation = None, None, "linear"
    for component in _transforms(configuration, "postprocessing"):
        name = _array_name(component)
        if name == component.target:
            name = ""
        if name == "Activations":
            activation = _activation(component)
        elif name == "AsDiscrete":
            discrete = _discrete(component)
        elif name == "Invert":
            interpolation = "nearest" if component.argument("nearest_interp", True) is True else "linear"
        elif name not in KEPT_POSTPROCESSING:
            shown = component.target[:60]
            raise Refusal(f"has '{shown}' in its postprocessing, which is not supported; choose another model")
    if discrete == "argmax" and channels > 1 and activation in (None, "softmax"):
        return "softmax", interpolation
    if activation == "sigmoid" and channels == 1 and discrete == "threshold":
        return "sigmoid", interpolation
    if activation == "sigmoid" and channels > 1:
        raise Refusal("predicts overlapping regions, which have no probabilities that sum to 1; choose another model")
    raise Refusal("has no softmax with argmax and no sigmoid with a threshold of 0.5; choose another model")


def _activation(component: Component) -> str:
    component.refuse_other(("keys", "softmax", "sigmoid", "allow_missing_keys"))
    chosen = [name for name in ("softmax", "sigmoid") if _single(component.argument(name, False)) is True]
    if len(chosen) != 1:
        raise Refusal("has an activation that is neither softmax nor sigmoid; choose another model")
    return chosen[0]


def _discrete(component: Component) -> str:
    component.refuse_other(("keys", "argmax", "threshold", "threshold_values", "logit_thresh", "allow_missing_keys"))
    argmax = _single(component.argument("argmax", False)) is True
    threshold = _single(component.argument("threshold"))
    if component.argument("threshold_values") is True:  # MONAI before 0.9
        threshold = component.argument("logit_thresh", 0.5)
    if argmax and threshold is None:
        return "argmax"
    if not argmax and threshold == 0.5 and not isinstance(threshold, bool):
        return "threshold"
    raise Refusal("has labels by something else than argmax, or a threshold of 0.5; choose another model")
