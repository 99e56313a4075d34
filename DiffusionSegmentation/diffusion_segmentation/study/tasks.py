"""What a study is made on: arrays of a task for training and validation, and test cases whose truth is known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..evaluation.known_answer.posterior import Truth
from ..images.file_digest import content
from ..images.writing import write_report
from ..phantoms import PHANTOMS, PhantomCase, phantom
from ..phantoms.enumerable import EnumerableCase
from ..training.folder import Folder, Windows
from ..training.settings import Optimisation

MASKS = 8
"""Masks that come with every image of a phantom: draws from its exact posterior."""
NEAR = 3
"""Voxels from a structure within which a test case of a folder is scored."""
LEAST_CASES = 5
TRAIN, VALIDATION, TEST = "train", "validation", "test"
# Streams of random numbers of the parts of a phantom; those of `evaluate` have other keys.
STREAMS = {TRAIN: 101, VALIDATION: 102, TEST: 103}


@dataclass(frozen=True)
class Sizes:
    """How many images each part of a task has; of a folder as many windows for training, and its own cases else."""

    train: int = 4096
    validation: int = 128
    test: int = 100


@dataclass(frozen=True)
class Task:
    """A prepared task. `arrays` are small enough for memory, and every process of a study opens them by itself."""

    text: str
    """What the person wrote."""
    name: str
    folder: Path
    shape: tuple[int, ...]
    label_names: tuple[str, ...]
    exact: bool
    """Whether the law of the truth is known; otherwise there are raters' masks."""
    cases: tuple[str, ...]
    """Names of the test cases."""
    content: str
    """Tells one content of the arrays from another."""

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return 1 + len(self.label_names)

    def arrays(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 [N, *shape] and their masks uint8 [N, R, *shape]."""
        return tuple(np.load(self.folder / f"{part}-{kind}.npy", mmap_mode="r") for kind in ("images", "masks"))

    def standard(self) -> tuple[float, float]:
        """Mean and standard deviation of the training images, which image generation is standardised by."""
        images = self.arrays(TRAIN)[0]
        return float(images.mean()), float(images.std())

    def case(self, index: int) -> PhantomCase:
        """A test case; of a folder the raters' masks are its law."""
        if self.exact:
            return phantom(self.text).draw(np.random.default_rng([STREAMS[TEST], index]))
        images, masks = self.arrays(TEST)
        raters = json.loads((self.folder / f"{TEST}.json").read_text(encoding="utf-8"))["raters"][index]
        weights = np.full(raters, 1 / raters)
        return RatedCase(np.array(images[index]), self.classes, np.array(masks[index, :raters]), weights)

    def truth(self, index: int) -> Truth:
        """A test case with what its scores need."""
        return (Truth if self.exact else RatedTruth)(self.case(index), np.random.default_rng([STREAMS[TEST], index, 1]))


class RatedCase(EnumerableCase):
    """A case of a folder: the law of its label map is taken to be that of its raters' masks."""


class RatedTruth(Truth):
    """A case with raters: voxels near the structures count, because the true probabilities are not known."""

    @cached_property
    def _near(self) -> np.ndarray:
        marked = self.draws.any(0)
        return ndimage.binary_dilation(marked, iterations=NEAR) if marked.any() else np.ones_like(marked)

    def __init__(self, case: PhantomCase, rng: np.random.Generator) -> None:
        super().__init__(case, rng)
        self.anywhere = self._near
        self.open = np.broadcast_to(self._near, (case.classes - 1, *self._near.shape))


def check_halves(question: str, task: Task) -> None:
    """Raise InputError, one sentence, where windows of half the edge are none that a network can take."""
    if any(n % 16 for n in task.shape):
        shape = "x".join(map(str, task.shape))
        raise InputError(
            f"{question} works in windows of half the edge, so edges must be multiples of 16; "
            f"'{task.name}' has {shape}."
        )


def prepare(text: str, cache: Path, sizes: Sizes) -> Task:
    """Make a task's arrays in `cache`, or find them there. Raises InputError, one sentence, where there is no task."""
    if Path(text).is_dir():
        return _from_folder(Path(text), cache, sizes)
    if text.partition(":")[0] in PHANTOMS:
        return _from_phantom(text, cache, sizes)
    raise InputError(
        f"'{text}' is no folder of labelled images and none of the tasks with a known answer ({', '.join(PHANTOMS)})."
    )


def _from_phantom(text: str, cache: Path, sizes: Sizes) -> Task:
    kind = phantom(text)
    content = _hash({"phantom": text, "sizes": asdict(sizes), "masks": MASKS, "schema": 1})
    folder = cache / "tasks" / f"{kind.name}-{content}"
    task = Task(
        text=text,
        name=text,
        folder=folder,
        shape=kind.shape,
        label_names=kind.label_names,
        exact=True,
        cases=tuple(f"case {n + 1}" for n in range(sizes.test)),
        content=content,
    )
    for part, count in ((TRAIN, sizes.train), (VALIDATION, sizes.validation)):
        if not _there(folder, part):
            rng = np.random.default_rng(STREAMS[part])
            drawn = [kind.draw(rng) for _ in range(count)]
            _keep(folder, part, [case.image for case in drawn], [case.sample(rng, MASKS) for case in drawn])
    return task


def _from_folder(path: Path, cache: Path, sizes: Sizes) -> Task:
    """Windows of a folder: a fifth of the cases for the test, a fifth for validation, the rest for training."""
    source = Folder(path, cache / "prepared")
    if len(source.dataset.training) < LEAST_CASES:
        raise InputError(
            f"A study needs {LEAST_CASES} labelled cases or more: some to train, to validate and to test on."
        )
    if source.dataset.ignored is not None:
        raise InputError(
            "A study needs every voxel labelled; leave out the label 'ignore' and the voxels that have it."
        )
    settings = source.settings()
    source.configure(settings["diffusion_segmentation"])
    optimisation = Optimisation.read({**settings["optimisation"], "draws": MASKS, "seed": STREAMS[TRAIN]})
    fifth = max(1, len(source.seen) // 4)
    parts = {TRAIN: source.seen[fifth:], VALIDATION: source.seen[:fifth], TEST: source.held_out}
    key = _hash(
        {
            "folder": source.dataset.name,
            "cases": [[case.name, content(case.image, *case.labels)] for case in source.dataset.training],
            "labels": source.dataset.label_names,
            "sizes": asdict(sizes),
            "schema": 2,
        }
    )
    folder = cache / "tasks" / f"{settings['diffusion_segmentation']['name']}-{key}"
    for part, cases in parts.items():
        if _there(folder, part):
            continue
        pairs = source.prepare(cases)
        if part == TEST:
            windows = [_around(*pair, optimisation.shapes[0]) for pair in pairs]
        else:
            stream = iter(Windows(pairs, optimisation, STREAMS[part], augment=part == TRAIN))
            # Windows of a volume are large: as many values as the images of a phantom have, not as many windows.
            count = max(
                16, min(sizes.train if part == TRAIN else sizes.validation, 2**28 // 4 // _voxels(optimisation))
            )
            windows = [[array.numpy() for array in next(stream)] for _ in range(count)]
            windows = [(image[0], masks) for image, masks in windows]
        _keep(folder, part, [image for image, _ in windows], [masks for _, masks in windows])
    return Task(
        text=str(path),
        name=source.dataset.name,
        folder=folder,
        shape=tuple(optimisation.shapes[0]),
        label_names=tuple(source.dataset.label_names),
        exact=False,
        cases=tuple(case.name for case in parts[TEST]),
        content=key,
    )


def _around(image: Path, masks: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The window of a test case around all that any rater has marked."""
    whole, labels = (np.load(path, mmap_mode="r") for path in (image, masks))
    marked = np.argwhere(labels.any(0))
    centre = marked.mean(0) if len(marked) else np.array(whole.shape) / 2
    start = [int(np.clip(c - n / 2, 0, max(0, m - n))) for c, n, m in zip(centre, shape, whole.shape, strict=True)]
    window = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    fill = [(0, max(0, n - m)) for n, m in zip(shape, whole.shape, strict=True)]
    return (
        np.pad(whole[window].astype(np.float32), fill),
        np.pad(np.stack([rater[window] for rater in labels]), [(0, 0), *fill]),
    )


def _voxels(optimisation: Optimisation) -> int:
    return int(np.prod(optimisation.shapes[0]))


def _there(folder: Path, part: str) -> bool:
    return (folder / f"{part}.json").is_file()


def _keep(folder: Path, part: str, images: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Write a part; its JSON comes last, so that a part that has one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    count = max(len(m) for m in masks)
    full = [np.resize(m, (count, *m.shape[1:])) for m in masks]  # repeated where a case has fewer raters
    for kind, arrays, dtype in (("images", images, np.float32), ("masks", full, np.uint8)):
        partial = folder / f"{part}-{kind}.npy.part"
        with partial.open("wb") as file:
            np.save(file, np.stack(arrays).astype(dtype, copy=False))
        partial.replace(folder / f"{part}-{kind}.npy")
    write_report(folder / f"{part}.json", {"raters": [len(m) for m in masks]})


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
