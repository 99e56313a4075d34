"""Feeds the protocol with invalid messages and checks that it gives messages or errors only.

    python Testing/faults/fuzz_messages.py [--examples 100000] [--seed 0]

Random bytes, invalid UTF-8, messages with one thing wrong, deep nesting, huge numbers, very long lines, all cut into
pieces as a pipe may cut them. The reader of lines must not depend on the cuts; `decode` must return a message, which
`encode` takes again, or raise MessageError, with one sentence. One line at the end: inputs, how many were messages,
crashes, hangs (above 5 s), the slowest. The exit status is 1 after a crash or a hang.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "DiffusionSegmentation"))

from diffusion_segmentation.runtime.stdio import read_lines
from diffusion_segmentation.worker import protocol as messages

HANG_SECONDS = 5.0

GOOD: tuple[dict[str, Any], ...] = (
    {
        "type": "run", "job": "1", "folder": "/tmp/ü", "volume": "a.nrrd", "model": "m", "samples": 8, "steps": None,
        "seed": 0, "device": "auto", "regionMm": 20,
    },
    {
        "type": "update", "job": "1", "folder": "/tmp/ü", "volume": "a.nrrd", "model": "m", "samples": 8, "steps": None,
        "seed": 0, "device": "auto", "facts": "f.nrrd", "rounds": 2,
    },
    {"type": "ask", "job": "1", "folder": "/tmp/ü", "questions": ["volume(a) > 40", "distance(a, b)"]},
    {"type": "cancel", "job": "1", "keep": True},
    {"type": "unload"},
    {"type": "bye"},
    {"type": "hello", "protocol": 1, "versions": {"python": "3"}, "devices": [{"id": "cpu", "totalBytes": None}]},
    {
        "type": "progress", "job": "1", "stage": "sampling", "sample": 1, "samples": None, "step": 0, "steps": 5,
        "secondsLeft": 1.5,
    },
    {"type": "preview", "job": "1", "segmentation": "s", "entropy": "e", "samples": 0},
    {"type": "done", "job": "1", "folder": "f", "report": {"volumes": [1.5]}},
    {"type": "answers", "job": "1", "answers": [{"question": "volume(a)", "value": 41.5}]},
    {"type": "cancelled", "job": "1"},
    {"type": "error", "job": None, "kind": "memory", "message": "Too much.", "details": ""},
)  # fmt: skip

NUMBERS = st.sampled_from([0, -1, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 1e308, float("inf"), float("nan"), -0.0])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A message with a field that is wrong, missing or new, as JSON that Python would write."""
    message = dict(draw(st.sampled_from(GOOD)))
    field = draw(st.sampled_from([*message, "new", "type"]))
    if draw(st.booleans()):
        message[field] = draw(VALUES)
    else:
        message.pop(field, None)
    return json.dumps(message, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good message with bytes cut out, put in or doubled."""
    line = json.dumps(draw(st.sampled_from(GOOD))).encode()
    start = draw(st.integers(0, len(line)))
    end = draw(st.integers(start, len(line)))
    return line[:start] + draw(st.binary(max_size=6) | st.just(line[start:end] * 2)) + line[end:]


def large(kind: str, size: int) -> bytes:
    """A long or deeply nested line; `size` is the number of digits, brackets or characters."""
    text = {
        "lists": "[" * size,
        "lists in a message": '{"type":"bye","x":' + "[" * size + "]" * size + "}",
        "objects": '{"x":' * size,
        "digits": '{"type":"bye","x":' + "9" * size + "}",
        "exponent": '{"type":"progress","secondsLeft":1e' + "9" * min(size, 300) + "}",
        "job": '{"type":"cancel","keep":false,"job":"' + "ü" * size + '"}',
        "type": '{"type":"' + "\\n" * size + '"}',
        "field": '{"' + "x" * size + '":1,"type":"bye"}',
    }[kind]
    return text.encode()


LARGE = st.builds(
    large,
    st.sampled_from(
        ["lists", "lists in a message", "objects", "digits", "exponent", "job", "type", "field"],
    ),
    st.sampled_from([1, 30, 300, 900, 1100, 5000, 20_000]),
)
LINES = st.binary(max_size=60) | changed() | changed() | damaged() | damaged() | LARGE


@dataclass
class Count:
    """Counts of results."""

    inputs: int = 0
    accepted: int = 0
    crashes: int = 0
    hangs: int = 0
    slowest: float = 0.0
    first_crash: str = ""

    def __str__(self) -> str:
        numbers = f"{self.inputs} inputs, {self.accepted} messages, {self.crashes} crashes, {self.hangs} hangs"
        return f"{numbers}, slowest {self.slowest * 1000:.0f} ms{self.first_crash}"

    def look(self, check: Callable[[bytes], bool], data: bytes) -> None:
        """Count the result of `check` for one input: whether it is a message."""
        began = time.monotonic()
        try:
            self.accepted += check(data)
        except Exception as error:
            self.crashes += 1
            self.first_crash = self.first_crash or f"; first crash: {type(error).__name__}: {error} from {data[:200]!r}"
        seconds = time.monotonic() - began
        self.inputs += 1
        self.hangs += seconds > HANG_SECONDS
        self.slowest = max(self.slowest, seconds)


def check_line(line: bytes) -> bool:
    """Both sides read `line`; True if it is a message. Raises AssertionError or whatever `decode` should not."""
    is_message = False
    for table in (messages.TO_WORKER, messages.FROM_WORKER):
        try:
            message = messages.decode(line, table)
        except messages.MessageError as error:
            sentence = str(error)
            assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 500, sentence[:500]
            continue
        assert message["type"] in table
        # A decoded message can be encoded again, unless it is nested too deeply, and is then equal.
        try:
            again = messages.encode(message)
        except messages.MessageError:
            assert len(line) > 900, "decode takes what encode refuses"
        else:
            assert messages.decode(again, table) == message
        is_message = True
    return is_message


class Pieces(io.RawIOBase):
    """A stream that yields its bytes in random pieces, as a pipe may."""

    def __init__(self, data: bytes, rng: random.Random) -> None:
        self._data, self._rng = memoryview(data), rng

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._rng.choice((1, 2, 7, 100, 65536)))
        piece, self._data = bytes(self._data[:count]), self._data[count:]
        return piece


def check_stream(data: bytes, limit: int, rng: random.Random) -> bool:
    """The lines of `data` are the same however it is cut, none is longer than the limit and a byte."""
    expected = [line[: limit + 1] for line in data.split(b"\n")[:-1]]
    assert list(read_lines(Pieces(data, rng), limit)) == expected
    return False


def fuzz(examples: int, start: int = 0) -> Count:
    """Check `examples` inputs: five of six as lines, one of six as a stream of several lines."""
    count = Count()
    rng = random.Random(start)
    options = settings(
        max_examples=math.ceil(examples / 6),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @seed(start)
    @options
    @given(st.lists(LINES, min_size=6, max_size=6))
    def every(group: list[bytes]) -> None:
        for line in group[:5]:
            count.look(check_line, line)
        count.look(lambda data: check_stream(data, rng.choice((1, 50, 10_000)), rng), b"\n".join(group))

    every()
    for size in (messages.MAX_LINE_BYTES - 100, messages.MAX_LINE_BYTES, 3 * messages.MAX_LINE_BYTES):
        for kind in ("lists", "lists in a message", "objects", "digits", "job", "type", "field"):
            data = large(kind, size)
            count.look(check_line, data[: messages.MAX_LINE_BYTES])
            count.look(check_line, data)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100_000, help="inputs, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    count = fuzz(options.examples, options.seed)
    print(count)
    return int(bool(count.crashes or count.hangs))


if __name__ == "__main__":
    sys.exit(main())
