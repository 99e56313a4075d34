"""Translation by Slicer's `tr`; on slicer-core, which has no translator, texts are returned as they are.

Import it as `from .i18n import tr as _`: lupdate searches for `_("...")`, and Slicer's `tr` takes the translation
context from the caller's file.
"""

try:
    from slicer.i18n import tr as tr
except ImportError:

    def tr(text: str) -> str:
        return text
