"""What a worker does with a case: reads its key, estimates its memory, segments it and puts the result in its place."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DeviceLostError, InputError, ModelError, explain
from ..runtime import memory
from .cases import Case
from .index import CASES, is_done
from .key import Settings, content_key, model_sha256

RUNNING = ".running"
"""Folder of unfinished results in the folder of a cohort; on the same disk, so that a rename moves one."""


@dataclass(frozen=True)
class Prepared:
    """What is known of a case before it runs.

    Attributes:
        key: see `key.content_key`.
        done: whether its result is there already.
        needs: upper bound of the memory of its run (bytes); None if it cannot be told before.
        available: free memory of the machine (bytes); None if the system does not report it.
    """

    key: str
    done: bool
    needs: int | None = None
    available: int | None = None


@dataclass(frozen=True)
class Failure:
    """A case that failed: `kind` is one of `errors.KINDS`, or "disk" (it is full) or "device" (it was lost)."""

    kind: str
    sentence: str


class SegmentationEngine:
    """Segments cases with `any_model`; one in each worker, which keeps the model loaded. It is sent before `start`."""

    def __init__(self, output: Path, settings: Settings, device: str, models: dict[str, str]) -> None:
        """`models` has the checksum of each model, by name or path, where the command was given."""
        self.output, self.settings, self.device, self.models = output, settings, device, models

    def start(self, threads: int) -> None:
        """Import what runs need. Raises InputError if this machine does not see the folder of the results."""
        import torch

        from .. import any_model

        torch.set_num_threads(threads)
        if not (self.output / RUNNING).is_dir():
            raise InputError(
                f"A worker's machine does not see the folder '{self.output.name}'; use one that all machines share."
            )
        self._engine, self._cache = any_model, any_model.ModelCache(for_updates=False)

    def prepare(self, case: Case) -> Prepared:
        """Key and memory of a case. Raises as `content_key`, and ModelError if the model is another one here."""
        if model_sha256(case.model) != self.models[case.model]:
            raise ModelError(f"The model '{case.model}' of a worker's machine is another one; copy the model there.")
        key = content_key(case, self.models[case.model], self.settings)
        if is_done(self.output, key):
            return Prepared(key, True)
        needs = self._needs(case)  # loads the model, whose memory is no longer available then
        return Prepared(key, False, needs, memory.available_memory())

    def run(self, case: Case, key: str) -> None:
        """Segment a case; its result is in the folder of its key at the end, or was there before. Raises any error."""
        work = self.output / RUNNING / uuid.uuid4().hex
        try:
            self._engine.segment(self._request(case, work), models=self._cache)
            put_in_place(work, self.output / CASES / key)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def forget(self) -> None:
        """Free the memory of the model, after an error that exhausted it."""
        self._cache.clear()

    def _request(self, case: Case, output: Path) -> Any:
        chosen = {**asdict(self.settings), "model": case.model, "series": case.series, "device": self.device}
        return self._engine.Request(volume=case.volumes, output=output, keep_samples=True, compress=True, **chosen)

    def _needs(self, case: Case) -> int | None:
        """Upper bound of the memory (bytes) of a run of our own models; None for those of others."""
        from ..runtime.devices import choose_device
        from ..segmentation.memory_plan import MemoryPlan

        _, foreign = self._engine.foreign_model(case.model)
        if foreign is not None:
            return None
        device = choose_device(self.device)
        model = self._cache.get(case.model, device)
        if model.foreign is not None:
            return None
        first = self._request(case, self.output).files().first
        return MemoryPlan.upper_bound(model, device, first.size, first.spacing, first.direction)


def put_in_place(work: Path, place: Path) -> None:
    """Move a finished result to its place by one rename, after its files are on the disk; if one is there, keep that.

    Raises OSError.
    """
    for path in (*work.iterdir(), work):
        _flush(path)
    place.parent.mkdir(exist_ok=True)
    try:
        os.rename(work, place)
    except OSError:
        if not place.is_dir():  # else another worker was faster, with the same content
            raise
        return
    _flush(place.parent)


def _flush(path: Path) -> None:
    """Wait until a file or, where the system can do so, the entries of a folder are on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def failure(error: BaseException) -> Failure:
    """The kind and the sentence of an error of a case."""
    kind, sentence = explain(error)
    if isinstance(error, DeviceLostError):
        return Failure("device", sentence)
    full = (errno.ENOSPC, errno.EDQUOT)
    if any(isinstance(one, OSError) and one.errno in full for one in _causes(error)):
        return Failure("disk", sentence)
    return Failure(kind, sentence)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def silence() -> None:
    """End all output of this process, also of libraries: Ray keeps it in files, and it can name a patient."""
    package = logging.getLogger(__name__.partition(".")[0])
    package.addHandler(logging.NullHandler())
    package.propagate = False
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
