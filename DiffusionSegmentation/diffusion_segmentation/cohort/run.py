"""The command `cohort`: segments many cases into one folder and goes on where an earlier command ended."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, explain
from ..images.input_names import inputs_of
from ..model.folder import find
from ..model.metadata import read_metadata
from .cases import find_cases
from .dispatch import DiskFull, Dispatcher
from .engine import RUNNING, SegmentationEngine
from .index import CASES, Entry, Index
from .key import Settings, model_sha256
from .local_ray import connected, require_ray
from .places import places
from .progress import CohortProgress, counts
from .triage import write_triage

WRITE_SECONDS = 30.0  # between updates of cohort.json and of the triage page
LOCK = ".lock"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CohortRequest:
    """Parameters of a run; those of `Settings`, and where and how it runs."""

    paths: Sequence[Path]  # folders, volumes, CSV files
    output: Path
    model: str
    settings: Settings
    device: str = "auto"
    workers: int | None = None  # None: one for each GPU, or for each four cores
    address: str | None = None  # of a cluster of Ray; None starts Ray on this machine


def cohort(request: CohortRequest) -> dict[str, Any]:
    """Segment all cases; returns {"cases", "done", "failed", "left", "folder"}, numbers of cases and the folder.

    Raises InputError for inputs that cannot be used, ModelError, DiskFull, and KeyboardInterrupt after Ctrl+C. The
    results of finished cases stay in all cases.
    """
    require_ray()
    found = find_cases(request.paths, request.model, _input_count, request.output)
    models = {model: model_sha256(model) for model in {case.model for case in found.cases}}
    others = f"; {_plural(found.left_out, 'other file')} left out" if found.left_out else ""
    logger.info(f"{_plural(len(found.cases), 'case')} found{others}.")
    output = request.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    with _locked(output):
        index = Index(output, found.cases)
        if index.dropped:
            logger.warning(
                f"{_plural(index.dropped, 'case')} of an earlier command {'is' if index.dropped == 1 else 'are'} not "
                f"among these and no longer listed; the results stay in '{CASES}'."
            )
        index.write()
        engine = SegmentationEngine(output, request.settings, request.device, models)
        with _work_folder(output), connected(request.address) as nodes:
            _run(request, index, engine, nodes)
    return {"cases": len(index.entries), **counts(index.entries), "folder": str(output)}


def text(result: dict[str, Any], folder: Path) -> str:
    """The result of `cohort` as text."""
    failed = f", {result['failed']} failed" if result["failed"] else ""
    return f"{result['done']} of {_plural(result['cases'], 'case')} done{failed}. Results are in {folder}"


def _run(request: CohortRequest, index: Index, engine: SegmentationEngine, nodes: Sequence[dict[str, Any]]) -> None:
    from .slots import RayPool  # after `connected`: Ray reads its settings when it is imported

    gpus = request.device in ("auto", "cuda")
    placed = places(nodes, 1 if request.device == "mps" else request.workers, gpus)
    if request.device == "cuda" and not placed[0].gpus:
        raise InputError("Ray finds no GPU for --device cuda; choose another device, for example cpu.")
    if len(placed) < (request.workers or 0):
        logger.warning(f"Only {_plural(len(placed), 'worker')} can run: one for each GPU.")
    with (
        CohortProgress(index.entries) as progress,
        _published(index) as publish,
        RayPool(engine, placed) as pool,
    ):

        def ended(entry: Entry) -> None:
            publish.due = True
            if entry.state == "failed":
                progress.failed(entry)

        def tick() -> None:
            publish()
            progress.show(dispatcher.computed, dispatcher.running)

        dispatcher = Dispatcher(index.entries, pool, ended, tick)
        try:
            dispatcher.run()
        except DiskFull as error:
            left = _plural(counts(index.entries)["left"], "case")
            raise DiskFull(f"{error} {left} left; give the same command again to go on.") from error


class _Publisher:
    """Writes cohort.json and the triage page every WRITE_SECONDS while cases end; the page in a thread of its own.

    `due` is set when something has changed.
    """

    def __init__(self, index: Index) -> None:
        self._index, self._pool = index, ThreadPoolExecutor(1)
        self._page: Future[None] | None = None
        self._next = time.monotonic() + WRITE_SECONDS
        self.due = False

    def __call__(self) -> None:
        if self.due and time.monotonic() >= self._next and (self._page is None or self._page.done()):
            self.due, self._next = False, time.monotonic() + WRITE_SECONDS
            self._index.write()
            self._page = self._pool.submit(_write_page, self._index.folder)

    def last(self) -> None:
        """Write both once more, at the end."""
        self._index.write()
        self._pool.shutdown()
        _write_page(self._index.folder)


@contextlib.contextmanager
def _published(index: Index) -> Iterator[_Publisher]:
    publisher = _Publisher(index)
    try:
        yield publisher
    finally:
        publisher.last()


def _write_page(folder: Path) -> None:
    """Write the triage page. An error of it becomes a warning: no case is lost by it."""
    try:
        write_triage(folder)
    except Exception as error:
        logger.warning(f"The triage page could not be written: {explain(error)[1]}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other commands out of a folder. Raises InputError if there is one."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"Another command is segmenting into '{folder.name}'; wait for its end, or choose another folder."
        ) from error


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[None]:
    """An empty folder for unfinished results, which is removed at the end."""
    work = folder / RUNNING
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _input_count(model: str) -> int:
    """Number of inputs of a model. Raises ModelError."""
    return len(inputs_of(read_metadata(find(model))["diffusion_segmentation"]))


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
