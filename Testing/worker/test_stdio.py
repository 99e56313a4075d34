"""Lines of a stream of bytes that arrives in any pieces."""

from __future__ import annotations

import io

import pytest

from diffusion_segmentation.runtime.stdio import read_lines, write_all


class Pieces(io.RawIOBase):
    """A stream that yields its bytes in pieces as a pipe may."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def read(self, size: int = -1) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


@pytest.mark.parametrize(
    "pieces",
    [(b"one\ntwo\n\nfour\n",), (b"o", b"ne", b"\n", b"two\n\nfo", b"ur\n"), (b"one\ntwo\n\n", b"four\nunfinished")],
)
def test_lines_do_not_depend_on_how_they_arrive(pieces: tuple[bytes, ...]) -> None:
    assert list(read_lines(Pieces(*pieces), 10)) == [b"one", b"two", b"", b"four"]


def test_of_a_line_that_is_too_long_only_the_start_is_kept() -> None:
    stream = Pieces(*[b"x" * 4] * 1000, b"y\n12345678\n123456789\nnext\n")
    assert list(read_lines(stream, 8)) == [b"xxxxxxxxx", b"12345678", b"123456789", b"next"]


def test_writing_continues_after_partial_writes() -> None:
    class Narrow(io.RawIOBase):
        def __init__(self) -> None:
            self.taken = b""

        def write(self, data: memoryview) -> int:
            self.taken += bytes(data[:3])
            return min(3, len(data))

    stream = Narrow()
    write_all(stream, b"0123456789")
    assert stream.taken == b"0123456789"
