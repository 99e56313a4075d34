"""A folder of results holds the files of one run, and what people put there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusion_segmentation import result_folder, results
from diffusion_segmentation.errors import DiffusionSegmentationError, InputError
from diffusion_segmentation.result_folder import FILES, digests, made, require_unchanged, writing

ALL = FILES
FEW = ("segmentation.seg.nrrd", "entropy.nrrd")


def run(folder: Path, names: tuple[str, ...], text: str, listed: bool = True) -> None:
    """Leave what a run leaves that writes these files."""
    with writing(folder) as part:
        for name in names:
            (part / name).write_text(f"{text} {name}")
        report = {"schema": 1, "model": {"name": text}} | ({"files": digests(part)} if listed else {})
        results.write_report(part / "report.json", report)


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("listed", [True, False])
def test_a_second_run_leaves_no_file_of_the_first(tmp_path: Path, listed: bool) -> None:
    run(tmp_path, ALL, "first", listed)
    assert held(tmp_path) == {*ALL, "report.json"}
    run(tmp_path, FEW, "second", listed)
    assert held(tmp_path) == {*FEW, "report.json"}
    assert all((tmp_path / name).read_text() == f"second {name}" for name in FEW)


def test_peoples_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "samples.seq.nrrd").write_text("mine, too")  # no report says that a run wrote it
    (tmp_path / "mine").mkdir()
    run(tmp_path, FEW, "first")
    run(tmp_path, FEW, "second")
    assert held(tmp_path) == {*FEW, "report.json", "notes.txt", "samples.seq.nrrd", "mine"}
    assert (tmp_path / "samples.seq.nrrd").read_text() == "mine, too"


@pytest.mark.parametrize("name", ["segmentation.seg.nrrd", "entropy.nrrd", "samples.seq.nrrd"])
def test_a_result_that_somebody_has_changed_is_not_written_over(tmp_path: Path, name: str) -> None:
    run(tmp_path, ALL, "first")
    require_unchanged(tmp_path)
    (tmp_path / name).write_text("corrected by hand")
    with pytest.raises(InputError, match=f"'{name}' in .* was changed .*; move it away"):
        require_unchanged(tmp_path)
    (tmp_path / name).unlink()
    require_unchanged(tmp_path)


@pytest.mark.parametrize("report", ["", "{", "[]", '{"model": 1}', '{"schema": 1}', "[" * 100_000])
def test_a_report_that_is_none_of_ours_claims_nothing(tmp_path: Path, report: str) -> None:
    (tmp_path / "report.json").write_text(report)
    (tmp_path / "samples.seq.nrrd").write_text("mine")
    require_unchanged(tmp_path)
    run(tmp_path, FEW, "run")
    assert (tmp_path / "samples.seq.nrrd").read_text() == "mine"


def test_a_run_that_fails_leaves_the_earlier_result_whole(tmp_path: Path) -> None:
    run(tmp_path, ALL, "first")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DiffusionSegmentationError), writing(tmp_path) as part:
        (part / "entropy.nrrd").write_text("half")
        raise DiffusionSegmentationError("The disk is full.")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_report_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, ALL, "first")

    def killed(partial: Path, path: Path) -> None:
        assert not (tmp_path / "report.json").exists(), "a folder with a report is whole"
        partial.replace(path)

    monkeypatch.setattr(result_folder, "replace", killed)
    with writing(tmp_path) as part:
        for name in (*FEW, "report.json"):
            (part / name).write_text("{}")


def test_folders_made_for_nothing_go_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there" / "a" / "b", tmp_path / "there"):
        with pytest.raises(KeyError), made(folder):
            assert folder.is_dir()
            raise KeyError
    assert held(tmp_path) == {"there"} and held(tmp_path / "there") == set()
    with pytest.raises(KeyError), made(tmp_path / "c" / "d"):
        (tmp_path / "c" / "d" / "kept").write_text("")
        raise KeyError
    assert (tmp_path / "c" / "d" / "kept").exists()


def test_two_heads_in_one_folder(a_model_folder, a_head_file, tmp_path: Path) -> None:
    from diffusion_segmentation.segment import Request, segment

    ask = {"volume": a_head_file, "output": tmp_path / "out", "model": str(a_model_folder), "samples": 2}
    segment(Request(**ask, device="cpu", keep_samples=True))
    report = segment(Request(**ask, device="cpu", seed=1)).report
    assert held(tmp_path / "out") == {*FEW, "report.json"}
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["files"] == report["files"]
    (tmp_path / "out" / "segmentation.seg.nrrd").write_text("corrected by hand")
    with pytest.raises(InputError, match="was changed"):
        segment(Request(**ask, device="cpu"))
