"""The process's own streams, kept apart from what libraries print or read.

Libraries print to stdout when they please, also from C++, which would break a line of the protocol or of `--json`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator


def claim_stdout() -> io.FileIO:
    """Return the real stdout, unbuffered; from now on everything else that goes to stdout goes to stderr."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return ours


def claim_stdin() -> io.FileIO:
    """Return the real stdin, unbuffered; from now on everything else that reads stdin finds its end."""
    # Unbuffered: a thread that waits in a buffered reader holds its lock, which ends the interpreter with a crash.
    ours = os.fdopen(os.dup(0), "rb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return ours


def write_all(stream: io.RawIOBase, data: bytes) -> None:
    """Write all of `data`; an unbuffered stream may take only a part at a time. Raises OSError if nobody reads."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) or 0 :]


def lines(stream: io.RawIOBase, limit: int) -> Iterator[bytes]:
    """Yield each line of `stream`, without its newline, as soon as it is there, until the stream ends.

    Of a line longer than `limit` bytes the first limit + 1 bytes are yielded, so that the reader can tell, and the
    rest is passed over; memory stays bounded whatever arrives. An unfinished line at the end is not yielded.
    """
    line = bytearray()
    while piece := stream.read(65536):
        head, *others = piece.split(b"\n")
        line += head[: limit + 1 - len(line)]
        for other in others:
            yield bytes(line)
            line = bytearray(other[: limit + 1])
