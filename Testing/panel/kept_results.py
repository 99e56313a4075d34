"""Result files of the fake worker, made once for each request and copied for every further one."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def copy_or_make(kept: Path, request: dict, more: tuple, make: Callable[..., None]) -> None:
    """Put the files into the folder of a `request`, a message of the protocol; `more` is what else they depend on.

    Files of requests with the same content are copied from `kept`, so that most runs import no package. The first ones
    are written by `make(request, *more)`.
    """
    files = [request["volume"], *(request.get("inputs") or {}).values(), *filter(None, [request.get("facts")])]
    digest = hashlib.sha256(b"".join(Path(file).read_bytes() for file in files))
    names = {"job": "", "folder": "", "volume": "", "facts": "", "inputs": list(request.get("inputs") or {})}
    digest.update(json.dumps([{**request, **names}, *more], sort_keys=True).encode())
    source = kept / digest.hexdigest()
    if not source.is_dir():
        kept.mkdir(exist_ok=True)
        new = tempfile.mkdtemp(dir=kept)
        make({**request, "folder": new}, *more)
        with contextlib.suppress(OSError):  # another worker was first
            os.rename(new, source)
    for file in source.iterdir():
        target = Path(request["folder"]) / file.name
        new = target.with_name(f"{file.name}.new")
        shutil.copyfile(file, new)
        os.replace(new, target)  # at once, as the engine does: the panel may be reading the preview before it
