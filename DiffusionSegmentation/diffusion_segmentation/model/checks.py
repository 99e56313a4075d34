"""Checks of single entries of metadata.json, of all kinds of models."""

from __future__ import annotations

import re
from typing import Any

MAX_HEADER_BYTES = 2**20  # of a file of weights

# Control characters, line separators, bidirectional overrides (a name could imitate another one), lone surrogates.
_NOT_PRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def is_line(text: Any, max_length: int) -> bool:
    """Whether it is a printable text in one line, which ends up in file headers and on the screen."""
    return isinstance(text, str) and 0 < len(text) <= max_length and not (text.isspace() or _NOT_PRINTABLE.search(text))


def is_text(text: Any) -> bool:
    """Whether it is a printable text, which may be empty."""
    return isinstance(text, str) and len(text) <= 10_000 and not _NOT_PRINTABLE.search(re.sub(r"[\t\r\n]", "", text))


def is_integer(number: Any, low: int, high: int) -> bool:
    """Whether it is an integer within bounds."""
    return type(number) is int and low <= number <= high  # not a bool


def are_integers(numbers: Any, low: int, high: int, multiple: int = 1) -> bool:
    """Whether they are integers within bounds, each a multiple of a number."""
    return all(is_integer(number, low, high) and number % multiple == 0 for number in numbers)


def is_number(number: Any, low: float, high: float) -> bool:
    """Whether it is a number within bounds."""
    return type(number) in (int, float) and low <= number <= high


def are_numbers(numbers: Any, low: float, high: float) -> bool:
    """Whether they are numbers within bounds."""
    return all(is_number(number, low, high) for number in numbers)


def is_interval(pair: Any, low: float, high: float, min_width: float = 0.0) -> bool:
    """Whether it is a pair of rising numbers within bounds."""
    first, second = pair
    return are_numbers(pair, low, high) and second - first >= min_width


def valid_labels(labels: Any) -> bool:
    """Whether it is a table of labels 1, 2, ... with unique ids."""
    return (
        isinstance(labels, list)
        and 1 <= len(labels) < 128
        and all(is_integer(entry["label"], number, number) for number, entry in enumerate(labels, 1))
        and all(is_line(entry[key], 200) for entry in labels for key in ("id", "name"))
        and len({entry["id"] for entry in labels}) == len(labels)
        and all(entry["terminology"] == "" or is_line(entry["terminology"], 1000) for entry in labels)
        and all(len(entry["color"]) == 3 and are_numbers(entry["color"], 0, 1) for entry in labels)
    )


def valid_model_name(name: Any) -> bool:
    """Whether a name can be that of a model's folder."""
    return is_line(name, 100) and not re.search(r"[/\\]", name) and name.strip(". ") != ""


def valid_digest(text: Any) -> bool:
    """Whether a text is a SHA-256 in hexadecimal digits."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None
