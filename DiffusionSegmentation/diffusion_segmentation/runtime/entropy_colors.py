"""Colours of entropies, the same in Slicer and on pages. Standard library only."""

_PLASMA = "0d0887 43039e 6b00a8 900da4 b12a90 cb4778 e16462 f1834c fca636 fccf25 f0f921"
COLORS = tuple(tuple(byte / 255 for byte in bytes.fromhex(color)) for color in _PLASMA.split())
"""Plasma by Nathaniel Smith and Stefan van der Walt (matplotlib, CC0) at 11 equal steps; linear interpolation is within
0.02 of the original. It is perceptually uniform and safe for color-blind users. Unlike inferno and magma it does not
start with black, which would hide low entropy on dark tissue."""
