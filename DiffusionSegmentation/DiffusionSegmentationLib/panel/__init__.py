"""The Qt panel, one file a section."""
