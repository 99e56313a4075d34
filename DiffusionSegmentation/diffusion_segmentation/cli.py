"""The command `diffusion-segmentation`.

Exit status: 0 success, 1 failure with one plain sentence on stderr, 2 wrong usage, 130 cancelled. With `--json` stdout
contains the result as JSON and nothing else. torch is imported only by the commands that need it, so that help and
usage errors appear at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .arguments import parse
from .errors import DEBUG_VARIABLE, Cancelled, DiffusionSegmentationError, explain
from .runtime import terminal
from .runtime.log import configure_logging

CANCELLED = 130

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (default: sys.argv); return its exit status. Wrong usage exits with 2."""
    options = parse(arguments)
    configure_logging()
    try:
        return COMMANDS[options.command](options)
    except (KeyboardInterrupt, Cancelled):
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(explain(error)[1], file=sys.stderr)
        return 1


def _segment(options: argparse.Namespace) -> int:
    show = _output(options)
    if options.host is not None:
        return _segment_on_host(options, show)
    from . import any_model

    request = any_model.Request(
        volume=_volumes(options),
        **_pick(options, "output model samples steps seed device region_mm spacing keep_samples series dicom"),
        ask=tuple(options.ask),
        compress=True,
        previews=False,
    )
    with terminal.ProgressLine() as progress:
        report = any_model.segment(request, progress=progress).report
    if report.get("input", {}).get("unlike_training"):
        logger.warning(report["warnings"][0])
    return show(report, _summary) or _missing_dicom(report)


def _segment_on_host(options: argparse.Namespace, show: Callable[[Any, Callable[..., str]], int]) -> int:
    if options.series or options.dicom:
        raise DiffusionSegmentationError("A DICOM series cannot be sent to another computer yet; leave out --host.")
    from .remote import run

    chosen = _pick(options, "model samples steps seed device spacing")
    if os.path.isdir(chosen["model"]):
        chosen["model"] = os.path.abspath(chosen["model"])
    chosen |= {"regionMm": options.region_mm, "ask": options.ask or None}
    chosen |= {"compress": True, "keepSamples": options.keep_samples}
    where = options.host, options.host_python, _volumes(options), options.output
    with terminal.ProgressLine() as progress:
        report = run.segment(*where, chosen, progress)
    if report.get("input", {}).get("unlike_training"):
        logger.warning(report["warnings"][0])
    return show(report, _summary)


def _missing_dicom(report: Mapping[str, Any]) -> int:
    """Exit status of a run: 1, with a sentence on stderr, if DICOM objects that were asked for are missing."""
    if missing := report.get("missing_dicom"):
        print(f"The result is complete but for {', '.join(missing)}, which could not be made.", file=sys.stderr)
    return int(bool(missing))


def _volumes(options: argparse.Namespace) -> Any:
    """The file, the files in the order of the model's inputs, or the files by the names of the inputs."""
    named = dict(options.input)
    if len(named) < len(options.input):
        raise DiffusionSegmentationError("An input was given twice with --input; give each one once.")
    return named or (options.volume[0] if len(options.volume) == 1 else tuple(options.volume))


def _update(options: argparse.Namespace) -> int:
    show = _output(options)
    from . import any_model
    from .segmentation.updating import update_request

    chosen = _pick(options, "facts output model device spacing keep_samples series dicom")
    request = update_request(options.result, _volumes(options), **chosen)
    with terminal.ProgressLine() as progress:
        report = any_model.segment(request, progress=progress).report
    return show(report, _summary) or _missing_dicom(report)


def _summary(report: Mapping[str, Any], folder: Path) -> str:
    """The report as text, with the answers to the questions of the run."""
    from .measurements import answer

    return "\n".join(filter(None, [terminal.summary(report, folder), answer.text(report.get("answers", ()))]))


def _ask(options: argparse.Namespace) -> int:
    show = _output(options)
    from .measurements import answer
    from .segmentation.asked import ask

    with terminal.ProgressLine() as line:
        answers = ask(options.result, options.question, terminal.StepCounter(line, "measuring the samples"))
    return show(answers, lambda found, _: answer.text(found))


def _import(options: argparse.Namespace) -> int:
    show = _output(options)
    from .masks.import_masks import ImportRequest, import_masks

    chosen = _pick(options, "volume output labels region_mm spacing keep_samples")
    with terminal.ProgressLine() as progress:
        report = import_masks(ImportRequest(masks=tuple(options.masks), **chosen), progress).report
    return show(report, terminal.summary)


def _add_case(options: argparse.Namespace) -> int:
    show = _output(options)
    from .images import new_case
    from .images.dataset import read_json

    named, review = dict(options.input), options.review
    facts = read_json(review, f"The file '{review.name}'") if review else None
    if len(named) < len(options.input) or len(options.volume) > 1:
        raise DiffusionSegmentationError("Give each input of the case once, with --input NAME=FILE.")
    files = tuple(named.values()) or options.volume[0]
    case = new_case.NewCase(files, options.labels, list(named), options.name, facts)
    result = new_case.add_case(options.data, case)
    for warning in result["warnings"]:
        logger.warning(warning)
    return show(result, lambda added, _: new_case.text(added))


def _cohort(options: argparse.Namespace) -> int:
    """As for other commands, but with 1 if cases failed."""
    if options.device.startswith("cuda:"):
        raise DiffusionSegmentationError("Ray gives each worker its own GPU; leave out the number of --device.")
    show = _output(options)
    from .cohort import run
    from .cohort.key import Settings

    if Path(options.model).is_dir():
        options.model = str(Path(options.model).absolute())  # workers have other working folders
    settings = Settings(**_pick(options, "samples steps seed region_mm spacing"))
    result = run.cohort(
        run.CohortRequest(settings=settings, **_pick(options, "paths output model device workers address"))
    )
    show(result, run.text)
    if not result["failed"]:
        return 0
    print(f"{result['failed']} of {result['cases']} cases failed.", file=sys.stderr)
    return 1


def _models(options: argparse.Namespace) -> int:
    show = _output(options)
    from .model import installed

    if options.action == "list":
        return show(installed.installed(), lambda models, _: terminal.catalogue(models))
    if options.action == "add":
        from . import any_model

        folder = any_model.add(Path(options.target), options.name)
        return show({"folder": str(folder)}, lambda added, _: f"Added the model '{folder.name}' in {folder}")
    dependents = installed.dependents(options.target)
    folder = installed.remove(options.target)
    warning = installed.removal_warning(dependents)
    removed = {"folder": str(folder), "dependents": dependents}
    return show(removed, lambda *_: f"Removed the model '{folder.name}'{f'; {warning}' if warning else ''}")


def _train(options: argparse.Namespace) -> int:
    _require_extra("lightning", "matplotlib")
    from .training import train

    train.main(**_pick(options, "data output config minutes resume start slices on splits"))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    _require_extra("matplotlib")
    show = _output(options)
    from .evaluation import evaluate

    chosen = _pick(options, "model dataset output samples cases seed device window")
    return show(evaluate.evaluate(evaluate.EvaluationRequest(**chosen, steps=tuple(options.steps))), evaluate.text)


def _calibrate(options: argparse.Namespace) -> int:
    _require_extra("lightning", "matplotlib")
    show = _output(options)
    from .calibration import calibrate

    chosen = _pick(options, "model data output cases seed device scans_only intervals")
    return show(calibrate.calibrate(**chosen), calibrate.text)


def _average(options: argparse.Namespace) -> int:
    _require_extra()
    show = _output(options)
    from .training import average

    return show(average.average(**_pick(options, "model other output share")), average.text)


def _study(options: argparse.Namespace) -> int:
    _require_extra("lightning", "matplotlib")
    show = _output(options)
    if options.adapt:
        from .study import adapt

        if len(options.data) > 1:
            raise DiffusionSegmentationError("--adapt takes one task; name one.")
        chosen = options.data[0], options.adapt, options.output, options.device
        return show(adapt.adapt(adapt.AdaptOptions(*chosen)), adapt.text)
    from .study import report, study

    settings = _pick(options, "output budget only seeds slices device")
    return show(study.study(study.StudyOptions(data=tuple(options.data), **settings)), report.text)


def _pick(options: argparse.Namespace, names: str) -> dict[str, Any]:
    """The options with these names, as keyword arguments."""
    return {name: getattr(options, name) for name in names.split()}


def _output(options: argparse.Namespace) -> Callable[[Any, Callable[..., str]], int]:
    """Return the function that prints a result and returns the exit status 0: as JSON, or as `text(result, folder)`.

    With --json stdout is claimed at once, before an import can print.
    """
    show_json = terminal.claim_for_json() if options.json else None

    def show(result: Any, text: Callable[..., str]) -> int:
        show_json(result) if show_json else print(text(result, getattr(options, "output", None)))
        return 0

    return show


def _require_extra(*packages: str) -> None:
    """Raise an error with the command to install unless `packages` and the training code are installed.

    The extension in Slicer contains no training code; pip installs it with the extra [train].
    """
    if not all(importlib.util.find_spec(package) for package in (f"{__package__}.training", *packages)):
        raise DiffusionSegmentationError(
            "Training and evaluation need Lightning and Matplotlib; install them with: "
            "pip install 'diffusion-segmentation[train]'"
        )


def _demo(options: argparse.Namespace) -> int:
    """Run the demo in a process of its own: it needs Slicer's libraries, which the engine does not import."""
    if not all(importlib.util.find_spec(package) for package in ("slicer", "vtkmodules", "DiffusionSegmentationLib")):
        raise DiffusionSegmentationError(
            "The demo needs 3D Slicer's libraries; install them with: pip install 'diffusion-segmentation[demo]'"
        )
    if options.debug:
        os.environ[DEBUG_VARIABLE] = "1"
    command = [sys.executable, "-X", "utf8", "-m", "DiffusionSegmentationLib.headless", *options.rest]
    with subprocess.Popen(command) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the child received the same signal and cleans up
            raise
    return status if status >= 0 else 1  # negative: ended by a signal


def _worker(options: argparse.Namespace) -> NoReturn:
    from .worker import server

    server.main()


def _relay(options: argparse.Namespace) -> NoReturn:
    from .remote.relay import Relay

    Relay(options.host, options.host_python).serve()


def _remote_worker(options: argparse.Namespace) -> NoReturn:
    from .remote import agent

    agent.main()


COMMANDS = {
    "segment": _segment,
    "update": _update,
    "ask": _ask,
    "import": _import,
    "add-case": _add_case,
    "cohort": _cohort,
    "models": _models,
    "train": _train,
    "evaluate": _evaluate,
    "calibrate": _calibrate,
    "average": _average,
    "study": _study,
    "demo": _demo,
    "worker": _worker,
    "relay": _relay,
    "remote-worker": _remote_worker,
}
