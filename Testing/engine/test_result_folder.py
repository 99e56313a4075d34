"""A folder of results has the files of one run, and files of the user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusion_segmentation.errors import DiffusionSegmentationError, InputError
from diffusion_segmentation.images import writing as results
from diffusion_segmentation.segmentation import result_folder
from diffusion_segmentation.segmentation.result_folder import FILES, digests, new_folder, replacing, require_replaceable

ALL = FILES
FEW = ("segmentation.seg.nrrd", "entropy.nrrd")


def run(folder: Path, names: tuple[str, ...], text: str, listed: bool = True) -> None:
    """Write files as a run does."""
    with replacing(folder) as part:
        for name in names:
            (part / name).write_text(f"{text} {name}")
        report = {"schema": 1, "model": {"name": text}} | ({"files": digests(part)} if listed else {})
        results.write_report(part / "report.json", report)


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_second_run_leaves_no_file_of_the_first(tmp_path: Path) -> None:
    run(tmp_path, ALL, "first")
    assert held(tmp_path) == {*ALL, "report.json"}
    run(tmp_path, FEW, "second")
    assert held(tmp_path) == {*FEW, "report.json"}
    assert all((tmp_path / name).read_text() == f"second {name}" for name in FEW)


def test_other_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "mine").mkdir()
    run(tmp_path, FEW, "first")
    run(tmp_path, FEW, "second")
    assert held(tmp_path) == {*FEW, "report.json", "notes.txt", "mine"}


FOREIGN = {
    "a mask": lambda f: (f / "segmentation.seg.nrrd").write_text("mine"),
    "what this run would not write": lambda f: (f / "samples.seq.nrrd").write_text("mine"),
    "a report": lambda f: (f / "report.json").write_text('{"title": "my paper"}'),
    "a report that is no JSON": lambda f: (f / "report.json").write_text("[" * 100_000),
    "a folder": lambda f: (f / "entropy.nrrd").mkdir(),
    "a link to nowhere": lambda f: (f / "entropy.nrrd").symlink_to(f / "nowhere"),
    "the result of an older version": lambda f: run(f, ALL, "old", listed=False),
    "a result whose report is gone": lambda f: (run(f, ALL, "old"), (f / "report.json").unlink()),
    "a file beside a run's": lambda f: (run(f, FEW, "old"), (f / "regions.nrrd").write_text("mine")),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_files_that_no_run_wrote_are_not_replaced(tmp_path: Path, case: str) -> None:
    FOREIGN[case](tmp_path)
    before = held(tmp_path)
    with pytest.raises(InputError, match="; move it away, or choose another folder.$"):
        require_replaceable(tmp_path)
    with pytest.raises(InputError, match="; the new result is in 'result-") as caught:
        run(tmp_path, FEW, "new")
    (backup,) = held(tmp_path) - before
    assert f"'{backup}'" in str(caught.value) and held(tmp_path / backup) == {*FEW, "report.json"}
    assert held(tmp_path) == before | {backup}


@pytest.mark.parametrize("name", ["segmentation.seg.nrrd", "entropy.nrrd", "samples.seq.nrrd"])
def test_a_result_that_was_changed_is_not_overwritten(tmp_path: Path, name: str) -> None:
    run(tmp_path, ALL, "first")
    require_replaceable(tmp_path)
    (tmp_path / name).write_text("corrected by hand")
    with pytest.raises(InputError, match=f"'{name}' in .* was changed .*; move it away"):
        require_replaceable(tmp_path)
    (tmp_path / name).unlink()
    require_replaceable(tmp_path)


def test_a_run_that_fails_leaves_the_earlier_result_whole(tmp_path: Path) -> None:
    run(tmp_path, ALL, "first")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DiffusionSegmentationError), replacing(tmp_path) as part:
        (part / "entropy.nrrd").write_text("half")
        raise DiffusionSegmentationError("The disk is full.")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("fails", range(1, 11))
def test_a_replacement_that_fails_halfway_is_reverted(tmp_path: Path, monkeypatch, fails: int) -> None:
    run(tmp_path, ALL, "first")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = []

    def failing(partial: Path, path: Path) -> None:
        calls.append(path)
        if len(calls) == fails:
            raise PermissionError("held open by another program")
        partial.replace(path)

    monkeypatch.setattr(result_folder, "replace", failing)
    with pytest.raises(PermissionError):
        run(tmp_path, FEW, "second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_report_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, ALL, "first")

    def watched(partial: Path, path: Path) -> None:
        partial.replace(path)
        if (tmp_path / "report.json").exists():
            assert held(tmp_path) >= {*FEW, "report.json"}, "a folder with a report is whole"

    monkeypatch.setattr(result_folder, "replace", watched)
    run(tmp_path, FEW, "second")


def test_empty_new_folders_are_removed_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there" / "a" / "b", tmp_path / "there"):
        with pytest.raises(KeyError), new_folder(folder):
            assert folder.is_dir()
            raise KeyError
    assert held(tmp_path) == {"there"} and held(tmp_path / "there") == set()
    with pytest.raises(KeyError), new_folder(tmp_path / "c" / "d"):
        (tmp_path / "c" / "d" / "kept").write_text("")
        raise KeyError
    assert (tmp_path / "c" / "d" / "kept").exists()


@pytest.mark.slow
def test_two_heads_in_one_folder(a_model_folder, a_head_file, tmp_path: Path) -> None:
    from diffusion_segmentation.segmentation.pipeline import Request, segment

    ask = {"volume": a_head_file, "output": tmp_path / "out", "model": str(a_model_folder), "samples": 2}
    segment(Request(**ask, device="cpu", keep_samples=True))
    report = segment(Request(**ask, device="cpu", seed=1)).report
    assert held(tmp_path / "out") == {*FEW, "report.json"}
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["files"] == report["files"]
    (tmp_path / "out" / "segmentation.seg.nrrd").write_text("corrected by hand")
    with pytest.raises(InputError, match="was changed"):
        segment(Request(**ask, device="cpu"))
