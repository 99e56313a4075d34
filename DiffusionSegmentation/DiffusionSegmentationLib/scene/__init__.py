"""MRML nodes of a result: import, display, overlays, samples, label map, probe. Independent of Qt."""
