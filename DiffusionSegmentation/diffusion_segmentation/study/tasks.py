"""Tasks of a study: arrays for training and validation, and test cases with a known posterior or raters' masks."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..evaluation.known_answer.posterior import Truth
from ..images.file_digest import files_sha256
from ..images.input_names import Input, channel_count
from ..images.writing import atomic_file, write_report
from ..phantoms import PHANTOMS, PhantomCase, phantom
from ..phantoms.enumerable import EnumerableCase
from ..segmentation.tiling import channels_first
from ..training.folder import Folder
from ..training.settings import Optimisation
from ..training.windows import Windows
from .variants import json_digest

MASKS = 8  # masks per image of a phantom, drawn from its exact posterior
SCORED_MARGIN = 3  # test cases of a folder are scored within this many voxels of a structure
MIN_CASES = 5
SMALLEST_DEVIATION = 1e-3
MAX_IMAGE_BYTES = 2**29  # limit for the float32 images of a part: 4096 of 181 x 181 pixels, 1213 of 48 x 48 x 48 voxels
TRAIN, VALIDATION, TEST, FURTHER = "train", "validation", "test", "further"
"""Parts of a task. FURTHER: as TRAIN, for networks on top of one that was trained on TRAIN; a folder has none."""
PART_SEEDS = {TRAIN: 101, VALIDATION: 102, TEST: 103, FURTHER: 104}  # of a phantom's parts; `evaluate` uses others


@dataclass(frozen=True)
class Sizes:
    """Images in each part of a task; in a folder windows of its cases, and for the test the held-out cases.

    For training and validation there are fewer where they would exceed `MAX_IMAGE_BYTES`.
    """

    train: int = 4096
    validation: int = 128
    test: int = 100


@dataclass(frozen=True)
class Task:
    """A prepared task, whose arrays each process memory-maps."""

    text: str  # the data as named on the command line
    name: str
    folder: Path
    shape: tuple[int, ...]
    label_names: tuple[str, ...]
    inputs: tuple[Input, ...]
    exact: bool  # whether the exact posterior is known; otherwise there are raters' masks
    cases: tuple[str, ...]  # names of the test cases
    content: str  # hash of what the arrays are made from
    share: tuple[int, int] = (0, 1)  # which of how many shares of the test cases `scored_cases` gives

    @property
    def classes(self) -> int:
        """Number of classes, including background."""
        return 1 + len(self.label_names)

    @property
    def channels(self) -> int:
        """Number of channels of all inputs."""
        return channel_count(self.inputs)

    def arrays(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 [N, channels, *shape] and their masks uint8 [N, R, *shape]."""
        images, masks = (np.load(self.folder / f"{part}-{kind}.npy", mmap_mode="r") for kind in ("images", "masks"))
        return images, masks

    def image_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel of the training images, float32 [channels, 1, ...]."""
        images = self.arrays(TRAIN)[0]
        axes = tuple(range(1, images.ndim - 1))
        # Image by image: the mean of the squares of all of them at once would need as much memory again.
        moments = [[np.mean(image**power, axes, np.float64, keepdims=True) for power in (1, 2)] for image in images]
        mean, square = np.mean(moments, 0)
        deviation = np.sqrt(np.maximum(square - mean**2, SMALLEST_DEVIATION**2))  # a colour can be constant
        return mean.astype(np.float32), deviation.astype(np.float32)

    def case(self, index: int) -> PhantomCase:
        """A test case; in a folder, the raters' masks are its posterior."""
        if self.exact:
            return phantom(self.text).draw(np.random.default_rng([PART_SEEDS[TEST], index]))
        images, masks = self.arrays(TEST)
        raters = json.loads((self.folder / f"{TEST}.json").read_text(encoding="utf-8"))["raters"][index]
        weights = np.full(raters, 1 / raters)
        return EnumerableCase(np.array(images[index]), self.classes, np.array(masks[index, :raters]), weights)

    def scored_cases(self, limit: int | None = None) -> range:
        """Indices of this share of the first `limit` test cases: every n-th, so that shares take about as long."""
        index, shares = self.share
        return range(len(self.cases))[:limit][index::shares]

    def truth(self, index: int) -> Truth:
        """A test case prepared for scoring."""
        kind, rng = Truth if self.exact else RatedTruth, np.random.default_rng([PART_SEEDS[TEST], index, 1])
        return kind(self.case(index), rng)


class RatedTruth(Truth):
    """A case with raters, scored near the structures, because the true probabilities are not known."""

    def __init__(self, case: PhantomCase, rng: np.random.Generator) -> None:
        super().__init__(case, rng)
        marked = self.draws.any(0)
        near = ndimage.binary_dilation(marked, iterations=SCORED_MARGIN) if marked.any() else np.ones_like(marked)
        self.anywhere, self.open = near, np.broadcast_to(near, (case.classes - 1, *near.shape))


Plan = tuple[Task, Callable[[bool], None]]
"""A task, and the function that writes its arrays unless they are there, also those of FURTHER if its argument says so.
"""


def prepare(text: str, cache: Path, sizes: Sizes, slices: bool = False, further: bool = False) -> Task:
    """A task whose arrays are written to `cache` unless they are there, FURTHER only if asked; raises as `plan`."""
    task, write = plan(text, cache, sizes, slices)
    write(further)
    return task


def plan(text: str, cache: Path, sizes: Sizes, slices: bool = False) -> Plan:
    """A task, of which nothing is written yet; with `slices` volumes of a folder are stacks of pictures.

    Raises InputError, one sentence, on unusable data.
    """
    if Path(text).is_dir():
        return _from_folder(Path(text), cache, sizes, slices)
    if text.partition(":")[0] in PHANTOMS:
        return _from_phantom(text, cache, sizes)
    raise InputError(
        f"'{text}' is neither a folder of labelled images nor a task with a known answer ({', '.join(PHANTOMS)})."
    )


def _from_phantom(text: str, cache: Path, sizes: Sizes) -> Plan:
    kind = phantom(text)
    content = json_digest({"phantom": text, "sizes": asdict(sizes), "masks": MASKS, "schema": 3}, 12)
    folder, names = cache / "tasks" / f"{kind.name}-{content}", tuple(f"case {n + 1}" for n in range(sizes.test))

    def write(further: bool) -> None:
        more = ((FURTHER, sizes.train),) if further else ()
        for part, count in ((TRAIN, sizes.train), (VALIDATION, sizes.validation), *more):
            if not (folder / f"{part}.json").is_file():
                rng = np.random.default_rng(PART_SEEDS[part])
                windows = []
                for _ in range(_limited(count, kind.shape, channel_count(inputs))):
                    case = kind.draw(rng)  # the list of its possible masks can be large, so it is not kept
                    windows.append((channels_first(case.image, len(kind.shape)), case.sample(rng, MASKS)))
                _write(folder, part, windows)

    inputs = tuple(map(Input, kind.inputs))
    return Task(text, text, folder, kind.shape, kind.label_names, inputs, True, names, content), write


def _from_folder(path: Path, cache: Path, sizes: Sizes, slices: bool) -> Plan:
    """Windows of a folder: a fifth of the cases for testing, a fifth for validation, the rest for training."""
    source = Folder(path, cache / "prepared", slices)
    if len(source.dataset.training) < MIN_CASES:
        raise InputError(f"A study needs {MIN_CASES} labelled cases or more: some to train, validate and test on.")
    if source.dataset.ignored is not None:
        raise InputError("A study needs every voxel labelled; remove the label 'ignore' and relabel its voxels.")
    settings = source.settings()
    source.configure(settings["diffusion_segmentation"])
    optimisation = Optimisation.read({**settings["optimisation"], "draws": MASKS, "seed": PART_SEEDS[TRAIN]})
    fifth = max(1, len(source.seen) // 4)
    parts = {TRAIN: source.seen[fifth:], VALIDATION: source.seen[:fifth], TEST: source.held_out}
    identity = {
        "folder": source.dataset.name,
        "cases": [[case.name, files_sha256(*case.files)] for case in source.dataset.training],
        "labels": source.dataset.label_names,
        "inputs": [one.as_json() for one in source.dataset.inputs],
        "axes": source.dims,
        "sizes": asdict(sizes),
        "schema": 4,
    }
    key = json_digest(identity, 12)
    folder = cache / "tasks" / f"{settings['diffusion_segmentation']['name']}-{key}"
    shape, dataset = optimisation.shapes[0], source.dataset
    names = tuple(case.name for case in parts[TEST])
    task = Task(str(path), dataset.name, folder, shape, dataset.label_names, dataset.inputs, False, names, key)

    def write(_further: bool) -> None:
        for part, cases in parts.items():
            if (folder / f"{part}.json").is_file():
                continue
            pairs = source.prepare(cases)
            if part == TEST:
                windows = [_around(*pair, shape) for pair in pairs]
            else:
                stream = iter(Windows(pairs, optimisation, PART_SEEDS[part], augment=part == TRAIN))
                count = _limited(sizes.train if part == TRAIN else sizes.validation, shape, task.channels)
                windows = [(image.numpy(), masks.numpy()) for image, masks in itertools.islice(stream, count)]
            _write(folder, part, windows)

    return task, write


def _limited(count: int, shape: tuple[int, ...], channels: int) -> int:
    return min(count, max(16, MAX_IMAGE_BYTES // 4 // math.prod(shape) // channels))


def _around(image: Path, masks: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The window of a test case centred on everything that any rater has marked; of pictures, in the fullest slice."""
    whole, labels = np.load(image, mmap_mode="r"), np.load(masks, mmap_mode="r")
    if len(shape) == 2:
        at = int(np.count_nonzero(labels, axis=(0, 2, 3)).argmax())
        whole, labels = whole[:, at], labels[:, at]
    marked, full = np.argwhere(labels.any(0)), labels.shape[1:]
    centre = marked.mean(0) if len(marked) else np.array(full) / 2
    start = [int(np.clip(c - n / 2, 0, max(0, m - n))) for c, n, m in zip(centre, shape, full, strict=True)]
    window = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    fill = [(0, 0), *((0, max(0, n - m)) for n, m in zip(shape, full, strict=True))]
    return np.pad(whole[:, *window].astype(np.float32), fill), np.pad(labels[:, *window], fill)


def _write(folder: Path, part: str, windows: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the images and masks of a part. Its JSON file comes last and marks it as complete."""
    folder.mkdir(parents=True, exist_ok=True)
    images, masks = ([window[n] for window in windows] for n in (0, 1))
    count = max(len(m) for m in masks)
    full = [np.resize(m, (count, *m.shape[1:])) for m in masks]  # repeats masks of cases with fewer raters
    for kind, arrays, dtype in (("images", images, np.float32), ("masks", full, np.uint8)):
        with atomic_file(folder / f"{part}-{kind}.npy") as file:
            np.save(file, np.stack(arrays).astype(dtype, copy=False))
    write_report(folder / f"{part}.json", {"raters": [len(m) for m in masks]})
