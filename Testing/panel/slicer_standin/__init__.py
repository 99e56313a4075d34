"""A stand-in for the Qt side of 3D Slicer on PySide6, so that the real panel runs without Slicer. Real MRML beneath.

What it is: the modules `qt` and `ctk` over PySide6; the few qMRML and ctk widgets that the panel uses; a loader for the
real .ui file; `parameterNodeWrapper`, `ScriptedLoadableModule` and `slicer.app` as far as the module calls them. Code
under test sees Qt properties as attributes (`button.text = ...`), as PythonQt has them: PySide6's own `true_property`
feature, switched on for those modules by name.

What it does not prove: that PythonQt converts every argument as PySide6 does; how the real widgets look, size
themselves and behave beyond what is modelled; anything of Slicer's layout, Segment Editor or package installer; the
real parameterNodeWrapper's handling of types that ours does not use. `DiffusionSegmentationTest` inside Slicer does.
"""

from .application import Application, install
from .pythonqt import likePythonQt

__all__ = ["Application", "install", "likePythonQt"]
