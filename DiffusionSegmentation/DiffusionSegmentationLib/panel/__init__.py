"""The Qt panel: only this package imports qt."""
