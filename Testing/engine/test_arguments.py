"""Arguments of the command line."""

from pathlib import Path

import pytest

from diffusion_segmentation.arguments import parse


@pytest.mark.parametrize(
    ("given", "expected"),
    [("2,2,5", (2.0, 2.0, 5.0)), ("0.5x0.5x2", (0.5, 0.5, 2.0))],
)
def test_a_voxel_size_is_three_numbers(given: str, expected: tuple[float, ...]) -> None:
    assert parse(["segment", "a.tif", "--output", "out", "--spacing", given]).spacing == expected


@pytest.mark.parametrize("words", ["", "a --input T1=b", "--input T1", "--input =b", "--input T1="])
def test_inputs_without_a_file_or_in_both_ways_are_wrong_usage(words: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["segment", "--output", "o", *words.split()])
    assert caught.value.code == 2 and "NAME=FILE" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["2", "2,2", "0,1,1", "-1,1,1", "a,b,c", "inf,1,1", "1,1,1,1", ""])
def test_other_voxel_sizes_are_wrong_usage(given: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["segment", "a.tif", "--output", "out", f"--spacing={given}"])
    assert caught.value.code == 2 and "--spacing" in capsys.readouterr().err


def test_a_tilde_in_a_path_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    options = parse(["segment", "~/a.nii", "--output=~/x", "--model=~/m"])
    assert (options.volume, options.output, options.model) == (
        [tmp_path / "a.nii"],
        tmp_path / "x",
        str(tmp_path / "m"),
    )
    options = parse(["evaluate", "~/m", "~/data", "--output=~/x"])
    assert (options.model, options.dataset, options.output) == (
        str(tmp_path / "m"),
        str(tmp_path / "data"),
        tmp_path / "x",
    )
