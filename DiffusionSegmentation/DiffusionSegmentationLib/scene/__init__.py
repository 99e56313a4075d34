"""Results as MRML nodes: import, display and slice views. No qt."""
