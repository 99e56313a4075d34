"""Translation: Slicer's `tr` where Slicer runs, the text itself on slicer-core, which has no translator.

Import it as `from .i18n import tr as _`: lupdate finds `_("...")`, and Slicer's `tr` looks up its caller's file.
"""

try:
    from slicer.i18n import tr
except ImportError:

    def tr(text: str) -> str:
        return text


__all__ = ["tr"]
