"""A stand-in for the Qt side of 3D Slicer on PySide6 and real MRML, with which the panel runs without Slicer.

It consists of the modules `qt` and `ctk` over PySide6; the qMRML and ctk widgets that the panel uses; a loader for the
real .ui file; `parameterNodeWrapper`, `ScriptedLoadableModule` and `slicer.app` as far as the module calls them. Code
under test sees Qt properties as attributes (`button.text = ...`), as PythonQt has them: PySide6's own `true_property`
feature, switched on for those modules by name.

It does not test: the argument conversions of PythonQt; look, size and behaviour of the real widgets beyond what is
modelled; Slicer's layout, Segment Editor or package installer; types of parameterNodeWrapper that the module does not
use. `DiffusionSegmentationTest` inside Slicer does.
"""

from .application import Application, install
from .pythonqt import likePythonQt

__all__ = ["Application", "install", "likePythonQt"]
