"""Files of class probabilities: nnU-Net's .npz, and volumes with several values per voxel."""

from __future__ import annotations

import itertools
import lzma
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError, shown
from ..images.channels import ChannelFile, channel_count
from ..images.dataset import MAX_LABELS
from ..images.label_file import read_label_numbers
from ..runtime import memory

KEYS = ("probabilities", "softmax")  # of nnU-Net versions 2 and 1
SUM_TOLERANCE = 0.02  # largest difference of a voxel's sum from 1; float16 rounds by 0.001
NOT_ON_GRID = "{name} does not lie on the volume's grid; give the volume that it was made from."
MASK_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")  # of the mask beside the probabilities
READ_ERRORS = (
    *(OSError, ValueError, EOFError, KeyError, SyntaxError, tokenize.TokenError),  # of NumPy, which parses the header
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError),
    RuntimeError,  # encrypted, or a compression that is not supported
)


def is_probability_file(path: Path) -> bool:
    """Whether a file is read as class probabilities, and not as a mask: .npz, or several values per voxel."""
    return path.suffix.lower() == ".npz" or channel_count(path) > 1


def read_probabilities(path: Path, image: sitk.Image) -> np.ndarray:
    """Class probabilities of a file, float32 [C, k, j, i], on the grid of `image`; background is class 0.

    The file is an .npz of nnU-Net, or a volume with several values per voxel (a fourth axis or vectors), as fractions
    or as uint8, where 255 is 1. No pickled object is loaded. Raises InputError (unreadable, another grid, no
    probabilities of exclusive classes), GeometryError and OutOfMemoryError.
    """
    name = f"The probability file '{shown(path.name)}'"
    p = _read_npz(path, name, image) if path.suffix.lower() == ".npz" else _read_volume(path, name, image)
    total = p.sum(0)
    if not np.abs(total - 1).max() <= SUM_TOLERANCE or p.min() < 0:  # `not <=` so that NaN is refused
        raise InputError(
            f"{name} has values that do not sum to 1 in a voxel; probabilities of overlapping regions cannot be used."
        )
    return p / total


def _read_volume(path: Path, name: str, image: sitk.Image) -> np.ndarray:
    file = ChannelFile(path, "probability file", default_spacing=image.GetSpacing())
    _require_classes(file.channels, name)
    values, grid = file.read_channels()
    if not file.is_on(grid, image):
        raise InputError(NOT_ON_GRID.format(name=name))
    if file.non_finite:
        raise InputError(f"{name} has voxels that are no numbers; write it again.")
    return values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1)


def _require_classes(count: int, name: str) -> None:
    if not 2 <= count <= MAX_LABELS:
        raise InputError(f"{name} has {count} classes; 2 to {MAX_LABELS} can be shown.")


def _read_npz(path: Path, name: str, image: sitk.Image) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"{name} does not exist or is no file; check its name and folder.")
    try:
        with zipfile.ZipFile(path) as archive:
            key = next((key for key in KEYS if f"{key}.npy" in archive.namelist()), None)
            if key is None:
                raise InputError(
                    f"{name} has no entry 'probabilities'; let nnU-Net write it with --save_probabilities."
                )
            with archive.open(f"{key}.npy") as stream:
                shape, dtype = _header(stream)
            if len(shape) != 4 or dtype.kind != "f":
                raise InputError(f"{name} has no class probabilities; let nnU-Net write it with --save_probabilities.")
            if shape[1:] != image.GetSize()[::-1]:
                raise InputError(NOT_ON_GRID.format(name=name))
            _require_classes(shape[0], name)
            memory.require((dtype.itemsize + 12) * math.prod(shape), name, "close other programs")
            with archive.open(f"{key}.npy") as stream:
                p = np.lib.format.read_array(stream, allow_pickle=False)
                if stream.read(1):  # also has the checksum verified, which is at the end
                    raise ValueError("more values than the header states")
                return p.astype(np.float32, copy=False)
    except READ_ERRORS as error:
        raise InputError(f"{name} cannot be read; write it again.") from error


def has_order_of_mask(path: Path, p: np.ndarray, image: sitk.Image, volume: Path) -> bool:
    """Whether the mask that nnU-Net wrote beside a .npz file, with the same name, shows that the voxels are in order.

    The file states no grid, and nnU-Net's NibabelIOWithReorient stores other orders than that of the volume. Without a
    mask of the same name, or if it differs, False. Raises InputError if `p` [C, k, j, i] is mirrored or has its axes
    swapped.
    """
    beside = (path.with_suffix(ending) for ending in MASK_ENDINGS)
    mask = next((file for file in beside if file.is_file() and file.resolve() != volume.resolve()), None)
    if mask is None:
        return False
    try:
        stored = read_label_numbers(mask, image, "mask")[0]
    except (InputError, GeometryError):
        return False  # not nnU-Net's, such as the image
    labels = p.argmax(0)
    agreement = int((labels == stored).sum())
    if agreement == labels.size:
        return True
    for axes in itertools.permutations(range(3)):
        turned = labels.transpose(axes)
        for signs in itertools.product((1, -1), repeat=3) if turned.shape == stored.shape else ():
            if (turned[tuple(slice(None, None, sign) for sign in signs)] == stored).sum() > agreement:
                raise InputError(
                    f"The probability file '{shown(path.name)}' has the voxels in another order than the mask "
                    f"'{shown(mask.name)}' beside it; give the masks, or predict with nnU-Net's SimpleITKIO."
                )
    return False


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in NumPy's format. Raises ValueError."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"format {version} of NumPy's arrays")
    shape, _, dtype = read(stream)
    return shape, dtype
