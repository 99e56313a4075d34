"""Cases of a cohort, found in folders of volumes and of DICOM images or listed in a CSV file."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..dicom.slices import is_dicom
from ..errors import InputError, shown
from ..images.case_files import Volumes
from ..images.dataset import channel_files, file_stem, image_files

COLUMNS = ("case", "inputs")
OPTIONAL_COLUMNS = ("model", "series")
SEPARATOR = ";"  # between the files of a case in the column `inputs`


@dataclass(frozen=True)
class Case:
    """One case: its name for the user, its files, and the model that segments it.

    Attributes:
        inputs: files, or folders of DICOM series, absolute; of several the inputs of the model.
        input_names: names of the model's inputs, one for each of `inputs`; empty if they are in the model's order.
        series: UID of the DICOM series to read from a folder with several.
    """

    name: str
    inputs: tuple[Path, ...]
    model: str
    input_names: tuple[str, ...] = ()
    series: str | None = None

    @property
    def volumes(self) -> Volumes:
        """The files as a `Request` takes them."""
        if self.input_names:
            return dict(zip(self.input_names, self.inputs, strict=True))
        return self.inputs[0] if len(self.inputs) == 1 else self.inputs


@dataclass
class Found:
    """The cases of a command, and how many files of its folders were not taken for volumes."""

    cases: list[Case] = field(default_factory=list)
    left_out: int = 0


def find_cases(paths: Sequence[Path], model: str, input_count: Callable[[str], int], output: Path) -> Found:
    """The cases of files, folders and CSV files, in their order.

    Args:
        model: of all cases for which a CSV file names none.
        input_count: number of inputs of a model by its name or path.
        output: folder of the results, in which no case is looked for.

    Raises InputError if a path does not exist, has no case or is a CSV file that cannot be used, or if one file was
    given twice, and what `input_count` raises.
    """
    found, names = Found(), []
    for path in paths:
        count = len(found.cases)
        if path.is_dir():
            _search(path, model, input_count(model), output, found)
        elif not path.is_file():
            raise InputError(f"There is no '{shown(path.name)}'; give a folder, a volume or a CSV file that exists.")
        elif path.suffix.lower() == ".csv":
            found.cases += _listed(path, model)
        else:
            found.cases.append(Case(file_stem(path.name), (path.absolute(),), model))
        if len(found.cases) == count:
            raise InputError(f"'{shown(path.name)}' has no volume and no DICOM image; give another folder or file.")
        names += [path.name] * (len(found.cases) - count)
    found.cases = _unique(found.cases, names)
    return found


def _search(folder: Path, model: str, inputs: int, output: Path, found: Found) -> None:
    """Add the cases of a folder and its subfolders: each volume, or for several inputs each group of files, and each
    folder of DICOM images.

    Hidden files, finished results, cohorts, `output`, linked folders and the labels of a data set are left out. Raises
    InputError for a folder that has volumes and DICOM images.
    """
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        if _is_result(here) or "cohort.json" in names or here.resolve() == output.resolve():
            folders.clear()
            continue
        is_dataset = "dataset.json" in names
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not (is_dataset and name.startswith("labels"))
        )
        relative = here.relative_to(folder)
        images = image_files(here)
        others = [here / name for name in sorted(names) if not name.startswith(".") and here / name not in images]
        found.left_out += sum((here / name).is_symlink() for name in folders)  # not searched: they could form a circle
        if any(is_dicom(path) for path in others):
            if images:
                raise InputError(
                    f"'{shown(here.name)}' has volumes and DICOM images; list those that are cases in a CSV file."
                )
            name = folder.name if here == folder else relative.as_posix()
            found.cases.append(Case(name, (here.absolute(),), model))
            folders.clear()  # a series is read with the subfolders of its folder
            continue
        found.left_out += len(others)
        for files in _grouped(images, inputs):
            stem = re.sub(r"_0000$", "", file_stem(files[0].name))
            found.cases.append(Case((relative / stem).as_posix(), tuple(file.absolute() for file in files), model))


def _is_result(folder: Path) -> bool:
    return (folder / "report.json").is_file() and (folder / "segmentation.seg.nrrd").is_file()


def _grouped(images: Sequence[Path], inputs: int) -> Iterator[list[Path]]:
    """The files of each case. For a model of several inputs case_0000, case_0001 and so on belong together."""
    taken: set[Path] = set()
    for path in images:
        if path not in taken:
            files = channel_files(path, inputs) if inputs > 1 else [path]
            taken.update(files)
            yield files


def _listed(path: Path, model: str) -> list[Case]:
    """The cases of a CSV file. Raises InputError."""
    name = f"The CSV file '{shown(path.name)}'"
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = next((mark for mark in ",;\t" if mark in header), ",")
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{name} cannot be read; save it as CSV in UTF-8.") from error
    columns = [column.strip() for column in header.strip().split(delimiter)]
    unknown = [column for column in columns if column.strip('"') not in COLUMNS + OPTIONAL_COLUMNS]
    if unknown or not set(COLUMNS) <= {column.strip('"') for column in columns}:
        raise InputError(
            f"{name} must have the columns case and inputs, and may have model and series; its first line is "
            f"'{shown(header.strip())}'."
        )
    return [_row(row, path, f"{name}, line {number}", model) for number, row in enumerate(rows, 2)]


def _row(row: Mapping[str | None, str | None], path: Path, name: str, model: str) -> Case:
    values = {key.strip().strip('"'): (value or "").strip() for key, value in row.items() if key is not None}
    parts = [part.strip() for part in values["inputs"].split(SEPARATOR) if part.strip()]
    if None in row or not values["case"] or not parts:
        raise InputError(f"{name}, has no case, no inputs or too many values; write one case and its files.")
    named = [re.match(r"([^=/\\]+)=(.+)", part) for part in parts]
    if any(named) and not all(named):
        raise InputError(f"{name}, names only some of its inputs; write NAME=FILE for each, or for none.")
    names = tuple(match[1].strip() for match in named if match)
    if len(set(names)) < len(names):
        raise InputError(f"{name}, has an input twice; give each one once.")
    files = [match[2].strip() if match else part for match, part in zip(named, parts, strict=True)]
    inputs = tuple((path.absolute().parent / os.path.expanduser(file)) for file in files)
    chosen = values.get("model") or model
    beside = path.absolute().parent / chosen
    chosen = str(beside) if values.get("model") and beside.is_dir() else chosen  # as the inputs, relative to the file
    return Case(values["case"], inputs, chosen, names, values.get("series") or None)


def _unique(cases: Sequence[Case], origins: Sequence[str]) -> list[Case]:
    """The cases with names that differ: of equal ones those with the name of the file or folder that they are from.

    Raises InputError if they are equal even so, or if a file was given twice for one model.
    """
    counts = Counter(case.name for case in cases)
    named = [
        replace(case, name=f"{origin}/{case.name}") if counts[case.name] > 1 else case
        for case, origin in zip(cases, origins, strict=True)
    ]
    seen: set[tuple[object, ...]] = set()
    for case in named:
        for what, value in (("name", (case.name,)), ("files", (case.inputs, case.model, case.series))):
            if value in seen:
                raise InputError(f"Two cases have the same {what} ('{shown(case.name)}'); keep one, or rename one.")
            seen.add(value)
    return named
