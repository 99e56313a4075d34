"""Exclusive use of the process's standard streams.

Libraries print to stdout, also from C++, which would corrupt a line of the protocol or the output of `--json`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator


def claim_stdout() -> io.FileIO:
    """Return stdout, unbuffered; redirect all other output to stdout, also from C++ and children, to stderr."""
    sys.stdout.flush()
    _set_binary(1)
    stdout = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stdout


def claim_stdin() -> io.FileIO:
    """Return stdin, unbuffered; all other readers of stdin find the end of file."""
    # Unbuffered: a thread that waits in a buffered reader holds its lock, which crashes the interpreter at exit.
    _set_binary(0)
    stdin = os.fdopen(os.dup(0), "rb", buffering=0)
    with open(os.devnull, "rb") as devnull:
        os.dup2(devnull.fileno(), 0)
    return stdin


def _set_binary(descriptor: int) -> None:
    """Keep Windows from translating line ends in the stream of a descriptor."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(descriptor, os.O_BINARY)


def write_all(stream: io.RawIOBase, data: bytes) -> None:
    """Write all of `data` to an unbuffered stream. Raises OSError if the reader has closed it."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) or 0 :]


def read_lines(stream: io.RawIOBase, limit: int) -> Iterator[bytes]:
    """Yield each line of `stream`, without its newline, as soon as it is complete.

    A line longer than `limit` bytes is cut to limit + 1 bytes, which shows the caller that it was too long and bounds
    the memory. An incomplete last line is not yielded.
    """
    line = bytearray()
    while chunk := stream.read(65536):
        head, *others = chunk.split(b"\n")
        line += head[: limit + 1 - len(line)]
        for other in others:
            yield bytes(line)
            line = bytearray(other[: limit + 1])
