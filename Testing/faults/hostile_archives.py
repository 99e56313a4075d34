"""Archives with random faults: their paths, kinds of members, sizes and bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import warnings
import zipfile

PATHS = (
    *(
        "../{}",
        "../../{}",
        "/{}",
        "/etc/{}",
        "a/../../{}",
        "./{}",
        "..\\{}",
        "C:\\{}",
        "{}/",
        "//{}",
        "{}/../{}",
        "~/{}",
    ),
    *("m\0/{}", "x" * 300 + "/{}", "y/" * 400 + "{}", "\udcff/{}", "\u202e/{}", "a\nb/{}", "é/{}", " /{}", ".../{}"),
    *("../configs/{}", "deep/er/{}", "__MACOSX/{}", "con/{}", "-rf/{}"),
)
TYPES = (
    *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE),
    *(tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, b"?"),
)
LINKS = ("/etc/passwd", "../../..", "/dev/zero", "metadata.json", "", "x" * 5000)
MANY = 11_000


def paths(names: list[str], draw: random.Random) -> list[tuple[str, str]]:
    """Pairs of a file's name and its path in the archive, with faults in half of the archives."""
    folder = draw.choice(("", "model/", "a/b/"))
    pairs = [(name, folder + name) for name in names]
    for _ in range(draw.choice((0, 0, 1, 2))):
        at = draw.randrange(len(pairs))
        name, path = pairs[at]
        fault = draw.choice(("path", "path", "all", "twice", "both", "order", "remove", "copy"))
        if fault == "path":
            pairs[at] = name, draw.choice(PATHS).replace("{}", path)
        elif fault == "all":
            form = draw.choice(PATHS)
            pairs = [(one, form.replace("{}", one)) for one in names]
        elif fault == "twice":
            pairs.append((draw.choice(names), path))
        elif fault == "both":
            pairs += [(one, "second/" + one) for one in names]
        elif fault == "order":
            draw.shuffle(pairs)
        elif fault == "copy":
            pairs.append((name, "copy/" + path))
        elif len(pairs) > 1:
            del pairs[at]
    return pairs


def zipped(files: dict[str, bytes], draw: random.Random) -> bytes:
    """A .zip archive of files, with faults in most cases."""
    file = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", method) as archive:  # two of one name
        for name, path in paths(list(files), draw):
            info = zipfile.ZipInfo("x")
            info.filename = path.encode("utf-8", "replace").decode()  # past the checks of the constructor
            info.compress_type = method
            if draw.random() < 0.02:
                info.external_attr = 0o120777 << 16  # a symbolic link
            archive.writestr(info, files[name])
        if draw.random() < 0.003:
            for number in range(MANY):
                archive.writestr(f"more/{number}", b"")
    data = file.getvalue()
    fault = draw.choice(("none", "none", "field", "flag", "end"))
    directory = data.find(b"PK\x01\x02")
    if fault == "field":  # method, sizes, lengths or offset of one entry of the directory
        at, size = draw.choice(((10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)))
        return _put(data, directory + at, draw.choice((0, 1, 99, 2**15, 2**31, 2**32 - 1)), size)
    if fault == "flag":  # encrypted, with UTF-8, of an unknown form
        return _put(data, directory + 8, draw.choice((1, 0x800, 0x2041, 0xFFFF)), 2)
    if fault == "end":  # entries, size and place of the directory
        return _put(data, len(data) - 22 + draw.choice((4, 8, 10, 12, 16, 20)), draw.choice((0, 1, 2**16 - 1)), 2)
    return damaged_bytes(data, draw)


def tarred(files: dict[str, bytes], draw: random.Random) -> bytes:
    """A .tar archive of files, plain or compressed, with faults in most cases."""
    file = io.BytesIO()
    form = draw.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as archive:
        for name, path in paths(list(files), draw):
            info = tarfile.TarInfo(path)
            info.size = len(files[name])
            fault = draw.random()
            if fault < 0.04:
                info.type, info.linkname = draw.choice(TYPES), draw.choice(LINKS)
            elif fault < 0.06 and form == tarfile.PAX_FORMAT:
                sizes = draw.choice(("1" * 20, "-1", "x", str(2**40), "1e9"))
                keys = ("size", "GNU.sparse.realsize", "GNU.sparse.size", "GNU.sparse.map", "path", "mtime", "charset")
                info.pax_headers = {draw.choice(keys): sizes}
            archive.addfile(info, io.BytesIO(files[name]))
        if draw.random() < 0.003:
            for number in range(MANY):
                archive.addfile(tarfile.TarInfo(f"more/{number}"))
    data = file.getvalue()
    if draw.random() < 0.1:  # a size in a header, with its checksum
        data = with_size(data, draw)
    elif draw.random() < 0.01:
        data = sparse(draw.choice(list(files))) + data
    data = damaged_bytes(data, draw)
    form = draw.choice(("plain", "plain", "gzip", "gzip", "xz", "bz2"))
    if form == "gzip":
        return damaged_bytes(gzip.compress(data, 1), draw)
    if form == "xz":
        return damaged_bytes(lzma.compress(data, preset=0), draw)
    return damaged_bytes(bz2.compress(data, 1), draw) if form == "bz2" else data


def bomb(draw: random.Random) -> bytes:
    """A small compressed archive of 2**29 zeros in a member or in a header."""
    kind = draw.choice((tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE))
    header = tarfile.TarInfo("fold_0/checkpoint_final.pth")
    header.size, header.type = 2**29, kind
    zeros = bytes(2**24)
    compressor = draw.choice((bz2.BZ2Compressor, lzma.LZMACompressor))()
    parts = [compressor.compress(part) for part in (header.tobuf(), *[zeros] * 32)]
    return b"".join([*parts, compressor.flush()])


def with_size(data: bytes, draw: random.Random) -> bytes:
    """A .tar archive whose first member has another size, which can be negative, as number of base 256."""
    header = bytearray(data[:512])
    number = draw.choice((2**33, 2**40, 2**62, -512, -1024, -1, -(2**40)))
    header[124:136] = (b"\x80" if number >= 0 else b"\xff") + number.to_bytes(11, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


def sparse(name: str) -> bytes:
    """A member of 2**40 bytes that are not stored."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"00000000000\0", b"00000000000\0"
    header[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def damaged_bytes(data: bytes, draw: random.Random, share: float = 0.3) -> bytes:
    """Bytes with faults, in a share of the cases."""
    if draw.random() > share or not data:
        return data
    at = draw.randrange(len(data))
    fault = draw.choice(("cut", "flip", "insert", "front", "after", "zeros"))
    if fault == "cut":
        return data[:at]
    if fault == "flip":
        return data[:at] + bytes([data[at] ^ draw.randrange(1, 256)]) + data[at + 1 :]
    if fault == "insert":
        return data[:at] + draw.randbytes(draw.choice((1, 3, 512))) + data[at:]
    if fault == "zeros":
        return data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]
    return b"#!/bin/sh\n" + data if fault == "front" else data + draw.randbytes(600)


def _put(data: bytes, at: int, number: int, size: int) -> bytes:
    return data[:at] + struct.pack("<Q", number)[:size] + data[at + size :]
