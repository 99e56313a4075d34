"""VTK's messages on stderr, kept back where what they say is expected or said better."""

import contextlib
from collections.abc import Iterator

import vtk


@contextlib.contextmanager
def quiet(verbosity: int = vtk.vtkLogger.VERBOSITY_OFF) -> Iterator[None]:
    """Print nothing below `verbosity` (a level of vtkLogger) meanwhile."""
    before = vtk.vtkLogger.GetCurrentVerbosityCutoff()
    vtk.vtkLogger.SetStderrVerbosity(verbosity)
    try:
        yield
    finally:
        vtk.vtkLogger.SetStderrVerbosity(before)
