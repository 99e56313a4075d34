"""The protocol between Slicer and the worker: one JSON object per line, UTF-8, with "type" and, for a run, "job".

Both sides import it; standard library only. Unknown fields are accepted, so that one side can add a field without
breaking the other. A missing or wrongly typed field is refused, when sending and when receiving.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import KINDS, DiffusionSegmentationError

PROTOCOL = 1  # version of the messages; both sides must have the same
MAX_LINE_BYTES = 4 * 2**20  # maximum length of a line, with its newline; a report has about 10 kB
MAX_JOB_CHARACTERS = 256  # maximum length of a job's name, which every message of the job repeats
# Exclusive upper limit for integers: JSON has none, and larger ones fit neither a float nor a seed.
INTEGER_LIMIT = 2**63

Check = Callable[[Any], bool]


def _is(kind: type) -> Check:
    return lambda value: isinstance(value, kind)


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _job(value: Any) -> bool:
    return _name(value) and len(value) <= MAX_JOB_CHARACTERS


def _integer(value: Any, lowest: int = -INTEGER_LIMIT) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value < INTEGER_LIMIT


def _seconds(value: Any) -> bool:
    # Finite: JSON's 1e999 is parsed as infinity.
    return _integer(value) or (isinstance(value, float) and math.isfinite(value))


def _devices(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(device, dict) and _name(device.get("id")) for device in value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_name, value))


def _files(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_name, value)) and all(map(_name, value.values()))


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _millimetres(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 5 <= value <= 100


def _spacing(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_positive_number(one) for one in value)


def _positive_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


_text, _flag, _object = _is(str), _is(bool), _is(dict)
_count, _positive = partial(_integer, lowest=0), partial(_integer, lowest=1)
Table = Mapping[str, Mapping[str, Check]]

# source: the file that the volume was loaded from; the report warns about geometry that its header does not state.
# inputs: files by the names of a model's inputs, `volume` among them; null for a model of one input.
# ask: questions that the report answers; such a run sends no previews and keeps no samples, but for an update with
# keepSamples, which does both.
# compress, keepSamples, spacing: as the options of `segment`; files are not compressed and samples kept if absent.
_OPTIONAL_RUN: Mapping[str, Check] = {
    "regionMm": _or_null(_millimetres),
    "source": _or_null(_name),
    "inputs": _or_null(_files),
    "ask": _or_null(_names),
    "compress": _or_null(_flag),
    "keepSamples": _or_null(_flag),
    "spacing": _or_null(_spacing),
}

# Fields that may be absent, which is the same as null: older clients and workers do not know them.
OPTIONAL: Table = {
    "run": _OPTIONAL_RUN,
    "import": {"regionMm": _or_null(_millimetres), "source": _or_null(_name), "labels": _or_null(_name)},
    # rounds: updates of the result, this one included; 1 if absent. sha256: digest of the voxels of the first input, as
    # in the report of the result; other voxels are refused.
    "update": {**_OPTIONAL_RUN, "rounds": _or_null(_positive), "sha256": _or_null(_name)},
    "progress": {"note": _or_null(_text)},  # a sentence on a change to the run, such as smaller windows
    # tryDevice: a device on which the run could succeed. ends: the worker ends after this message.
    "error": {"tryDevice": _or_null(_name), "ends": _or_null(_flag)},
    # over: false if the run has not ended yet; a second message follows at its end.
    "cancelled": {"over": _or_null(_flag), "ends": _or_null(_flag)},
}

_RUN: Mapping[str, Check] = {
    "job": _job,
    "folder": _name,
    "volume": _name,
    "model": _name,
    "samples": lambda value: value in (None, "auto") or _positive(value),
    "steps": _or_null(_positive),
    "seed": _count,
    "device": _name,
}

TO_WORKER: Table = {
    "run": _RUN,
    # the run again with the same fields, given facts: a label map on the grid of the volume, 255 where nothing is known
    "update": {**_RUN, "facts": _name},
    # masks: label maps or .npz files of class probabilities, on the grid of the volume; labels: dataset.json
    "import": {"job": _job, "folder": _name, "volume": _name, "masks": _names},
    # questions about the result in the folder, from its samples.seq.nrrd, segmentation.seg.nrrd and report.json
    "ask": {"job": _job, "folder": _name, "questions": _names},
    "cancel": {"job": _job, "keep": _flag},
    "unload": {},
    "bye": {},
}

_RESULT: Mapping[str, Check] = {"job": _job, "folder": _name, "report": _object}

FROM_WORKER: Table = {
    "hello": {"protocol": _integer, "versions": _object, "devices": _devices},
    "progress": {
        "job": _job,
        "stage": _name,
        "sample": _count,
        "samples": _or_null(_count),
        "step": _count,
        "steps": _or_null(_count),
        "secondsLeft": _or_null(_seconds),
    },
    "preview": {"job": _job, "segmentation": _name, "entropy": _or_null(_name), "samples": _count},
    "done": _RESULT,
    "partial": _RESULT,
    "answers": {"job": _job, "answers": _objects},  # one for each question, as in report.json
    "cancelled": {"job": _job},
    "error": {"job": _or_null(_job), "kind": lambda value: value in KINDS, "message": _name, "details": _text},
}

ALL: Table = {**TO_WORKER, **FROM_WORKER}


class MessageError(DiffusionSegmentationError):
    """A line or object that is not a message of the protocol.

    `job` is that of a malformed `run`, `update`, `import` or `ask` message, if it could be read; otherwise None.
    """

    kind = "input"

    def __init__(self, sentence: str, job: str | None = None) -> None:
        super().__init__(sentence)
        self.job = job


def encode(message: Mapping[str, Any]) -> bytes:
    """`message` as one line that ends in a newline. Raises MessageError for anything that `decode` refuses."""
    _check(message, ALL)
    try:
        # ASCII escapes preserve U+2028 and the lone surrogates of POSIX file names that are not UTF-8.
        line = json.dumps(message, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError(f"The message '{message['type']}' cannot be written as JSON ({error}).") from error
    if len(line) > MAX_LINE_BYTES:
        raise MessageError(f"The message '{message['type']}' is too long ({len(line)} bytes).")
    return line


def decode(line: bytes, table: Table = ALL) -> dict[str, Any]:
    """The message in `line` (with or without its newline), of a type in `table`: TO_WORKER, FROM_WORKER or ALL.

    Raises MessageError for invalid UTF-8 or JSON, a line that is too long, anything but an object, an unknown type, and
    a missing or wrongly typed field.
    """
    if len(line) > MAX_LINE_BYTES:
        raise MessageError(f"A message is longer than {MAX_LINE_BYTES} bytes.")
    try:
        message = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise MessageError("A message is not valid UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise MessageError("A message is not valid JSON.") from error
    if not isinstance(message, dict):
        raise MessageError("A message is not a JSON object.")
    _check(message, table)
    return message


def compatible(hello: Mapping[str, Any]) -> str | None:
    """None if this side understands the worker that sent `hello`, otherwise one sentence with the reason."""
    if hello["protocol"] == PROTOCOL:
        return None
    return (
        f"The background process uses protocol {hello['protocol']}, but {PROTOCOL} is needed; "
        "install the same version of DiffusionSegmentation on both sides."
    )


def _check(message: Mapping[str, Any], table: Table) -> None:
    kind = message.get("type")
    if not isinstance(kind, str):
        raise MessageError("A message has no type.")
    fields = table.get(kind)
    if fields is None:
        raise MessageError(f"The message type {kind[:80]!r} is unknown here.")
    job = message.get("job") if kind in ("run", "update", "import", "ask") and _job(message.get("job")) else None
    optional = OPTIONAL.get(kind, {})
    for field, check in {**optional, **fields}.items():
        if field not in message and field not in optional:
            raise MessageError(f"The message '{kind}' lacks the field '{field}'.", job)
        if not check(message.get(field)):
            raise MessageError(f"The field '{field}' of the message '{kind}' has a wrong value.", job)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
