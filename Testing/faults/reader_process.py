"""A child process that reads what it is given, so that a crash of a library ends the child only."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fuzzing import ENGINE, LONGEST_SECONDS, limit_memory


def serve(pipe: multiprocessing.connection.Connection, look: Callable[[Path], str]) -> None:
    """In the child: send the result of `look` for each path received, until None comes.

    An error of the product is "refused" if it is one sentence without the folder's path.
    """
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # ITK's warnings
    limit_memory()
    sys.path.insert(0, str(ENGINE))
    import SimpleITK as sitk

    from diffusion_segmentation.errors import GeometryError, InputError, OutOfMemoryError

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    pipe.send("ready")
    while (path := pipe.recv()) is not None:
        started = time.monotonic()
        try:
            answer = look(Path(path))
        except (InputError, GeometryError, OutOfMemoryError) as error:
            sentence = str(error)
            whole = sentence.endswith(".") and "\n" not in sentence and str(Path(path).parent) not in sentence
            answer = "refused" if whole else f"no sentence: {sentence}"
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"[:100]
        pipe.send((answer, time.monotonic() - started))


class Child:
    """A process that applies `look` to paths."""

    def __init__(self, look: Callable[[Path], str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, look), daemon=True)
        self.process.start()
        other.close()
        if not self.pipe.poll(120) or self.pipe.recv() != "ready":
            raise RuntimeError("the child process did not start")

    def ask(self, path: Path) -> tuple[str, float]:
        """Result ("accepted", "refused", "crash", "hang" or an exception) and seconds; ended after a crash or hang."""
        self.pipe.send(str(path))
        if not self.pipe.poll(LONGEST_SECONDS):
            self.end()
            return "hang", LONGEST_SECONDS
        try:
            return self.pipe.recv()
        except EOFError:
            self.end()
            return "crash", 0.0

    def end(self) -> None:
        self.process.kill()
        self.process.join()
