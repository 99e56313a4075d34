"""Arguments, exit statuses and messages of the command, with a stand-in for the engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffusion_segmentation import cli
from diffusion_segmentation.errors import Cancelled, GeometryError

REPORT = {
    "samples": 2,
    "steps": 5,
    "seed": 0,
    "device": "cpu",
    "model": {"name": "brain-structures", "version": "1.0.0"},
    "warnings": [
        "The voxel spacing is 9 x 9 x 9 mm, the model was made for 0.3 to 8 mm; look at the result with care."
    ],
    "volumes": [
        {"name": "Ventricles", "expected_ml": 24.31, "interval90_ml": [21.04, 27.16], "consensus_ml": 23.5},
        {"name": "Brainstem", "expected_ml": 1234.5, "interval90_ml": None, "consensus_ml": 1200.0},
    ],
}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Takes the place of `any_model`; `asked` is the last request, `answer` what happens."""
    stand_in = SimpleNamespace(request=None, answer=lambda: SimpleNamespace(report=REPORT, partial=False))

    def segment(request: Any, progress: Callable[[Any], None]) -> Any:
        stand_in.request = request
        for stage in ("reading", "sampling", "sampling"):
            progress(SimpleNamespace(stage=stage, sample=1, samples=8, step=2, steps=5, seconds_left=41.6))
        return stand_in.answer()

    module = SimpleNamespace(segment=segment, Request=lambda **fields: SimpleNamespace(**fields))
    monkeypatch.setitem(sys.modules, "diffusion_segmentation.any_model", module)
    monkeypatch.setattr("diffusion_segmentation.any_model", module, raising=False)  # the real one may be imported
    return stand_in


def test_defaults_of_segment(engine: SimpleNamespace) -> None:
    assert cli.main(["segment", "head ü.nrrd", "--output", "out"]) == 0
    assert vars(engine.request) == {
        "volume": Path("head ü.nrrd"),
        "output": Path("out"),
        "model": "brain-structures",
        "samples": None,
        "steps": None,
        "seed": 0,
        "device": "auto",
        "region_mm": None,
        "spacing": None,
        "keep_samples": False,
        "series": None,
        "dicom": None,
        "ask": (),
        "compress": True,
        "previews": False,
    }


def test_every_option_of_segment_is_passed_on(engine: SimpleNamespace) -> None:
    words = "segment a --output o --model m --samples auto --steps 3 --seed 7 --device cuda:1 --region-mm 20"
    words += " --keep-samples --ask volume(all) --ask pieces(all)>1"
    assert cli.main(words.split()) == 0
    chosen = {"model": "m", "samples": "auto", "steps": 3, "seed": 7, "device": "cuda:1", "keep_samples": True}
    chosen |= {"region_mm": 20.0, "ask": ("volume(all)", "pieces(all)>1")}
    assert vars(engine.request).items() >= chosen.items()


@pytest.mark.parametrize(("option", "kind"), [("--dicom", "labelmap"), ("--dicom-binary", "binary")])
def test_dicom_options_of_segment(engine: SimpleNamespace, option: str, kind: str) -> None:
    assert cli.main(["segment", "series", "--series", "1.2", "--output", "o", option]) == 0
    assert (engine.request.series, engine.request.dicom) == ("1.2", kind)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "segmentate a --output o",
        "segment a",
        "segment --output o",
        "segment a --output o --samples 0",
        "segment a --output o --samples some",
        "segment a --output o --steps -1",
        "segment a --output o --seed -1",
        "segment a --output o --seed 9223372036854775808",
        "segment a --output o --device gpu",
        "segment a --output o --device cuda:x",
        "segment a --out o",
        "models extra",
        "train",
        "evaluate m",
        "evaluate m d",
        "evaluate m d --output o --steps 1",
        "evaluate m d --output o --steps uniform:1",
        "evaluate m d --output o --steps cosine:5",
        "evaluate m d --output o --steps",
        "evaluate m d --output o --samples auto",
        "evaluate m d --output o --cases 0",
    ],
)
def test_wrong_usage_exits_with_2(engine: SimpleNamespace, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == 2 and engine.request is None
    assert "usage: diffusion-segmentation" in capsys.readouterr().err


def failing(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def test_the_summary_has_the_sentence_on_labelled_cases(engine: SimpleNamespace, capsys: Any) -> None:
    assert cli.main(["segment", "a", "--output", "o"]) == 0
    assert "spread of the model's samples, not its accuracy" in capsys.readouterr().out
    sentence = "Checked on 24 labelled cases of Clinic: 90 % intervals held in 22."
    engine.answer = lambda: SimpleNamespace(report=REPORT | {"own_cases": {"sentence": sentence}}, partial=False)
    assert cli.main(["segment", "a", "--output", "o"]) == 0
    text = capsys.readouterr().out
    assert sentence in text and "not its accuracy" not in text


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (GeometryError("The head is too small; scan a larger one."), 1, "The head is too small; scan a larger one."),
        (MemoryError(), 1, "The memory did not suffice;"),
        (KeyError("x\ny"), 1, "An unexpected problem occurred (KeyError:"),
        (OSError(28, "No space left on device"), 1, "The disk is full;"),
        (
            PermissionError(13, "Permission denied", "/root/x"),
            1,
            "'x' cannot be read or written: there is no permission",
        ),
        (FileExistsError(17, "File exists", "notes.txt"), 1, "'notes.txt' is a file, not a folder;"),
        (KeyboardInterrupt(), 130, "Cancelled."),
        (Cancelled(), 130, "Cancelled."),
    ],
)
def test_failures_are_one_sentence_and_a_status(
    engine: SimpleNamespace, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, sentence: str
) -> None:
    engine.answer = failing(error)
    assert cli.main(["segment", "a", "--output", "o"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:-1] == ["reading ...", "sampling ..."]  # progress, one line a stage
    assert err.splitlines()[-1].startswith(sentence) and err.endswith(".\n")


@pytest.mark.parametrize("words", ["--debug segment a --output o", "segment a --output o --debug"])
def test_debug_prints_the_traceback_before_the_sentence(
    engine: SimpleNamespace, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    engine.answer = failing(GeometryError("The head is too small."))
    assert cli.main(words.split()) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" in lines and lines[-1] == "The head is too small."


@pytest.mark.parametrize(("value", "printed"), [("1", True), ("0", False), ("", False)])
def test_debug_can_be_set_in_the_environment(
    engine: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    printed: bool,
) -> None:
    monkeypatch.setenv("DIFFUSION_SEGMENTATION_DEBUG", value)
    engine.answer = failing(GeometryError("The head is too small."))
    assert cli.main(["segment", "a", "--output", "o"]) == 1
    assert ("Traceback" in capsys.readouterr().err) is printed


def test_a_scan_unlike_the_training_is_a_warning_on_stderr(
    engine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    report = {**REPORT, "input": {"unlike_training": True}}
    engine.answer = lambda: SimpleNamespace(report=report, partial=False)
    assert cli.main(["segment", "a", "--output", "o"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"warning: {REPORT['warnings'][0]}"


def test_the_summary_names_volumes_intervals_and_warnings(
    engine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["segment", "a", "--output", "o"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["Ventricles", "24.3", "21.0", "to", "27.2", "23.5"]
    assert lines[2].split() == ["Brainstem", "1234.5", "-", "1200.0"]
    assert REPORT["warnings"][0] in lines


def test_in_a_terminal_progress_is_one_line(
    engine: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    cli.main(["segment", "a", "--output", "o"])
    line, end = capsys.readouterr().err.split("\n")
    assert end == ""
    assert line.split("\r")[-1].strip() == "sampling, sample 1 of 8, step 2 of 5, 42 s left"


@pytest.fixture
def evaluation(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Takes the place of `diffusion_segmentation.evaluation.evaluate`; `asked` is the last request."""
    module = SimpleNamespace(request=None, EvaluationRequest=lambda **fields: SimpleNamespace(**fields))

    def evaluate(request: Any) -> Any:
        module.request = request
        print("a library talks")
        return {"scores": {"dice": 0.5}}

    module.evaluate = evaluate
    module.text = lambda result, folder: f"Dice {result['scores']['dice']}, in {folder}"
    package = SimpleNamespace(evaluate=module)
    monkeypatch.setitem(sys.modules, "diffusion_segmentation.evaluation", package)
    monkeypatch.setitem(sys.modules, "diffusion_segmentation.evaluation.evaluate", module)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda package: object())
    return module


def test_defaults_of_evaluate(evaluation: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "brain-structures", "data ü", "--output", "out"]) == 0
    assert vars(evaluation.request) == {
        "model": "brain-structures",
        "dataset": "data ü",
        "output": Path("out"),
        "samples": None,
        "steps": (),
        "cases": None,
        "seed": 0,
        "device": "auto",
        "window": None,
    }
    assert capsys.readouterr().out.splitlines()[-1] == "Dice 0.5, in out"


def test_calibrate_passes_its_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    requests = []
    module = SimpleNamespace(calibrate=lambda **arguments: requests.append(arguments), text=lambda *_: "fitted")
    monkeypatch.setitem(sys.modules, "diffusion_segmentation.calibration.calibrate", module)
    monkeypatch.setitem(sys.modules, "diffusion_segmentation.calibration", SimpleNamespace(calibrate=module))
    command = "calibrate m lesions:32x32 --output o --cases 30 --seed 2 --device cpu".split()
    assert cli.main(command) == 0 == cli.main([*command, "--scans-only"]) == cli.main([*command, "--intervals"])
    chosen = {"model": "m", "data": "lesions:32x32", "output": Path("o"), "cases": 30, "seed": 2, "device": "cpu"}
    options = [{"scans_only": scans, "intervals": own} for scans, own in ((False, False), (True, False), (False, True))]
    assert requests == [chosen | one for one in options] and capsys.readouterr().out == 3 * "fitted\n"


def test_synthetic_heads_have_a_window(evaluation: SimpleNamespace) -> None:
    assert cli.main("evaluate m priors.npz --output o --window 96x112x96".split()) == 0
    assert evaluation.request.window == (96, 112, 96)
    with pytest.raises(SystemExit):
        cli.main("evaluate m priors.npz --output o --window 96x112".split())


def test_every_option_of_evaluate_is_passed_on(evaluation: SimpleNamespace) -> None:
    words = (
        "evaluate m lesions:32x32 --output o --samples 16 --steps 5 10 uniform:10 --cases 3 --seed 7 --device cuda:1"
    )
    assert cli.main(words.split()) == 0
    chosen = {"samples": 16, "steps": ("5", "10", "uniform:10"), "cases": 3, "seed": 7, "device": "cuda:1"}
    assert vars(evaluation.request).items() >= chosen.items()


def test_evaluate_as_json_prints_nothing_else(evaluation: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.terminal, "claim_for_json", lambda: shown.append)
        assert cli.main(["evaluate", "m", "d", "--output", "o", "--json"]) == 0
    assert shown == [{"scores": {"dice": 0.5}}]


@pytest.mark.parametrize("words", ["train d --output o", "evaluate m d --output o"])
def test_without_the_extra_train_the_packages_to_install_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda package: None if package == "matplotlib" else object())
    assert cli.main(words.split()) == 1
    assert capsys.readouterr().err == (
        "Training and evaluation need Lightning and Matplotlib; install them with: "
        "pip install 'diffusion-segmentation[train]'\n"
    )


def test_demo_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Process:
        def __init__(self, command: list[str]) -> None:
            started.append(command)

        def __enter__(self) -> Process:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def wait(self) -> int:
            return 1

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda package: object())
    assert cli.main(["demo", "--output", "pictures", "--samples", "2", "--help"]) == 1
    assert started == [
        [sys.executable, "-X", "utf8", "-m", "DiffusionSegmentationLib.headless"]
        + ["--output", "pictures", "--samples", "2", "--help"]
    ]


def test_demo_without_the_libraries_of_slicer_names_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda package: None)
    assert cli.main(["demo"]) == 1
    assert "pip install 'diffusion-segmentation[demo]'" in capsys.readouterr().err


def test_several_inputs_are_passed_on_in_order_or_by_name(engine: SimpleNamespace) -> None:
    assert cli.main(["segment", "t1.nii", "flair.nii", "--output", "o"]) == 0
    assert engine.request.volume == (Path("t1.nii"), Path("flair.nii"))
    assert cli.main("segment --input FLAIR=f.nii --input T1=a=b.nii --output o".split()) == 0
    assert engine.request.volume == {"FLAIR": Path("f.nii"), "T1": Path("a=b.nii")}


def test_an_input_given_twice_is_an_error(engine: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    assert cli.main("segment --input T1=a --input T1=b --output o".split()) == 1
    assert "given twice" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "x", "x/y"])
def test_an_output_folder_that_is_a_file_is_named(below: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "afile").write_text("")
    assert cli.main(["segment", "a.nii", "--output", str(tmp_path / "afile" / below)]) == 1
    assert capsys.readouterr().err == "'afile' is a file, not a folder; choose another name.\n"
