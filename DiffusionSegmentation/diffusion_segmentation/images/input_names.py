"""Inputs of a model, such as T1 and FLAIR, or a colour picture: their names and channels."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, shown

MAX_CHANNELS = 16
"""Largest number of channels of all inputs of a model."""
MAX_NAME_LENGTH = 100  # characters of the name of a data set or input

CT_WORDS = {"ct", "cta", "cbct", "ncct", "cect", "ldct", "hrct"}
MR_WORDS = {
    *("mr", "mri", "mra", "t1", "t2", "t1w", "t2w", "pd", "pdw", "flair", "swi", "dwi", "adc", "mprage", "t1c", "t1ce"),
    *("t1gd", "t2f", "t1n", "t2star", "t1wce", "t2flair", "mp2rage", "bold", "tof"),
}
COLOUR_CHANNELS = (("red", "green", "blue"), ("r", "g", "b"), ("rgb",), ("colour",), ("color",))
"""Names of channels, as `name_key` returns them, of pictures whose files have three values per pixel."""
READABLE_PICTURES = {1: (2, 3, 4), 3: (4,)}
"""Channels of pictures that can be read as another number: with transparency, or grey values stored as colours."""
# Together with a word of CT_WORDS or MR_WORDS these describe another modality, or another intensity scale.
OTHER_WORDS = {"pet", "spect", "us", "fdg", "oct", "perfusion", "non", "not", "no", "emission", "ultrasound"}


@dataclass(frozen=True)
class Input:
    """An input of a model: its name, such as "FLAIR", and its values per voxel, 3 for a colour picture."""

    name: str
    channels: int = 1

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, **({"channels": self.channels} if self.channels > 1 else {})}


ONE_INPUT = (Input("Image"),)


def inputs_of(section: Mapping[str, Any]) -> tuple[Input, ...]:
    """The inputs of a model from our section of its valid metadata; models of version 0.4 and older have one."""
    entries = section.get("inputs")
    return tuple(Input(entry["name"], entry.get("channels", 1)) for entry in entries) if entries else ONE_INPUT


def channel_count(inputs: Sequence[Input]) -> int:
    """Number of channels of all inputs."""
    return sum(one.channels for one in inputs)


def intensities_of(section: Mapping[str, Any]) -> list[dict[str, Any] | None]:
    """The entry `intensity` of each channel, see `intensity.normalise`: a list, or one entry for all inputs."""
    inputs, entry = inputs_of(section), section.get("intensity")
    entries = entry if isinstance(entry, list) else [entry] * len(inputs)
    return [one for one, described in zip(entries, inputs, strict=True) for _ in range(described.channels)]


def valid_inputs(section: Mapping[str, Any], channels: int) -> bool:
    """Whether the entry `inputs` has different valid names, and all have `channels` channels. Raises TypeError."""
    inputs = inputs_of(section)
    return (
        channel_count(inputs) == channels <= MAX_CHANNELS
        and all(is_valid_name(one.name, MAX_NAME_LENGTH) and name_key(one.name) for one in inputs)
        and all(type(one.channels) is int and 1 <= one.channels <= MAX_CHANNELS for one in inputs)
        and len({name_key(one.name) for one in inputs}) == len(inputs)
    )


def order_by_name(names: Sequence[str], inputs: Sequence[Input]) -> list[int]:
    """The position in `names` of each of `inputs`; capitals, blanks and punctuation of names do not matter.

    Raises InputError, which names the input, for a missing, unknown or repeated one.
    """
    keys, given = [name_key(one.name) for one in inputs], [name_key(name) for name in names]
    for name, key in zip(names, given, strict=True):
        if key not in keys:
            listed = ", ".join(one.name for one in inputs)
            raise InputError(f"The model has no input '{shown(name)}'; its inputs are {listed}.")
        if given.count(key) > 1:
            raise InputError(f"The input '{shown(name)}' was given twice; give each one once.")
    for one, key in zip(inputs, keys, strict=True):
        if key not in given:
            raise InputError(missing_input(one.name, inputs, len(given)))
    return [given.index(key) for key in keys]


def require_same_inputs(model: Sequence[Input], data: Sequence[Input], data_name: str) -> None:
    """Raise InputError unless a model of several inputs, and the data set `data_name`, have the same in one order."""
    names = [[name_key(one.name) for one in inputs] for inputs in (model, data)]
    if names[0] != names[1] and max(map(len, names)) > 1:
        ours, theirs = (", ".join(one.name for one in inputs) for inputs in (model, data))
        raise InputError(
            f"The model has the inputs {ours} and the data set '{data_name}' {theirs}; give them in the same order and "
            "with the same names."
        )


def missing_input(name: str, inputs: Sequence[Input], given: int) -> str:
    names = ", ".join(one.name for one in inputs)
    return f"The input '{name}' is missing: the model has the inputs {names}, and {given} of them were given; add it."


def inputs_named(names: Sequence[str]) -> tuple[Input, ...]:
    """Inputs for the names of channels; red, green and blue are one input, and so is a channel named RGB or colour."""
    keys = tuple(name_key(name) for name in names)
    if keys in COLOUR_CHANNELS:
        return (Input("Colour", 3),)
    return tuple(map(Input, valid_names(names)))


def valid_names(names: Sequence[str]) -> list[str]:
    """Different names for the channels of a data set; those that cannot be used, or occur twice, become "Image 2"."""
    shown_names = [name.strip() if is_valid_name(name.strip(), MAX_NAME_LENGTH) else "" for name in names]
    counts = Counter(map(name_key, shown_names))
    usable = [bool(name_key(name)) and counts[name_key(name)] == 1 for name in shown_names]
    pairs = zip(shown_names, usable, strict=True)
    return [name if good else f"Image {number}" for number, (name, good) in enumerate(pairs, 1)]


def modality_of(text: str) -> str:
    """CT or MR if a channel's name has a word for exactly one of them, else the name."""
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    ct = bool(CT_WORDS & words) or {"computed", "tomography"} <= words
    mr = bool(MR_WORDS & words) or {"magnetic", "resonance"} <= words
    if ct != mr and not OTHER_WORDS & words:
        return "CT" if ct else "MR"
    return text.strip() if is_valid_name(text.strip(), MAX_NAME_LENGTH) else "not stated"


def is_valid_name(text: str, max_length: int) -> bool:
    """Whether a text can be written to file headers as a name."""
    return 0 < len(text) <= max_length and text.isprintable() and not text.isspace()


def name_key(name: str) -> str:
    """A name without punctuation and capitals, for comparison; composed, because macOS decomposes accents."""
    return "".join(c for c in unicodedata.normalize("NFC", name).lower() if c.isalnum())
