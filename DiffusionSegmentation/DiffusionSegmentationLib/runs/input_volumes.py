"""The volumes for the inputs of a model, such as T1 and FLAIR: whether they fit, and which ones are meant by name."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_segmentation.images.input_names import READABLE_PICTURES, Input, name_key

from ..i18n import tr as _
from . import handover
from .models import Entry


def problemOf(model: Entry, volumes: Mapping[str, Any]) -> str | None:
    """Why `volumes`, volume nodes or None by the names of the inputs of `model`, cannot be segmented; one sentence.

    None if they can. Reads no voxels.
    """
    nodes = [volumes.get(one.name) for one in model.inputs]
    for number, (one, node) in enumerate(zip(model.inputs, nodes, strict=True)):
        if node is None and len(nodes) > 1:
            return _("Select the volume of the input {name}.").format(name=one.name)
        problem = handover.problemOf(node) or _misfit(node, one, model.isForPictures)
        if problem is not None:
            return problem
        if node in nodes[:number]:
            text = _("The volume '{volume}' is selected for two inputs; select another one for {name}.")
            return text.format(volume=node.GetName(), name=one.name)
    return None


def _misfit(node: Any, one: Input, isForPictures: bool) -> str | None:
    """Why the voxels of a volume node cannot be those of an input, one sentence, or None."""
    values, isPicture = node.GetImageData().GetNumberOfScalarComponents(), node.GetImageData().GetDimensions()[2] == 1
    sentence = None
    if isPicture and not isForPictures:
        sentence = _("The volume '{name}' is a single slice; select a 3-D volume or a model of pictures.")
    elif values == one.channels or (isPicture and values in READABLE_PICTURES.get(one.channels, ())):
        pass
    elif one.channels == 1:
        sentence = _("The volume '{name}' has several values per voxel (colour, vector or 4-D); select another one.")
    else:
        sentence = _("The volume '{name}' has {values} value(s) per voxel and the model needs {needed}, as in a colour"
                     " picture; select another one.")  # fmt: skip
    return sentence and sentence.format(name=node.GetName(), values=values, needed=one.channels)


def matched(inputs: Sequence[Input], chosen: Mapping[str, Any], nodes: Sequence[Any]) -> dict[str, Any]:
    """The volume of each input by its name: the one `chosen`, or where there is none one of `nodes` named after it.

    "patient_FLAIR" is named after FLAIR. Of several, the one that is otherwise named as the first input's volume is
    taken; if there is none, the input stays empty (None), so that no volume of another patient is taken. The first
    input's volume is replaced if it is named after another input. No volume is taken twice.
    """
    keys = {one.name: name_key(one.name) for one in inputs}
    first, *others = keys
    result = {name: chosen.get(name) for name in keys}
    before = result[first]
    if before is not None and _rest(before, keys[first]) is None and _restOfAny(before, keys, others) is not None:
        result[first] = None
    for name, key in keys.items():
        if result[name] is not None:
            continue
        free = [node for node in nodes if node not in result.values() and _rest(node, key) is not None]
        case = _restOfAny(result[first] or before, keys, list(keys))
        same = [node for node in free if _rest(node, key) == case]
        if len(same or free) == 1:
            (result[name],) = same or free
        elif name == first:
            result[name] = before
    return result


def _restOfAny(node: Any, keys: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...] | None:
    """The words of a node's name without those of the first of the inputs `names` that it is named after, or None."""
    rests = (_rest(node, keys[name]) for name in names if node is not None)
    return next((rest for rest in rests if rest is not None), None)


def _rest(node: Any, key: str) -> tuple[str, ...] | None:
    """The words of a node's name without those that make up `key` (see `name_key`); None if there are none."""
    words = tuple(filter(None, map(name_key, re.split(r"[\W_]+", node.GetName()))))
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            if "".join(words[start:end]) == key:
                return words[:start] + words[end:]
    return None
