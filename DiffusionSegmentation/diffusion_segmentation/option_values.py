"""Values of the options of the command `diffusion-segmentation`, from their texts.

Each function raises ValueError or argparse.ArgumentTypeError for a text that is not valid, which argparse reports.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any


def name(text: str) -> str:
    """A name or a path; a shell does not expand the ~ of `--output=~/x`."""
    return os.path.expanduser(text)


def path(text: str) -> Path:
    return Path(name(text))


def named_path(text: str) -> tuple[str, Path]:
    before, _, file = text.partition("=")
    named = before, path(file) if file else Path()
    return checked(text, named, bool(before and file), "NAME=FILE such as FLAIR=flair.nii.gz")


def checked(text: str, value: Any, valid: bool, requirement: str) -> Any:
    """`value` if it is valid; otherwise wrong usage."""
    if not valid:
        raise argparse.ArgumentTypeError(f"{text} is not {requirement}")
    return value


def spacing(text: str) -> tuple[float, ...]:
    steps = tuple(float(part) for part in re.split("[,x]", text))
    valid = len(steps) == 3 and all(0 < step < float("inf") for step in steps)
    return checked(text, steps, valid, "three sizes in mm such as 0.5,0.5,2")


def minutes(text: str) -> float:
    return checked(text, float(text), 0 < float(text) < float("inf"), "a positive number of minutes")


def share(text: str) -> float:
    return checked(text, float(text), 0 <= float(text) <= 1, "within 0 to 1")


def positive(text: str) -> int:
    return checked(text, int(text), int(text) >= 1, "a positive number")


def millimetres(text: str) -> float:
    return checked(text, float(text), 5 <= float(text) <= 100, "within 5 to 100")


def steps(text: str) -> str:
    valid = re.fullmatch(r"(uniform:)?[0-9]{1,4}", text) and int(text.rpartition(":")[2]) >= 2
    return checked(text, text, bool(valid), "a number of 2 or more, or such as uniform:10")


def window(text: str) -> tuple[int, ...]:
    valid = re.fullmatch(r"[0-9]{2,3}(x[0-9]{2,3}){2}", text)
    return tuple(map(int, checked(text, text, bool(valid), "such as 96x112x96").split("x")))


def samples(text: str) -> int | str:
    return text if text == "auto" else positive(text)


def seed(text: str) -> int:
    return checked(text, int(text), 0 <= int(text) < 2**63, "between 0 and 2^63 - 1")


def device(text: str) -> str:
    return checked(text, text, bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text)), "auto, cpu, cuda, cuda:N or mps")
