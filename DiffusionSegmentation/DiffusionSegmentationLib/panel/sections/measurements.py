"""Section "Measurements": asks for a measurement of structures in the segmentation and in every sample."""

from collections.abc import Callable, Mapping
from typing import Any

import qt
import slicer

from ...i18n import tr as _
from ...runs.asking import problemOf
from ...runs.dependencies import DependencyError
from ...runs.handover import HandoverError
from ...runs.more_samples import COUNTS, modelOf
from ...scene import answers, questions
from ...scene.display import VOLUME_ROLE
from ...scene.result_nodes import RUN_ATTRIBUTE, reportOf
from ..backend import Backend
from ..plots import dotPlot
from ..widgets import (
    Section,
    chosen,
    enable,
    fillComboBox,
    fitColumns,
    fitRows,
    missingResult,
    setButton,
    setCell,
    signalsBlocked,
)

PLOT_SIZE = 48, 16
QUESTION_COLUMN, PLOT_COLUMN = 0, 2
EACH = "each"
"""In place of structure A: one question for each structure."""


class MeasurementsSection(Section):
    TIMER_MILLISECONDS = 100

    def __init__(self, ui: Any, backend: Backend, startPolling: Callable[[], None]) -> None:
        """`startPolling` lets the runner, and with it the worker, be polled until the worker ends."""
        super().__init__(ui)
        self._backend, self._asker, self._startPolling = backend, backend.asker, startPolling
        self._report: Mapping[str, Any] = {}
        self._problem: str | None = None
        self._failure = ""
        """Why the last question about this result was not answered."""
        self._asked: slicer.vtkMRMLSegmentationNode | None = None
        """The result that the panel asks about."""
        self._filledFor: tuple | None = None
        """Node, report and text colour for which the widgets were last filled."""
        fitColumns(ui.answersTable, QUESTION_COLUMN)
        for name in ("measurement", "structureA", "structureB", "comparison"):
            getattr(ui, f"{name}ComboBox").currentIndexChanged.connect(lambda _index: self._refreshChoices())
        ui.askButton.clicked.connect(self._onAsk)
        self._asker.changed.connect(self._onAsker)
        backend.runner.changed.connect(self._refreshChoices)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        ui, report = self._ui, segmentation and segmentation.GetAttribute(RUN_ATTRIBUTE)
        if segmentation is not self._segmentation:
            self._segmentation, self._failure = segmentation, ""
        problem = missingResult(segmentation) or problemOf(segmentation)
        state = segmentation, report, problem, ui.answersTable.palette.color(qt.QPalette.Text).name()
        if state != self._filledFor:
            self._filledFor = state
            self._report = reportOf(segmentation) if segmentation else {}
            counts = self._sampleCounts(problem is None)
            self._problem = None if counts else problem
            fillComboBox(ui.askSamplesComboBox, counts, chosen(ui.askSamplesComboBox))
            self._fillChoices()
            self._fillTable()
        self._refreshChoices()

    def close(self) -> None:
        """Give up the questions that are being answered, and disconnect from the backend."""
        super().close()
        self._backend.runner.changed.disconnect(self._refreshChoices)
        self._asker.changed.disconnect(self._onAsker)
        self._asker.cancel()

    def _fillChoices(self) -> None:
        ui, report = self._ui, self._report
        known = questions.available(report) if report else {}
        titles = questions.titles()
        structures = {entry["id"]: entry["name"] for entry in report.get("volumes", [])}
        structures |= {questions.ALL: _("All structures together")} if structures else {}
        first = structures | ({EACH: _("Each structure")} if len(structures) > 2 else {})
        comparisons = {"": _("no comparison"), ">": _("greater than"), "<": _("less than")}
        fillComboBox(ui.measurementComboBox, {name: titles[name] for name in known}, chosen(ui.measurementComboBox))
        fillComboBox(ui.structureAComboBox, first, chosen(ui.structureAComboBox))
        second = chosen(ui.structureBComboBox) or [*structures, None][min(1, len(structures))]
        fillComboBox(ui.structureBComboBox, structures, second)
        fillComboBox(ui.comparisonComboBox, comparisons, chosen(ui.comparisonComboBox))

    def _sampleCounts(self, hasSamples: bool) -> dict[int, str]:
        """Texts for the numbers of samples that can be asked; 0 stands for those that the result keeps."""
        report = self._report
        kept = report.get("kept_samples", report["samples"]) if report else 0
        texts = {0: _("the {count} kept").format(count=kept)} if hasSamples else {}
        hasVolume = report and self._segmentation.GetNodeReference(VOLUME_ROLE) is not None
        if hasVolume and modelOf(report, self._backend.models()) is not None:
            texts |= {count: _("draw {count}").format(count=count) for count in COUNTS if count > kept}
        return texts

    def _refreshChoices(self) -> None:
        """Show what the chosen measurement needs, and whether it can be asked for now."""
        ui, name, problem = self._ui, chosen(self._ui.measurementComboBox), self._problem
        measurement = questions.MEASUREMENTS.get(name)
        isPair = measurement is not None and measurement.structures == 2
        isTruth = measurement is not None and measurement.is_truth
        ui.structureBLabel.visible = ui.structureBComboBox.visible = isPair
        ui.structureALabel.text = _("Structure A:") if isPair else _("Structure:")
        ui.comparisonLabel.visible = ui.comparisonComboBox.visible = not isTruth
        ui.thresholdSpinBox.visible = not isTruth and bool(chosen(ui.comparisonComboBox))
        unit = questions.unitText(questions.unitOf(name, self._report)) if measurement else ""
        ui.thresholdSpinBox.suffix = f" {unit}" if unit else ""
        with signalsBlocked(ui.thresholdSpinBox):
            ui.thresholdSpinBox.minimum = measurement.low if measurement else 0.0
            ui.thresholdSpinBox.decimals = {"count": 0, "number": 3}.get(measurement.quantity, 2) if measurement else 2
        enable(problem, ui.measurementComboBox, ui.structureAComboBox, ui.structureBComboBox)
        enable(problem, ui.comparisonComboBox, ui.thresholdSpinBox, ui.askSamplesComboBox)
        if measurement is not None and problem is None:
            ui.measurementComboBox.toolTip = f"{measurement.formula[:1].upper()}{measurement.formula[1:]}."
        if self._asker.busy:
            setButton(ui.askButton, _("Cancel"), _("Stop measuring. Earlier answers are kept."))
        else:
            tip = _("Measure the segmentation and every sample in the background.")
            setButton(ui.askButton, _("Ask"), tip, problem or self._refusal(isPair))
        hasAnswers = ui.answersTable.rowCount > 0
        ui.answersTable.visible = hasAnswers
        explanation = answers.note(self._report) if hasAnswers else ""
        shownProblem = problem if self._segmentation is not None else None
        text = shownProblem or self._asker.status or self._failure or explanation
        ui.measuredLabel.text = text
        ui.measuredLabel.visible = bool(text)

    def _refusal(self, isPair: bool) -> str | None:
        """Why the chosen question cannot be asked now, one sentence, or None."""
        if self._backend.runner.busy:
            return _("A run is active; ask when it has ended.")
        if isPair and chosen(self._ui.structureAComboBox) == chosen(self._ui.structureBComboBox):
            return _("Choose two different structures.")
        return None

    def _fillTable(self) -> None:
        table, report = self._ui.answersTable, self._report
        table.setHorizontalHeaderLabels([_("Question"), _("Answer"), ""])
        for column, tooltip in enumerate(_headerTooltips()):
            table.horizontalHeaderItem(column).setToolTip(tooltip)
        stored = report.get("answers", [])
        table.rowCount = len(stored)
        for row, answer in enumerate(stored):
            question = questions.words(answer, report)
            lines = [", ".join(answers.valueTexts(answer)), *answers.sampleTexts(answer), *answers.beforeTexts(answer)]
            for column, text in enumerate((question, "\n".join(lines))):
                setCell(table, row, column, text, _tooltip(answer, question), centred=column != QUESTION_COLUMN)
            plot = qt.QLabel()
            plot.alignment = qt.Qt.AlignCenter
            plot.toolTip = _tooltip(answer, question)
            plot.pixmap = self._plot(answer)
            table.setCellWidget(row, PLOT_COLUMN, plot)
        table.setColumnWidth(PLOT_COLUMN, PLOT_SIZE[0] + 8)
        fitRows(table)

    def _plot(self, answer: answers.Answer) -> Any:
        """The samples as dots in the colour of the first structure; none for what is true or false."""
        segmentID = answer.get("structures", [""])[0]
        segment = self._segmentation.GetSegmentation().GetSegment(segmentID)
        color = qt.QColor(*(round(255 * part) for part in segment.GetColor())) if segment else qt.QColor(128, 128, 128)
        dots = [] if answers.isTruth(answer) else [value for value in answer["samples"] if value is not None]
        interval = None if "holds" in answer else answer.get("interval90")  # a statement has that of its probability
        return dotPlot(self._ui.answersTable, *PLOT_SIZE, dots, interval, color, answer.get("threshold"))

    def _questions(self) -> list[questions.Question]:
        """The chosen question, or one for each structure other than B."""
        ui = self._ui
        name = chosen(ui.measurementComboBox)
        measurement = questions.MEASUREMENTS[name]
        first, second = chosen(ui.structureAComboBox), (chosen(ui.structureBComboBox),)[: measurement.structures - 1]
        comparison = "" if measurement.is_truth else chosen(ui.comparisonComboBox)
        threshold = ui.thresholdSpinBox.value if comparison else 0.0
        ids = [entry["id"] for entry in self._report["volumes"]] if first == EACH else [first]
        return [questions.Question(name, (one, *second), comparison, threshold) for one in ids if one not in second]

    def _onAsk(self, *_arguments: Any) -> None:
        if self._asker.busy:
            self._asker.cancel()
            return
        self._failure, self._asked = "", self._segmentation
        try:
            self._backend.ask(self._segmentation, self._questions(), chosen(self._ui.askSamplesComboBox) or 0)
        except (DependencyError, HandoverError) as error:
            self._failure = str(error)
            self._refreshChoices()
            return
        self._startPolling()
        self._timer.start()

    def _onTimer(self) -> None:
        self._asker.poll()

    def _onAsker(self) -> None:
        if not self._asker.busy:
            self._timer.stop()
            asked, self._asked = self._asked, None
            if asked is self._segmentation:
                self._failure = self._asker.problem
        self.refresh(self._segmentation if self._segmentation and self._segmentation.GetScene() else None)


def _headerTooltips() -> tuple[str, ...]:
    return (
        _("What was asked, newest first."),
        _("First line: in the segmentation as computed.") + f" {answers.legend()}",
        _("Dots: value in each sample. Horizontal line: 90 % interval. Upright line: the number compared with."),
    )


def _tooltip(answer: answers.Answer, question: str) -> str:
    texts = {0: _("false"), 1: _("true")} if answers.isTruth(answer) else {}
    values = ", ".join(texts.get(value) or answers.numberText(value) for value in answer["samples"])
    text = _("{question}. In the samples: {values} {unit}")
    return text.format(question=question, values=values, unit=questions.unitText(answer["unit"])).rstrip()
