"""Layout: at common panel widths no text is cut, no row is hidden and no widgets overlap."""

import time

import pytest
import slicer
import slicer.util
import slicer_standin

slicer_standin.likePythonQt(__name__)

WIDTHS = [400, 450, 560]
SCREEN = 1000 - 235
"""Height in pixels of a module panel on a screen of 1,000 pixels, without title, menus, tool bars, help, data probe and
status bar."""


@pytest.fixture
def modulePanel(application):
    """The scroll area in which Slicer shows the module."""
    from slicer_standin.widgets import qSlicerModulePanel

    area = qSlicerModulePanel()
    area.show()
    yield area
    area.setModule(None)
    area.hide()


@pytest.fixture
def opened(openPanel, addHead, run, modulePanel, application, mrmlScene):
    """The panel at a given width after a run with the structures of the included model."""

    def open_(width):
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(mrmlScene)
        for name in ("Red", "Yellow", "Green"):
            mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", name).SetLayoutName(name)
        addHead("MRHead of a patient with a long name")
        module = openPanel("seven", "0.01")
        modulePanel.resize(width, 900)
        enter(module, modulePanel)
        run(module, samples=4)
        settle(application)
        return module

    return open_


def enter(module, modulePanel):
    modulePanel.setModule(module.root)
    module.root.isEntered = True
    module.widget.enter()


def leave(module, modulePanel):
    module.root.isEntered = False
    modulePanel.setModule(None)


def settle(application):
    for _turn in range(30):
        application.processEvents()
        time.sleep(0.002)


def shownWidgets(module):
    """Yields name, widget and rectangle in the panel of each visible widget."""
    import qt

    kinds = qt.QLabel, qt.QPushButton, qt.QCheckBox, qt.QComboBox, qt.QSpinBox, qt.QTableWidget, qt.QSlider
    for name, widget in sorted(vars(module.ui).items()):
        if isinstance(widget, kinds) and widget.visible:
            corner = widget.mapTo(module.root, qt.QPoint(0, 0))
            yield name, widget, qt.QRect(corner, widget.size)


def faults(module):
    """Returns one line for each widget that is cut or overlaps another one."""
    import qt

    problems = []
    shown = list(shownWidgets(module))
    for name, widget, place in shown:
        if isinstance(widget, qt.QLabel) and widget.text:
            if widget.wordWrap and widget.heightForWidth(widget.width) > widget.height:
                problems.append(f"{name} needs {widget.heightForWidth(widget.width)} pixels, has {widget.height}")
            if not widget.wordWrap and widget.sizeHint.width() > widget.width:
                problems.append(f"{name} is cut")
        if isinstance(widget, (qt.QPushButton, qt.QCheckBox)):
            frame = 8 if isinstance(widget, qt.QPushButton) else 22
            if widget.fontMetrics().horizontalAdvance(widget.text) + frame > widget.width:
                problems.append(f"{name} is cut: {widget.text}")
        if isinstance(widget, qt.QTableWidget):
            problems += tableFaults(name, widget)
        if place.right() >= module.root.width or place.bottom() >= module.root.height:
            problems.append(f"{name} leaves the panel")
    needed = module.root.layout().totalMinimumSize().width()
    if needed > module.root.width:
        problems.append(f"the panel needs {needed} pixels, has {module.root.width}")
    for index, (name, _widget, place) in enumerate(shown):
        problems += [
            f"{name} and {other} overlap" for other, _w, there in shown[index + 1 :] if place.intersects(there)
        ]
    return problems


def tableFaults(name, table):
    import qt

    problems = []
    metrics, header = table.fontMetrics(), table.horizontalHeader()
    for column in (column for column in range(table.columnCount) if not table.isColumnHidden(column)):
        title = table.horizontalHeaderItem(column).text()
        needed = header.fontMetrics().boundingRect(qt.QRect(0, 0, 1000, 1000), 0, title)
        if needed.width() > table.columnWidth(column) or needed.height() > header.height:
            problems.append(f"{name}: the title {title!r} is cut")
        for row in range(table.rowCount):
            item = table.item(row, column)
            if item is None:
                continue
            inside = qt.QRect(0, 0, table.columnWidth(column) - 6, 1000)
            needed = metrics.boundingRect(inside, qt.Qt.TextWordWrap, item.text())
            if needed.width() > inside.width() or needed.height() > table.rowHeight(row):
                problems.append(f"{name}: {item.text()!r} is cut")
    if name == "volumesTable" and table.rowCount:
        last = table.rowCount - 1
        bottom = table.rowViewportPosition(last) + table.rowHeight(last)
        if bottom > table.viewport().height:
            problems.append(f"{name}: the last row ends at {bottom} of {table.viewport().height} pixels")
    return problems


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_and_nothing_overlaps(opened, application, width):
    module = opened(width)
    ui = module.ui
    assert faults(module) == []
    for click in (
        ui.nextButton.click,
        ui.sampleCheckBox.click,
        ui.detailsCheckBox.click,
        ui.uncertainOnlyCheckBox.click,
        lambda: setattr(ui.advancedCollapsibleButton, "collapsed", False),
        lambda: setattr(ui.runOnComboBox, "currentIndex", ui.runOnComboBox.findData("ssh")),
        lambda: setattr(ui.batchCollapsibleButton, "collapsed", False),
        lambda: setattr(ui.cohortCollapsibleButton, "collapsed", False),
        ui.detailsCheckBox.click,
    ):
        click()
        settle(application)
        assert faults(module) == []


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_layout_of_a_scene_opened_from_another_module(opened, modulePanel, application, mrmlScene, tmp_path, width):
    module = opened(width)
    module.ui.detailsCheckBox.click()
    path = tmp_path / "case.mrb"
    assert mrmlScene.WriteToMRB(str(path))
    for _turn in range(2):
        leave(module, modulePanel)
        mrmlScene.Clear(False)
        settle(application)
        assert application.headless.logic.OpenSlicerDataBundle(str(path), str(tmp_path))
        settle(application)
        enter(module, modulePanel)
        settle(application)
        assert module.ui.volumesTable.rowCount == 7 and module.ui.volumesLabel.visible
        assert faults(module) == []


@pytest.mark.slow
def test_layout_at_another_width(opened, modulePanel, application):
    module = opened(560)
    module.ui.detailsCheckBox.click()
    for width in (400, 450, 420, 560):
        modulePanel.resize(width, 900)
        settle(application)
        assert faults(module) == []


def test_layout_with_a_larger_font(opened, application):
    import qt

    module = opened(560)
    module.ui.detailsCheckBox.click()
    before = qt.QApplication.font()
    try:
        larger = qt.QFont(before)
        larger.setPointSizeF(1.2 * before.pointSizeF())
        qt.QApplication.setFont(larger)
        settle(application)
        assert faults(module) == []
    finally:
        qt.QApplication.setFont(before)


@pytest.mark.slow
def test_the_review_buttons_are_visible_without_scrolling(opened, application):
    import qt

    module = opened(400)
    module.ui.nextButton.click()
    settle(application)
    assert module.ui.volumesTable.rowCount == 7 and module.ui.regionTable.rowCount >= 5
    bottom = module.ui.skipButton.mapTo(module.root, qt.QPoint(0, module.ui.skipButton.height)).y()
    print(f"the review's buttons end at {bottom} pixels")
    assert bottom <= SCREEN


def test_cut_and_overlapping_widgets_are_detected(opened, application):
    """Negative control: faults that are made here are found."""
    module = opened(400)
    ui = module.ui
    ui.nextButton.setFixedWidth(20)
    ui.reviewLabel.setFixedHeight(10)
    ui.volumesTable.setFixedHeight(60)
    ui.skipButton.move(ui.flagButton.pos)
    texts = "\n".join(faults(module))
    for words in ("nextButton is cut", "reviewLabel needs", "volumesTable: the last row", "overlap"):
        assert words in texts
