"""Slice views without a window, drawn by Slicer's own displayable managers, and pictures of them."""

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

DISPLAYABLE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)

LAYOUTS = {
    "Red": ("Axial", (0.953, 0.290, 0.200)),
    "Yellow": ("Sagittal", (0.929, 0.835, 0.298)),
    "Green": ("Coronal", (0.431, 0.690, 0.294)),
}
"""Orientation and bar color of the slice views in Slicer's layouts."""

SUPERSAMPLING = 2
"""Views are drawn enlarged by this factor and then averaged, because outlines and text are not antialiased."""

GAP_PIXELS = 6
GAP_COLOR = (38, 42, 48)
LETTER_COLOR = (0.55, 0.58, 0.62)


class SliceView:
    """A slice logic with displayable managers on an off-screen render window.

    Needs OpenGL, in software at least (EGL or OSMesa on Linux without a display).
    """

    def __init__(self, applicationLogic: slicer.vtkMRMLApplicationLogic, name: str, size: tuple[int, int]) -> None:
        """`name` is one of LAYOUTS, `size` width and height in pixels."""
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window = _renderWindow()
        self._window.SetMultiSamples(8)
        width, height = (SUPERSAMPLING * pixels for pixels in size)
        self._window.SetSize(width, height)
        self._window.AddRenderer(self._renderer)
        # The managers need an interactor; the generic one needs no display.
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)

        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(applicationLogic)
        applicationLogic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(applicationLogic.GetMRMLScene())
        self.sliceNode = self.logic.AddSliceNode(name)
        orientation, color = LAYOUTS[name]
        self.sliceNode.SetOrientation(orientation)
        self.sliceNode.SetLayoutLabel(name[0])
        self.sliceNode.SetLayoutColor(*color)
        self.logic.ResizeSliceNode(width, height)

        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(applicationLogic)
        for manager in DISPLAYABLE_MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._managers = slicer.vtkMRMLDisplayableManagerGroup()
        self._managers.Initialize(factory, self._renderer)
        self._managers.SetMRMLDisplayableNode(self.sliceNode)

        # Replaces the CTK class that draws the blended layers (RGBA) in Slicer.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._layers = vtk.vtkActor2D()
        self._layers.SetMapper(self._mapper)
        self._layers.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._layers)
        self._addLetters(height)

    @property
    def compositeNode(self) -> slicer.vtkMRMLSliceCompositeNode:
        return self.logic.GetSliceCompositeNode()

    def frame(self, center: Iterable[float], extentMm: float) -> None:
        """Show a square of `extentMm` around `center` (RAS, mm), on the nearest slice of voxels."""
        self.logic.FitSliceToBackground()
        width, height, depth = self.sliceNode.GetFieldOfView()
        scale = extentMm / min(width, height)
        self.sliceNode.SetFieldOfView(scale * width, scale * height, depth)
        self.sliceNode.JumpSliceByCentering(*center)
        self.logic.SnapSliceOffsetToIJK()

    def render(self) -> np.ndarray:
        """Render completely; returns uint8 [row from the top, column, RGB]."""
        # Segments of a loaded scene are drawn only when the slice node changes, as in Slicer's layout.
        self.sliceNode.Modified()
        return self.redraw()

    def redraw(self) -> np.ndarray:
        """As `render`, but computes only what has changed, as on a screen."""
        layers = self.logic.GetImageDataConnection()
        self._layers.SetVisibility(layers is not None)
        self._mapper.SetInputConnection(layers)
        return _readPixels(self._window)

    def _addLetters(self, height: int) -> None:
        """Label the left and the upper edge with the patient's side (L, R, P, A, I, S)."""
        sliceToRAS = slicer.util.arrayFromVTKMatrix(self.sliceNode.GetSliceToRAS())
        for column, sign, position in ((0, -1, (0.03, 0.5)), (1, 1, (0.5, 0.97))):
            axis = int(np.abs(sliceToRAS[:3, column]).argmax())
            letter = ("LR", "PA", "IS")[axis][int(sign * sliceToRAS[axis, column] > 0)]
            actor = vtk.vtkTextActor()
            actor.SetInput(letter)
            actor.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
            actor.SetPosition(*position)
            text = actor.GetTextProperty()
            text.SetFontSize(height // 40)
            text.SetColor(LETTER_COLOR)
            text.SetJustificationToCentered()
            text.SetVerticalJustificationToCentered()
            self._renderer.AddViewProp(actor)

    def close(self) -> None:
        """Detach the view from the application; it cannot be used any more."""
        self._managers.SetMRMLDisplayableNode(None)
        self.logic.GetMRMLApplicationLogic().GetSliceLogics().RemoveItem(self.logic)
        self.logic.SetMRMLScene(None)
        self._window.Finalize()


@contextlib.contextmanager
def quiet(verbosity: int = vtk.vtkLogger.VERBOSITY_OFF) -> Iterator[None]:
    """Suppress VTK's messages on stderr above `verbosity` (a level of vtkLogger)."""
    before = vtk.vtkLogger.GetCurrentVerbosityCutoff()
    vtk.vtkLogger.SetStderrVerbosity(verbosity)
    try:
        yield
    finally:
        vtk.vtkLogger.SetStderrVerbosity(before)


def _renderWindow() -> vtk.vtkRenderWindow:
    # Without a display VTK warns for each window before it falls back to off-screen rendering.
    with quiet(vtk.vtkLogger.VERBOSITY_ERROR):
        window = vtk.vtkRenderWindow()
        window.SetOffScreenRendering(True)
        return window


def _readPixels(window: vtk.vtkRenderWindow) -> np.ndarray:
    """Render, and return the averaged picture: uint8 [row from the top, column, RGB]."""
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.ShouldRerenderOff()
    grabber.Update()
    width, height, _depth = grabber.GetOutput().GetDimensions()
    pixels = vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
    blocks = pixels.reshape(height // SUPERSAMPLING, SUPERSAMPLING, width // SUPERSAMPLING, SUPERSAMPLING, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)[::-1]


def renderPicture(renderer: vtk.vtkRenderer, width: int, height: int) -> np.ndarray:
    """Render `renderer` to `width` x `height` pixels: uint8 [row from the top, column, RGB]."""
    window = _renderWindow()
    window.SetSize(SUPERSAMPLING * width, SUPERSAMPLING * height)
    window.AddRenderer(renderer)
    try:
        return _readPixels(window)
    finally:
        window.Finalize()


def joined(pictures: Iterable[np.ndarray], axis: int) -> np.ndarray:
    """Join pictures, uint8 [row, column, RGB], along an axis (0: below, 1: beside each other) with a bar between."""
    parts: list[np.ndarray] = []
    for picture in pictures:
        shape = [*picture.shape]
        shape[axis] = GAP_PIXELS
        parts += [np.full(shape, GAP_COLOR, np.uint8), picture]
    return np.concatenate(parts[1:], axis=axis)


def imageFromPicture(picture: np.ndarray) -> vtk.vtkImageData:
    """Convert uint8 [row from the top, column, RGB] to a VTK image, whose first row is the lowest."""
    image = vtk.vtkImageData()
    image.SetDimensions(picture.shape[1], picture.shape[0], 1)
    image.GetPointData().SetScalars(numpy_to_vtk(picture[::-1].reshape(-1, 3), deep=True))
    return image


def png(picture: np.ndarray) -> bytes:
    writer = vtk.vtkPNGWriter()
    writer.WriteToMemoryOn()
    writer.SetInputData(imageFromPicture(picture))
    writer.Write()
    return vtk_to_numpy(writer.GetResult()).tobytes()
