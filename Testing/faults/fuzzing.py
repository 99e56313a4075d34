"""What the fuzzers share: counts of results, limits of the child process and the command line."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2] / "DiffusionSegmentation"

LONGEST_SECONDS = 5.0
"""Reading that takes longer is a hang."""

MEMORY_BYTES = 4 * 2**30
"""Address space of a child, so that unbounded allocation is detected and does not exhaust the machine."""


@dataclass
class Tally:
    """Counts of results; `unexpected` counts exceptions other than the product's own errors, by text."""

    accepted: int = 0
    refused: int = 0
    crashes: int = 0
    hangs: int = 0
    unexpected: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused + self.crashes + self.hangs + sum(self.unexpected.values())

    @property
    def passed(self) -> bool:
        return not (self.crashes or self.hangs or self.unexpected)

    def count(self, result: str, seconds: float = 0.0) -> None:
        """Count "accepted", "refused", "crash", "hang" or the text of another exception."""
        self.slowest = max(self.slowest, seconds)
        self.accepted += result == "accepted"
        self.refused += result == "refused"
        self.crashes += result == "crash"
        self.hangs += result == "hang"
        if result not in ("accepted", "refused", "crash", "hang"):
            self.unexpected[result] = self.unexpected.get(result, 0) + 1

    def __str__(self) -> str:
        unexpected = "".join(f", {count} x {text}" for text, count in self.unexpected.items())
        return (
            f"{self.inputs} inputs: {self.accepted} accepted, {self.refused} refused, {self.crashes} crashes, "
            f"{self.hangs} hangs, slowest {self.slowest:.2f} s{unexpected}"
        )


def limit_memory() -> None:
    """Limit the memory of this process, where the system can."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def main(fuzz: Callable[[int, int, Path | None], Tally], description: str) -> int:
    """Run `fuzz(examples, seed, keep)` with the arguments of the command line; 1 if a result is not allowed."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100_000, help="inputs, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for inputs with a result not allowed")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ENGINE))
    start = time.monotonic()
    tally = fuzz(options.examples, options.seed, options.keep)
    print(f"{tally}; {tally.inputs / (time.monotonic() - start):.0f} inputs per second")
    return 0 if tally.passed else 1
